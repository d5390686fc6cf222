package bucketurl_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/fleet/discovery/bucketurl"
)

func TestGood(t *testing.T) {
	for _, url := range []string{
		"file:///var/www/blue",
		"file://localhost/var/www/blue?create_dir=true&metadata=skip&no_tmp_dir=true&prefix=clusters/blue/",
		"s3://bucket",
		"s3://my.bucket-1?region=eu-west-1&prefix=a/&profile=p&role=arn:aws:iam::1:role/r" +
			"&ssetype=aws:kms&kmskeyid=k&dualstack=true&fips=false&accelerate=true",
		"s3://bucket?endpoint=http://127.0.0.1:9000&use_path_style=true&disable_https=true&hostname_immutable=true" +
			"&request_checksum_calculation=when_required&response_checksum_validation=when_required",
		"s3://bucket?endpoint=https://minio:9000/&s3ForcePathStyle=true",
		"gs://my_bucket?prefix=clusters/blue/",
		"azblob://oidc?storage_account=keyturn1",
		"azblob://$web?prefix=blue/",
	} {
		if err := bucketurl.Validate(url); err != nil {
			t.Errorf("%s %v", url, err)
		}
	}
}

// TestBad has one thing wrong with each URL, and wants one line about it that does not quote the URL.
func TestBad(t *testing.T) {
	for url, want := range map[string]string{
		"":                                     "must begin with",
		"bucket":                               "must begin with",
		"://hunter2":                           "is not a URL",
		"s3://hunter2\x7f":                     "is not a URL",
		"https://bucket.s3.amazonaws.com":      "must begin with file://, s3://, gs:// or azblob://",
		"mem://bucket":                         "must begin with",
		"S3:bucket":                            "must have the form",
		"s3://hunter2:hunter2@bucket":          "no user or password",
		"s3://bucket#hunter2":                  "without a fragment",
		"s3://":                                "must name a bucket",
		"s3://bucket:443":                      "must name a bucket",
		"gs://?prefix=a/":                      "must name a bucket",
		"s3://bucket/blue":                     "with ?prefix=path/to/folder/",
		"s3://bucket/":                         "with ?prefix=path/to/folder/",
		"file://":                              "must name a directory",
		"file:///":                             "must name a directory",
		"file:///var/..":                       "must name a directory",
		"file://./www":                         "absolute",
		"file://www/blue":                      "absolute",
		"file:www":                             "must have the form",
		"file:///www?create_dir=hunter2":       "create_dir must be true or false",
		"file:///www?metadata=":                "metadata must be skip",
		"file:///www?no_tmp_dir=":              "no_tmp_dir must be true",
		"file:///www?secret_key_path=/hunter2": "it takes create_dir, metadata, no_tmp_dir, prefix",
		"s3://bucket?region=":                  "region must be a region",
		"s3://bucket?region=evil.example/":     "region must be a region",
		"s3://bucket?profile=":                 "profile must be something",
		"s3://bucket?region=a&region=b":        "region more than once",
		"s3://bucket?a=%zz":                    "do not parse",
		"s3://bucket?AWS_SECRET_ACCESS_KEY=hunter2":     "does not take",
		"s3://bucket?hunter2":                           "does not take",
		"s3://bucket?anonymous=true":                    "does not take",
		"s3://bucket?endpoint=minio:9000":               "endpoint must be an http or https URL",
		"s3://bucket?endpoint=http://u:hunter2@m":       "endpoint must be",
		"s3://bucket?endpoint=http://m%3Fsig=hunter2":   "endpoint must be",
		"s3://bucket?request_checksum_calculation=no":   "when_supported or when_required",
		"s3://bucket?prefix=":                           "prefix must be a folder",
		"s3://bucket?prefix=blue":                       "prefix must be a folder",
		"s3://bucket?prefix=/":                          "prefix must be a folder",
		"s3://bucket?prefix=/blue/":                     "prefix must be a folder",
		"file:///www?prefix=../":                        "prefix must be a folder",
		"file:///www?prefix=a/../../b/":                 "prefix must be a folder",
		"file:///www?prefix=./":                         "prefix must be a folder",
		"gs://bucket?prefix=a//":                        "prefix must be a folder",
		"gs://bucket?universe_domain=hunter2.example":   "does not take",
		"gs://bucket?private_key_path=/hunter2":         "does not take",
		"azblob://oidc?domain=hunter2.example":          "does not take",
		"azblob://oidc?storage_account=hunter2.example": "storage_account must be the name of a storage account",
		"azblob://oidc?storage_account=hunter2%2Fa":     "storage_account must be",
	} {
		err := bucketurl.Validate(url)
		if err == nil {
			t.Errorf("%s is taken", url)
			continue
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %q, want something with %q", url, err, want)
		}
		if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error is more than one line, or quotes the URL: %v", url, err)
		}
	}
}

