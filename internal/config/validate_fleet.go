package config

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/fleet/discovery/bucketurl"
)

// The limits of what is published, which the CustomResourceDefinition has too.
const (
	maxPublish = 8
	maxURL     = 512
	week       = 7 * 24 * time.Hour
)

var (
	projectPattern  = regexp.MustCompile(`^[a-z][-a-z0-9.:]{4,61}[a-z0-9]$`)
	locationPattern = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`)
	// urlPattern is the one of the CustomResourceDefinition.
	urlPattern = regexp.MustCompile(`^https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?` +
		`(/([-A-Za-z0-9._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)*$`)
	// detourPattern finds parts of a path that lead elsewhere than it seems; policy keyturn-valid-specs has it too.
	detourPattern = regexp.MustCompile(`(^|/)[.]{1,2}(/|$)|%2[EeFf]`)
)

// published validates the issuer, and where its documents are published.
func (d *decoder) published(k KSASigningKey) {
	const issuer, publish = "ksaSigningKey.issuer", "ksaSigningKey.publish"
	if k.Issuer != "" {
		d.httpsURL(issuer, k.Issuer)
	}
	if n := len(k.Publish); n > maxPublish {
		d.problem(publish, "has %d URLs; keys are published at %d at most", n, maxPublish)
	}
	if len(k.Publish) > 0 && k.Issuer == v1alpha1.DefaultIssuer {
		d.problem(publish,
			"needs an issuer: verifiers fetch the documents from ksaSigningKey.issuer, and nobody outside the cluster can "+
				"fetch any from %s", k.Issuer)
	}
	for i, bucket := range k.Publish {
		path := fmt.Sprintf("%s[%d]", publish, i)
		if len(bucket) > maxURL {
			d.problem(path, "has %d characters; it may have %d", len(bucket), maxURL)
		}
		d.bucket(path, bucket)
		if slices.Contains(k.Publish[:i], bucket) {
			d.problem(path, "is there already")
		}
	}
	d.between("ksaSigningKey.publishMaxAge", *k.PublishMaxAge)
}

func (d *decoder) bucket(path, value string) {
	u, err := bucketurl.Parse(value)
	switch {
	case err != nil:
		d.problem(path, "%v", err)
	case strings.Contains(value, "#"):
		d.problem(path, "must not have a fragment")
	case detourPattern.MatchString(u.EscapedPath()):
		d.problem(path, "must name its directory without . and .. and encoded slashes")
	}
}

// gkeConnect validates all of it but the files that it names.
func (d *decoder) gkeConnect(g GKEConnect) {
	const path = "gkeConnect"
	if d.required(path+".projectID", g.ProjectID) && !projectPattern.MatchString(g.ProjectID) {
		d.problem(path+".projectID", "%q is not the ID of a project, like my-project-123", g.ProjectID)
	}
	if !locationPattern.MatchString(g.Location) {
		d.problem(path+".location", "%q is not a location, like us-central1 or global", g.Location)
	}
	if g.Endpoint != "" {
		d.httpsURL(path+".endpoint", g.Endpoint)
	}
	if g.STSEndpoint != "" {
		d.httpsURL(path+".stsEndpoint", g.STSEndpoint)
	}
	d.between(path+".propagationTime", g.PropagationTime)
}

// httpsURL wants an https URL that ends with its host or path, in one way of writing it only: verifiers compare
// issuers as strings. A URL that is not one is not quoted, since it may hold a password.
func (d *decoder) httpsURL(path, value string) {
	u, err := url.Parse(value)
	switch {
	case len(value) > maxURL:
		d.problem(path, "has %d characters; it may have %d", len(value), maxURL)
	case err != nil || u.Scheme != "https" || u.Hostname() == "":
		d.problem(path, "must be a URL like https://example.com")
	case u.User != nil:
		d.problem(path, "must not hold a user name or a password")
	case strings.ContainsAny(value, "?#"):
		d.problem(path, "must not have a query or a fragment")
	case strings.HasSuffix(u.Path, "/"):
		d.problem(path, "must not end with a slash")
	case u.String() != value || !urlPattern.MatchString(value):
		d.problem(path,
			"must be a URL like https://example.com/path, without empty parts and with special characters encoded")
	}
}

// short is a duration without the zeros at its end: 168h, not 168h0m0s.
func short(d time.Duration) string {
	text := d.String()
	if rest, ok := strings.CutSuffix(text, "m0s"); ok {
		text = rest + "m"
	}
	if rest, ok := strings.CutSuffix(text, "h0m"); ok {
		text = rest + "h"
	}
	return text
}
