package bucketurl

import (
	"net/url"
	"path"
	"slices"
	"strings"
)

// harmless are the parameters that choose neither a store nor credentials.
var harmless = []string{
	"prefix", "create_dir", "no_tmp_dir", "metadata", "region", "use_path_style", "s3ForcePathStyle", "dualstack", "fips",
	"accelerate", "ssetype", "request_checksum_calculation", "response_checksum_validation",
}

// Within reports whether what is published to a URL stays within another: in the same bucket, or in the same directory
// or one below it, and below its prefix. All parameters that choose a store or credentials must be equal in both.
func Within(u, bound *url.URL) bool {
	if u.Scheme != bound.Scheme || !strings.HasPrefix(location(u)+"/", strings.TrimSuffix(location(bound), "/")+"/") {
		return false
	}
	is, want := u.Query(), bound.Query()
	for _, query := range []url.Values{is, want} {
		for name := range query {
			if !slices.Contains(harmless, name) && is.Get(name) != want.Get(name) {
				return false
			}
		}
	}
	return true
}

// Same reports whether two URLs may lead to the same objects, even if they are written differently.
func Same(a, b string) bool {
	u, errU := Parse(a)
	v, errV := Parse(b)
	return errU == nil && errV == nil && u.Scheme == v.Scheme && location(u) == location(v)
}

// location returns the bucket and folder, or the directory, that a URL leads to.
func location(u *url.URL) string {
	host := u.Host
	if u.Scheme == "file" {
		host = "" // or localhost
	}
	return path.Join("/", host, u.Path, u.Query().Get("prefix"))
}
