package discovery_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsouza/fake-gcs-server/fakestorage"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // somebody else's way to write into a directory
	"gocloud.dev/gcerrors"

	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleet/discovery"
	"github.com/keyturn/keyturn/internal/fleet/fleettest"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

const (
	clusterUID    = "0f5ac8ad-8d2b-4c5c-9d1e-0b7f2b8f6a11"
	otherUID      = "5d1c9f1e-6f0e-4d41-8f1e-2c8a3e0a7b22"
	issuer        = "https://oidc.example.com/blue"
	discoveryName = ".well-known/openid-configuration"
	jwksName      = "openid/v1/jwks"
)

func generate(t *testing.T, version int, algorithm string) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newBucket(t *testing.T, url string) *discovery.Bucket {
	t.Helper()
	return newBucketOf(t, url, clusterUID, issuer)
}

// newBucketOf is the bucket of a URL for any cluster.
func newBucketOf(t *testing.T, url, uid, issuer string) *discovery.Bucket {
	t.Helper()
	b, err := discovery.New(discovery.Options{Cluster: uid, URL: url, Issuer: issuer, MaxAge: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// publish publishes all keys that the cluster has.
func publish(t *testing.T, b *discovery.Bucket, keys ...keystore.KeyPair) {
	t.Helper()
	publishOf(t, b, keys, versionsOf(keys)...)
}

// publishOf publishes some of the keys that the cluster has.
func publishOf(t *testing.T, b *discovery.Bucket, keys []keystore.KeyPair, versions ...int) {
	t.Helper()
	if err := b.Publish(t.Context(), keys, versions); err != nil {
		t.Fatal(err)
	}
}

func versionsOf(keys []keystore.KeyPair) (versions []int) {
	for _, k := range keys {
		versions = append(versions, k.Version)
	}
	return versions
}

func observe(t *testing.T, b *discovery.Bucket, keys ...keystore.KeyPair) fleet.Observation {
	t.Helper()
	o, err := b.Observe(t.Context(), keys)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// gate is between a bucket and its store. It counts writes, and makes them fail.
type gate struct {
	store http.Handler

	mu      sync.Mutex
	writes  int
	fault   faults.Fault
	written func(n int) // told of each write that the store has made
	first   func()      // is run before the next write
}

// before has something done before the next write.
func (g *gate) before(do func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.first = do
}

func isWrite(r *http.Request) bool { return r.Method != http.MethodGet && r.Method != http.MethodHead }

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !isWrite(r) {
		g.store.ServeHTTP(w, r)
		return
	}
	g.mu.Lock()
	first := g.first
	g.first = nil
	g.mu.Unlock()
	if first != nil {
		first()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	fault := g.fault
	g.fault = 0
	if g.writes++; fault == faults.Failed {
		refuse(w)
		return
	}
	answer := httptest.NewRecorder()
	g.store.ServeHTTP(answer, r)
	if g.written != nil {
		g.written(g.writes)
	}
	if fault == faults.FailedButPersisted {
		refuse(w)
		return
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = io.Copy(w, answer.Body)
}

// refuse answers as S3, Google and Azure do to somebody who may not write. None of their libraries tries again then.
func refuse(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/xml")
	w.Header().Set("x-ms-error-code", "AuthorizationFailure")
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>AccessDenied</Code><Message>no</Message></Error>`)
}

func (g *gate) Writes() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.writes
}

func (g *gate) Fail(_ *testing.T, fault faults.Fault) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fault = fault
}

// place is an empty bucket in a store of its own, or one of its own in a store that others use too.
type place struct {
	url  string
	gate *gate // nil: a directory
}

func newDirectory(t *testing.T) place { return place{url: "file://" + t.TempDir()} }

func (p place) fixture() fleettest.Destination {
	f := fleettest.Destination{
		Publisher: func(t *testing.T) fleet.Publisher { return newBucket(t, p.url) },
		AddKey:    p.addKey,
		Other:     func(t *testing.T) fleet.Publisher { return newBucketOf(t, p.url, otherUID, issuer) },
	}
	if p.gate != nil {
		f.Writes, f.Fail = p.gate.Writes, p.gate.Fail
	}
	return f
}

func (p place) addKey(t *testing.T, k jwks.Key) {
	set, err := jwks.Parse(p.content(t, jwksName))
	if err != nil {
		t.Fatal(err)
	}
	if set, err = jwks.NewSet(append(set.Keys(), k)...); err != nil {
		t.Fatal(err)
	}
	data, err := set.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	p.replace(t, jwksName, marked(string(data), clusterUID, 2))
}

// marked adds the mark of a cluster to an object.
func marked(object, uid string, stage int) []byte {
	mark := fmt.Sprintf(`,"keyturn.dev/cluster-uid":%q`, uid)
	if stage > 0 {
		mark += fmt.Sprintf(`,"keyturn.dev/stage":%d`, stage)
	}
	return []byte(strings.TrimSuffix(object, "}") + mark + "}")
}

// bucket opens the place as somebody else would.
func (p place) bucket(t *testing.T) *blob.Bucket {
	t.Helper()
	url := p.url
	if p.gate == nil {
		url += "?metadata=skip&no_tmp_dir=true"
	}
	b, err := blob.OpenBucket(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// replace writes an object with the headers that it should have.
func (p place) replace(t *testing.T, name string, data []byte) {
	t.Helper()
	o := &blob.WriterOptions{ContentType: "application/json", CacheControl: "public, max-age=60"}
	if name == jwksName {
		o.ContentType = "application/jwk-set+json"
	}
	p.replaceWith(t, name, data, o)
}

func (p place) replaceWith(t *testing.T, name string, data []byte, o *blob.WriterOptions) {
	t.Helper()
	if err := p.bucket(t).WriteAll(context.Background(), name, data, o); err != nil {
		t.Fatal(err)
	}
}

// content returns an object; nil when it is not there.
func (p place) content(t *testing.T, name string) []byte {
	t.Helper()
	data, err := p.bucket(t).ReadAll(context.Background(), name)
	if err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		t.Fatal(err)
	}
	return data
}

// names lists all that is in the place.
func (p place) names(t *testing.T) []string {
	t.Helper()
	var names []string
	for all := p.bucket(t).List(nil); ; {
		o, err := all.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, o.Key)
	}
}

// useAWS gives the AWS library what it finds in the environment of a controller.
func useAWS(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "keyturn")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	t.Setenv("AWS_REGION", "eu-west-1")
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
}

// newS3 is a bucket in a store that speaks the protocol of S3. Call useAWS first.
func newS3(t *testing.T) place {
	backend := s3mem.New()
	if err := backend.CreateBucket("oidc"); err != nil {
		t.Fatal(err)
	}
	g := &gate{store: gofakes3.New(backend, gofakes3.WithLogger(gofakes3.DiscardLog())).Server()}
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	return place{url: "s3://oidc?prefix=clusters/blue/&use_path_style=true&endpoint=" + srv.URL, gate: g}
}

// gates are the gates of the buckets of one store, which its library finds by an environment variable.
type gates struct {
	store http.Handler
	mu    sync.Mutex
	all   map[string]*gate // by the name of the bucket
}

// ServeHTTP finds the gate by the bucket in the path, which is one of its segments in any protocol.
func (s *gates) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	for segment := range strings.SplitSeq(r.URL.Path, "/") {
		s.mu.Lock()
		g := s.all[segment]
		s.mu.Unlock()
		if g != nil {
			g.ServeHTTP(w, r)
			return
		}
	}
	s.store.ServeHTTP(w, r)
}

func (s *gates) add() (bucket string, g *gate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	bucket, g = fmt.Sprintf("oidc-%d", len(s.all)), &gate{store: s.store}
	s.all[bucket] = g
	return bucket, g
}

// startGoogle starts a store like Google's, and returns what makes buckets in it.
func startGoogle(t *testing.T) func(*testing.T) place {
	s := &gates{all: map[string]*gate{}}
	srv := httptest.NewUnstartedServer(s)
	t.Cleanup(srv.Close)
	host := srv.Listener.Addr().String()
	server, err := fakestorage.NewServerWithOptions(fakestorage.Options{NoListener: true, PublicHost: host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	s.store = server.HTTPHandler()
	srv.Start()
	t.Setenv("STORAGE_EMULATOR_HOST", host)
	return func(t *testing.T) place {
		bucket, g := s.add()
		server.CreateBucketWithOpts(fakestorage.CreateBucketOpts{Name: bucket})
		return place{url: "gs://" + bucket, gate: g}
	}
}
