// Package discovery publishes the OpenID Connect discovery document and the JWKS of a cluster's issuer to a bucket or a
// directory, for verifiers that fetch them from the issuer's URL: AWS IAM, Microsoft Entra ID, workload identity pools
// of Google Cloud, and everything else that speaks OpenID Connect.
//
// Start with New. A Bucket is a fleet.Publisher; package bucketurl defines which URLs it accepts. It writes two
// objects, which must be served below the issuer's URL, and no others:
//
//	.well-known/openid-configuration
//	openid/v1/jwks
//
// # Ownership
//
// Both objects carry the UID of their UserCluster. A Bucket never changes or removes an object that carries another
// UID, is of another issuer, or holds a key that the cluster does not have. The JWKS also carries the fleet.Stage of
// its keys: a Bucket does not go back to an earlier one.
//
// # The order of writes
//
// Each object is replaced atomically, so no verifier ever reads half a document. Writes happen one after another:
//
//   - The JWKS is there before a discovery document points at it, and goes after it.
//   - While a key is in the JWKS, its algorithm is in the discovery document: that gets a new algorithm before
//     the JWKS gets the key, and loses an old one after.
//   - The JWKS holds the keys of the last Publish or of the one before, and never any other.
//
// A crash between two writes leaves documents that work. Observe reports the difference, and the next Publish fixes it.
//
// # Caches
//
// Verifiers may cache a document for Options.MaxAge, its Cache-Control header. CertainAt counts from the time that the
// store gives the newest object or, if this process wrote it and its clock is later, from that. So the clock of the
// store matters only after a restart. Shorten MaxAge only while no rotation runs: what was fetched before is cached for
// the earlier time. A web server in front of a directory sets its own headers, and so does a CDN in front of a bucket:
// they must not let anybody cache a document for longer than MaxAge.
//
// # Credentials
//
// They come from the environment of the controller, as the libraries of the clouds read it:
//
//   - s3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, AWS_WEB_IDENTITY_TOKEN_FILE with AWS_ROLE_ARN, or
//     the role of the machine; AWS_REGION unless the URL has a region. Allow s3:GetObject, s3:PutObject and
//     s3:DeleteObject on the objects, and s3:ListBucket on the bucket: without it, S3 refuses to tell that an object is
//     not there.
//   - gs: GOOGLE_APPLICATION_CREDENTIALS, or the service account of the machine, with roles/storage.objectUser on the
//     bucket.
//   - azblob: AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET or AZURE_FEDERATED_TOKEN_FILE, or the managed
//     identity of the machine, with the role Storage Blob Data Contributor on the container; or AZURE_STORAGE_KEY or
//     AZURE_STORAGE_SAS_TOKEN. AZURE_STORAGE_ACCOUNT unless the URL has a storage_account.
//   - file: none; the directory and those above it must belong to root or to the user of the controller, and nobody
//     else may write to them. No symbolic link is followed. What is made there can be read by everybody, regardless of
//     the umask: the objects and the directories in between. No files but the objects are left there.
//
// The objects must be publicly readable, too. That is a setting of the bucket, which Keyturn does not change.
package discovery