func TestWithin(t *testing.T) {
	for _, test := range []struct {
		url, bound string
		want       bool
	}{
		{"s3://b", "s3://b", true},
		{"s3://b?region=eu-west-1&prefix=blue/&fips=true", "s3://b", true},
		{"s3://b?prefix=blue/", "s3://b?prefix=blue/", true},
		{"s3://b?prefix=blue/deep/", "s3://b?prefix=blue/", true},
		{"s3://b?prefix=blues/", "s3://b?prefix=blue/", false},
		{"s3://b", "s3://b?prefix=blue/", false},
		{"s3://bb", "s3://b", false},
		{"gs://b", "s3://b", false},
		{"s3://b?endpoint=https://evil.example", "s3://b", false},
		{"s3://b?endpoint=https://minio:9000", "s3://b?endpoint=https://minio:9000", true},
		{"s3://b", "s3://b?endpoint=https://minio:9000", false},
		{"s3://b?profile=admin", "s3://b", false},
		{"s3://b?role=arn:aws:iam::1:role/r", "s3://b", false},
		{"s3://b?disable_https=true", "s3://b", false},
		{"s3://b?hostname_immutable=true", "s3://b", false},
		{"s3://b?kmskeyid=k", "s3://b", false},
		{"azblob://c?storage_account=other1", "azblob://c", false},
		{"azblob://c?storage_account=keyturn1&prefix=a/", "azblob://c?storage_account=keyturn1", true},
		{"file:///srv/oidc", "file:///srv", true},
		{"file://localhost/srv/oidc?create_dir=true", "file:///srv", true},
		{"file:///srv?prefix=oidc/", "file:///srv/oidc", true},
		{"file:///srv", "file:///srv/oidc", false},
		{"file:///srvs", "file:///srv", false},
		{"file:///srv/../etc", "file:///srv", false},
		{"file:///srv/%2e%2e/etc", "file:///srv", false},
		{"file:///etc", "file:///srv", false},
	} {
		u, err := bucketurl.Parse(test.url)
		if err != nil {
			t.Fatalf("%s: %v", test.url, err)
		}
		bound, err := bucketurl.Parse(test.bound)
		if err != nil {
			t.Fatalf("%s: %v", test.bound, err)
		}
		if got := bucketurl.Within(u, bound); got != test.want {
			t.Errorf("%s within %s: %v", test.url, test.bound, got)
		}
	}
}

func TestSame(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want bool
	}{
		{"s3://b?region=eu-west-1&prefix=a/", "s3://b?prefix=a/", true},
		{"file:///srv/a", "file://localhost/srv?prefix=a/&create_dir=true", true},
		{"s3://b", "s3://b?prefix=a/", false},
		{"s3://b", "gs://b", false},
		{"nothing", "nothing", false},
	} {
		if got := bucketurl.Same(test.a, test.b); got != test.want {
			t.Errorf("%s and %s are the same: %v", test.a, test.b, got)
		}
	}
}

// TestSmall keeps the libraries of the clouds out of programs that only check URLs.
func TestSmall(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for dep := range strings.FieldsSeq(string(out)) {
		first, _, _ := strings.Cut(dep, "/")
		if strings.Contains(first, ".") &&
			!strings.HasPrefix(dep, "github.com/keyturn/keyturn/internal/fleet/discovery/bucketurl") {
			t.Errorf("package bucketurl imports %s", dep)
		}
	}
}
