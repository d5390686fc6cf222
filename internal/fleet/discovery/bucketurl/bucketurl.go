// Package bucketurl parses the URLs of the buckets and directories that discovery documents are published to.
//
// It is separate from package discovery, which links the libraries of three clouds, so that a program can check a
// configuration file and stay small. It accepts the URLs of gocloud.dev/blob that publishing needs:
//
//	file:///var/www/blue                          a directory that a web server serves
//	s3://bucket?region=eu-west-1                  Amazon S3
//	s3://bucket?region=x&endpoint=https://host    a store that speaks its protocol
//	gs://bucket                                   Google Cloud Storage
//	azblob://container?storage_account=name       Azure Blob Storage
//
// Each also accepts ?prefix=clusters/blue/: the folder that the issuer's URL leads to. A URL contains no credentials,
// so it may be shown. But it may choose where the controller's credentials are sent, and which of them: the endpoint of
// an S3 store, a profile, a role. So whoever may not have the controller's credentials may only use URLs that are
// Within one that its administrator chose. The parameters of gocloud.dev that move a Google or Azure endpoint are not
// accepted: the environment of the controller sets such things (AZURE_STORAGE_DOMAIN and others).
package bucketurl

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// check returns what a value must be; empty if it is valid.
type check func(value string) string

// parameters are the parameters of each scheme.
var parameters = map[string]map[string]check{
	"file": {
		"prefix":     folder,
		"create_dir": boolean,
		// This is the only behavior; the parameter is accepted because the documentation of gocloud.dev recommends it.
		"no_tmp_dir": only("true"),
		"metadata":   only("skip"),
	},
	"s3": {
		"prefix":                       folder,
		"region":                       region,
		"endpoint":                     endpoint,
		"profile":                      text,
		"role":                         text,
		"use_path_style":               boolean,
		"s3ForcePathStyle":             boolean,
		"disable_https":                boolean,
		"hostname_immutable":           boolean,
		"dualstack":                    boolean,
		"fips":                         boolean,
		"accelerate":                   boolean,
		"ssetype":                      text,
		"kmskeyid":                     text,
		"request_checksum_calculation": checksums,
		"response_checksum_validation": checksums,
	},
	"gs":     {"prefix": folder},
	"azblob": {"prefix": folder, "storage_account": account},
}

var (
	// A dollar sign begins the names of Azure's own containers, like $web.
	bucketPattern  = regexp.MustCompile(`^[$]?[A-Za-z0-9][A-Za-z0-9._-]*$`)
	accountPattern = regexp.MustCompile(`^[a-z0-9]{3,24}$`)
	regionPattern  = regexp.MustCompile(`^[A-Za-z0-9-]{1,63}$`)
)

// Validate returns what is wrong with a URL, and what is allowed. It checks only the URL, not whether the bucket
// exists. Its errors quote no value of the URL, since an invalid one may contain a secret.
func Validate(raw string) error {
	_, err := Parse(raw)
	return err
}

// Parse parses a URL that must be valid as Validate defines it.
func Parse(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("is not a URL like s3://bucket?region=eu-west-1")
	}
	known, ok := parameters[u.Scheme]
	if !ok {
		return nil, errors.New("must begin with file://, s3://, gs:// or azblob://")
	}
	if err := checkBucket(u); err != nil {
		return nil, err
	}
	return u, checkParameters(u, known)
}

// checkBucket checks the part before the parameters.
func checkBucket(u *url.URL) error {
	switch {
	case u.User != nil:
		return errors.New("must hold no user or password: credentials come from the environment of the controller")
	case u.Opaque != "" || u.Fragment != "":
		return errors.New("must have the form scheme://bucket?parameter=value, without a fragment")
	case u.Scheme == "file":
		return checkDirectory(u)
	case !bucketPattern.MatchString(u.Host):
		return fmt.Errorf("must name a bucket after %s://, with letters, digits, dots, dashes and underscores", u.Scheme)
	case u.Path != "":
		return errors.New("must have no path: name a folder of the bucket with ?prefix=path/to/folder/")
	}
	return nil
}

func checkDirectory(u *url.URL) error {
	if u.Host != "" && u.Host != "localhost" {
		return errors.New("must name an absolute directory, like file:///var/www/blue")
	}
	if u.Path == "" || path.Clean(u.Path) == "/" {
		return errors.New("must name a directory other than the root, like file:///var/www/blue")
	}
	return nil
}

func checkParameters(u *url.URL, known map[string]check) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("has parameters that do not parse: they have the form ?name=value&name=value")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		value, ok := known[name]
		if !ok {
			return fmt.Errorf("has a parameter that %s:// does not take; it takes %s",
				u.Scheme, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if len(query[name]) > 1 {
			return fmt.Errorf("has parameter %s more than once", name)
		}
		if must := value(query[name][0]); must != "" {
			return fmt.Errorf("parameter %s must be %s", name, must)
		}
	}
	return nil
}

func text(value string) string {
	if value == "" {
		return "something"
	}
	return ""
}

// region is a part of a host name.
func region(value string) string {
	if !regionPattern.MatchString(value) {
		return "a region, like eu-west-1"
	}
	return ""
}

func boolean(value string) string {
	if _, err := strconv.ParseBool(value); err != nil {
		return "true or false"
	}
	return ""
}

func only(one string) check {
	return func(value string) string {
		if value != one {
			return one + ", or left out"
		}
		return ""
	}
}

func checksums(value string) string {
	if value != "when_supported" && value != "when_required" {
		return "when_supported or when_required"
	}
	return ""
}

func account(value string) string {
	if !accountPattern.MatchString(value) {
		return "the name of a storage account: 3 to 24 lower-case letters and digits"
	}
	return ""
}

// folder refuses prefixes that are not a folder, since gocloud.dev puts a prefix unchanged before each name.
func folder(value string) string {
	name, isFolder := strings.CutSuffix(value, "/")
	if !isFolder || name == "" || path.Clean("/"+name) != "/"+name {
		return `a folder of the bucket, like "clusters/blue/": without a slash at the beginning and with one at the end`
	}
	return ""
}

func endpoint(value string) string {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" ||
		u.Fragment != "" {
		return "an http or https URL without a user, parameters or a fragment"
	}
	return ""
}