import (
	"github.com/keyturn/keyturn/internal/hint"

	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleet/discovery/bucketurl"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

// Options describe what is published where.
type Options struct {
	// Cluster is the UID of the UserCluster, which marks the objects.
	Cluster string
	// URL names the bucket or directory; see package bucketurl.
	URL string
	// Issuer is the issuer of the cluster's tokens, an https URL below which the bucket is served.
	Issuer string
	// MaxAge is how long a verifier may cache a document. The Cache-Control header omits fractions of a second.
	MaxAge time.Duration
	// Now is the clock; nil: time.Now.
	Now func() time.Time
}

// Bucket is a bucket or a directory that the documents of one issuer are published to.
type Bucket struct {
	o       Options
	url     *url.URL
	store   store
	wroteAt time.Time // when this process last wrote
}

var _ fleet.Publisher = (*Bucket)(nil)

// New returns the bucket of a URL. It does not connect; the first call does, and each call after one that failed.
func New(o Options) (*Bucket, error) {
	u, err := bucketurl.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("URL of the bucket to publish to: %w", err)
	}
	if err := checkIssuer(o.Issuer); err != nil {
		return nil, fmt.Errorf("issuer to publish to %s: %w", u, err)
	}
	if o.MaxAge < 0 {
		return nil, fmt.Errorf("age of documents published to %s: %v is below 0", u, o.MaxAge)
	}
	if o.Cluster == "" {
		return nil, fmt.Errorf("cluster whose keys are published to %s: the UID is missing", u)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Bucket{o: o, url: u, store: newStore(u)}, nil
}

func checkIssuer(issuer string) error {
	if strings.HasSuffix(issuer, "/") {
		return errors.New("ends with a slash")
	}
	_, err := jwks.NewDiscovery(issuer, issuer+jwks.Path, jwks.Set{})
	return err
}

// Name returns the URL, which contains no secret.
func (b *Bucket) Name() string { return b.url.String() }

// Publish implements fleet.Publisher.
func (b *Bucket) Publish(ctx context.Context, keys []keystore.KeyPair, versions []int) error {
	if err := b.publish(ctx, keys, versions); err != nil {
		return b.failed("publishing to", err)
	}
	return nil
}

func (b *Bucket) publish(ctx context.Context, keys []keystore.KeyPair, versions []int) error {
	own, err := setOf(keys)
	if err != nil {
		return err
	}
	set, err := setOf(fleet.Only(keys, versions))
	if err != nil {
		return err
	}
	if set.Len() == 0 {
		return errors.New("no keys: that would lock every workload out")
	}
	is, err := b.read(ctx)
	if err != nil {
		return err
	}
	stage := fleet.Stage(versions)
	for _, err := range []error{b.checkOwner(is), b.checkStage(is, stage), b.checkKeys(is, own)} {
		if err != nil {
			return err
		}
	}
	if is.discovery.found {
		// First it gets the algorithms of all keys that are in the JWKS before and after the next write.
		if err := b.ensureDiscovery(ctx, union(set, is.keys.data), &is.discovery); err != nil {
			return err
		}
	}
	// A crash here leaves a document with an algorithm that no token uses yet.
	if err := b.ensureJWKS(ctx, set, stage, &is.keys); err != nil {
		return err
	}
	// After a crash here, the document is missing, if it is the first, or has an algorithm that no key uses any more.
	return b.ensureDiscovery(ctx, set, &is.discovery)
}

func (b *Bucket) ensureDiscovery(ctx context.Context, set jwks.Set, is *object) error {
	want, err := b.discoveryDocument(set)
	if err != nil {
		return err
	}
	return b.ensure(ctx, want, is)
}

func (b *Bucket) ensureJWKS(ctx context.Context, set jwks.Set, stage int, is *object) error {
	want, err := b.jwksDocument(set, stage)
	if err != nil {
		return err
	}
	return b.ensure(ctx, want, is)
}

// ensure replaces an object that is not as wanted, and reads it back.
func (b *Bucket) ensure(ctx context.Context, want document, is *object) error {
	if b.difference(want, *is) == "" {
		return nil
	}
	err := b.store.put(ctx, want, *is)
	b.wroteAt = b.o.Now() // after an error too: it may be written
	if err != nil {
		return err
	}
	if *is, err = b.store.get(ctx, want.name); err != nil {
		return err
	}
	if difference := b.difference(want, *is); difference != "" {
		return fmt.Errorf("%s reads back differently than written: it %s", want.name, difference)
	}
	return nil
}

// difference describes what is wrong with an object; empty if nothing is.
func (b *Bucket) difference(want document, is object) string {
	if !is.found {
		return "is missing"
	}
	if difference := want.sameAs(is.data); difference != "" {
		return difference
	}
	switch {
	case b.url.Scheme == "file": // it has no headers
	case is.contentType != want.contentType:
		return "does not have Content-Type " + want.contentType
	case is.cacheControl == "" && b.url.Query().Has("endpoint"): // S3 keeps it; not everything that is like S3 does
	case is.cacheControl != want.cacheControl:
		return "does not have Cache-Control " + want.cacheControl
	}
	return ""
}

// Remove implements fleet.Publisher: it removes the objects that are marked as the cluster's. The directories that
// Publish created stay, empty.
func (b *Bucket) Remove(ctx context.Context) error {
	for _, name := range []string{discoveryName, jwksName} {
		if err := b.remove(ctx, name); err != nil {
			return b.failed("removing from", err)
		}
		// A crash here leaves the JWKS, with nothing pointing to it.
	}
	return nil
}

func (b *Bucket) remove(ctx context.Context, name string) error {
	is, err := b.store.get(ctx, name)
	if isGone(err) || err == nil && markOf(is.data).Cluster != b.o.Cluster {
		return nil
	}
	if err != nil {
		return err
	}
	return b.store.delete(ctx, name)
}

// read reads both objects.
func (b *Bucket) read(ctx context.Context) (served, error) {
	discovery, err := b.store.get(ctx, discoveryName)
	if err != nil {
		return served{}, err
	}
	keys, err := b.store.get(ctx, jwksName)
	return served{discovery: discovery, keys: keys}, err
}

func (b *Bucket) failed(doing string, err error) error {
	if errors.Is(err, fleet.ErrForeign) || errors.Is(err, fleet.ErrStale) { // they contain a hint
		return fmt.Errorf("%s %s: %w", doing, b.Name(), err)
	}
	return hint.Errorf(hints[b.url.Scheme], "%s %s: %w", doing, b.Name(), err)
}

var hints = map[string]string{
	"file": "check that the directory exists, and that it and those above it belong to root or to the user of the " +
		"controller, and nobody else may write to them",
	"s3": "check that the bucket exists, that its region is given by ?region= or AWS_REGION, and that the credentials " +
		"of the controller (AWS_*) may get, put, delete and list its objects",
	"gs": "check that the bucket exists, and that the credentials of the controller (GOOGLE_APPLICATION_CREDENTIALS) " +
		"have roles/storage.objectUser on it",
	"azblob": "check that the container exists, that ?storage_account= or AZURE_STORAGE_ACCOUNT names its account, and " +
		"that the credentials of the controller (AZURE_*) have the role Storage Blob Data Contributor on it",
}
