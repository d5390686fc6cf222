package discovery_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/fleet/discovery"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

func TestNew(t *testing.T) {
	for name, test := range map[string]struct {
		options discovery.Options
		want    string
	}{
		"URL": {
			discovery.Options{Cluster: clusterUID, URL: "ftp://a:hunter2@b", Issuer: issuer},
			"URL of the bucket to publish to: must begin with",
		},
		"issuer": {
			discovery.Options{Cluster: clusterUID, URL: "gs://b", Issuer: "http://a"},
			"issuer to publish to gs://b: malformed: issuer is not an https URL",
		},
		"no issuer":  {discovery.Options{Cluster: clusterUID, URL: "gs://b"}, "issuer is not an https URL"},
		"slash":      {discovery.Options{Cluster: clusterUID, URL: "gs://b", Issuer: "https://a/"}, "ends with a slash"},
		"parameters": {discovery.Options{Cluster: clusterUID, URL: "gs://b", Issuer: "https://a?b"}, "has a query"},
		"no UID":     {discovery.Options{URL: "gs://b", Issuer: issuer}, "the UID is missing"},
		"age": {
			discovery.Options{Cluster: clusterUID, URL: "gs://b", Issuer: issuer, MaxAge: -time.Second}, "-1s is below 0",
		},
	} {
		_, err := discovery.New(test.options)
		if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	const url = "s3://bucket?prefix=blue/&region=eu-west-1"
	if name := newBucket(t, url).Name(); name != url {
		t.Errorf("%s is named %s", url, name)
	}
}

// TestNoBucket names a bucket that the store does not have. What is published in it is gone; but nothing is known of
// keys.
func TestNoBucket(t *testing.T) {
	useAWS(t)
	url := strings.Replace(newS3(t).url, "s3://oidc", "s3://nowhere", 1)
	b, k := newBucket(t, url), generate(t, 1, jwks.ES256)
	if _, err := b.Observe(t.Context(), []keystore.KeyPair{k}); err == nil ||
		!strings.Contains(err.Error(), "NoSuchBucket") {
		t.Errorf("observing: %v", err)
	}
	if err := b.Publish(t.Context(), []keystore.KeyPair{k}, []int{1}); err == nil {
		t.Error("publishing: no error")
	}
	if err := b.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestNotThere has the answers of S3 that do not mean that an object does not exist, though gocloud.dev takes some of
// them so.
func TestNotThere(t *testing.T) {
	useAWS(t)
	for name, answer := range map[string]struct {
		status int
		code   string
	}{
		"other region": {http.StatusMovedPermanently, "PermanentRedirect"},
		"archived":     {http.StatusForbidden, "ObjectNotInActiveTierError"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(answer.status)
				_, _ = fmt.Fprintf(w, `<?xml version="1.0"?><Error><Code>%s</Code></Error>`, answer.code)
			}))
			t.Cleanup(srv.Close)
			b := newBucket(t, "s3://oidc?use_path_style=true&endpoint="+srv.URL)
			wantErrors(t, b, generate(t, 1, jwks.ES256), "")
		})
	}
}

// TestNoCredentials has nothing in the environment that a library could use.
func TestNoCredentials(t *testing.T) {
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent/hunter3")
	b := newBucket(t, "gs://oidc")
	wantErrors(t, b, generate(t, 1, jwks.ES256), "finding credentials")
}

// TestNoSecretInErrors has the error of a request whose parameters are a token, as those of Azure may be. Its library
// gives it only after some ten seconds of trying again.
func TestNoSecretInErrors(t *testing.T) {
	srv := httptest.NewServer(http.NotFoundHandler())
	srv.Close()
	_, failure := http.Get(srv.URL + "/oidc/openid/v1/jwks?" + sasToken) //nolint:bodyclose // there is no answer
	if failure == nil || !strings.Contains(failure.Error(), "hunter2") {
		t.Fatalf("the error of a request does not hold its parameters: %v", failure)
	}
	err := discovery.Clean(failure)
	if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "sig") {
		t.Errorf("the error holds a secret: %v", err)
	}
	if !strings.Contains(err.Error(), "/oidc/openid/v1/jwks") || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the error says too little: %v", err)
	}
}

// TestOtherAccount has a token for one storage account of Azure and the URL of another, to which it must not be sent.
// It runs in a process of its own, since the Azure library reads its environment once.
func TestOtherAccount(t *testing.T) {
	if os.Getenv("AZURE_STORAGE_ACCOUNT") == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestOtherAccount$", "-test.v")
		cmd.Env = append(os.Environ(), "AZURE_STORAGE_ACCOUNT=keyturn", "AZURE_STORAGE_SAS_TOKEN="+sasToken,
			"HTTPS_PROXY=http://127.0.0.1:1")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("--- PASS: TestOtherAccount")) {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	b := newBucket(t, "azblob://oidc?storage_account=other1")
	wantErrors(t, b, generate(t, 1, jwks.ES256), "cannot change the service endpoint")
}
