package controllercmd

import (
	"bytes"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// outside is a server that somebody names in a UserCluster, with a fleet behind it, and that counts who comes.
type outside struct {
	*httptest.Server
	fleet   *fleetserver.Server
	keyFile []byte
	ca      string
	visits  atomic.Int64
	shown   atomic.Bool // an access token
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{}
	o.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.visits.Add(1)
		if r.Header.Get("Authorization") != "" {
			o.shown.Store(true)
		}
		o.fleet.ServeHTTP(w, r)
	}))
	o.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	o.StartTLS()
	t.Cleanup(o.Close)
	key, registrar, err := fleetserver.NewServiceAccountKey(o.URL+"/token", "register@example.com")
	if err != nil {
		t.Fatal(err)
	}
	o.fleet, err = fleetserver.New(fleetserver.Options{
		StateFile: filepath.Join(t.TempDir(), "fleet.json"), Registrars: []fleetserver.Registrar{registrar},
		TokenURI: o.URL + "/token",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = o.fleet.Close() })
	o.keyFile, o.ca = key, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.Certificate().Raw}))
	return o
}

// cluster is a UserCluster that names it, with credentials in a Secret if there are any.
func (o *outside) cluster(secret string) *v1alpha1.UserCluster {
	uc := newCluster()
	uc.Spec.GKEConnect = &v1alpha1.GKEConnect{
		ProjectID: "my-project", Location: "global", CredentialsSecret: secret, Endpoint: o.URL, STSEndpoint: o.URL,
		CABundle: o.ca,
	}
	return uc
}

func newCluster() *v1alpha1.UserCluster {
	return &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "blue",
			UID: "0f5ac8ad-8d2b-4c5c-9d1e-0b7f2b8f6a11", Generation: 1},
		Spec: v1alpha1.UserClusterSpec{KSASigningKey: v1alpha1.KSASigningKey{
			Issuer: "https://oidc.example.com/blue", PublishMaxAgeSeconds: 1,
		}},
	}
}

// allow is what the flags of a controller allow.
func allow(t *testing.T, flags ...string) allowed {
	t.Helper()
	var a allowed
	set := flag.NewFlagSet("keyturn-controller", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	a.addFlags(set)
	if err := set.Parse(flags); err != nil {
		t.Fatal(err)
	}
	return a
}

func newPublishers(t *testing.T, secrets client.Reader, flags ...string) *publishers {
	t.Helper()
	return &publishers{secrets: secrets, allowed: allow(t, flags...), log: slog.New(slog.DiscardHandler)}
}

func generate(t *testing.T, version int) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, "ES256")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// wantUnusable wants no call to reach out, the text to name field, flag and value, and the end of the cluster not to
// wait.
func wantUnusable(t *testing.T, p fleet.Publisher, texts ...string) {
	t.Helper()
	k := generate(t, 1)
	_, observed := p.Observe(t.Context(), []keystore.KeyPair{k})
	for doing, err := range map[string]error{"observing": observed,
		"publishing": p.Publish(t.Context(), []keystore.KeyPair{k}, []int{1})} {
		if !errors.Is(err, errNotAllowed) {
			t.Errorf("%s: %v, want %v", doing, err, errNotAllowed)
			continue
		}
		for _, text := range texts {
			if !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %v, want it to name %s", doing, err, text)
			}
		}
	}
	if err := p.Remove(t.Context()); err != nil {
		t.Errorf("removing: %v", err)
	}
}

func only(t *testing.T, all []fleet.Publisher) fleet.Publisher {
	t.Helper()
	if len(all) != 1 {
		t.Fatalf("%d destinations", len(all))
	}
	return all[0]
}

// By default a UserCluster makes the controller connect to Google only, and never show it credentials of its own.
func TestNothingIsAllowed(t *testing.T) {
	o := newOutside(t)
	file := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(file, o.keyFile, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	t.Setenv("AWS_ACCESS_KEY_ID", "keyturn")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	google := o.cluster("")
	google.Spec.GKEConnect.Endpoint, google.Spec.GKEConnect.STSEndpoint = "", ""
	sts := o.cluster("")
	sts.Spec.GKEConnect.Endpoint = "https://gkehub.googleapis.com"
	odd := o.cluster("")
	odd.Spec.GKEConnect.Endpoint = "https://a.example/\x1b[2J" + strings.Repeat("x", 1000)
	dir := t.TempDir()
	publish := func(url string) *v1alpha1.UserCluster {
		uc := newCluster()
		uc.Spec.KSASigningKey.Publish = []string{url}
		return uc
	}
	for name, test := range map[string]struct {
		uc    *v1alpha1.UserCluster
		flags []string
		texts []string
	}{
		"endpoint": {o.cluster(""), nil, []string{"gkeConnect.endpoint", o.URL, "--allow-fleet-endpoint"}},
		"STS endpoint": {sts, []string{"--allow-default-credentials"},
			[]string{"gkeConnect.stsEndpoint", o.URL, "--allow-fleet-endpoint"}},
		"odd endpoint":        {odd, nil, []string{`"https://a.example/ [2Jxxx`, "…"}},
		"default credentials": {google, nil, []string{"gkeConnect.credentialsSecret", "--allow-default-credentials"}},
		"default credentials, elsewhere": {
			o.cluster(""), []string{"--allow-default-credentials", "--allow-fleet-endpoint=" + o.URL},
			[]string{"gkeConnect.credentialsSecret", o.URL},
		},
		"S3": {publish("s3://oidc?region=x&use_path_style=true&endpoint=" + o.URL), nil,
			[]string{"ksaSigningKey.publish[0]", o.URL, "--allow-publish"}},
		"S3, elsewhere": {publish("s3://oidc?region=x&use_path_style=true&endpoint=" + o.URL),
			[]string{"--allow-publish=s3://oidc"}, []string{"ksaSigningKey.publish[0]"}},
		"directory": {publish("file://" + dir), nil, []string{"ksaSigningKey.publish[0]", dir, "--allow-publish"}},
		"another directory": {publish("file://" + dir), []string{"--allow-publish=file://" + dir + "/oidc"},
			[]string{"--allow-publish"}},
		"no URL": {publish("s3://bucket/hunter2"), []string{"--allow-publish=s3://bucket"},
			[]string{"ksaSigningKey.publish[0]", "remove it from the spec"}},
	} {
		t.Run(name, func(t *testing.T) {
			wantUnusable(t, only(t, newPublishers(t, nil, test.flags...).Of(t.Context(), test.uc)), test.texts...)
		})
	}
	if n := o.visits.Load(); n != 0 {
		t.Errorf("%d requests reached the server", n)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("the directory holds %v (%v)", entries, err)
	}
}

// What the administrator allows works.
func TestAllowedDirectory(t *testing.T) {
	dir, k := t.TempDir(), generate(t, 1)
	uc := newCluster()
	uc.Spec.KSASigningKey.Publish = []string{"file://" + dir + "?prefix=blue/"}
	p := newPublishers(t, nil, "--allow-publish=file://"+dir)
	bucket := only(t, p.Of(t.Context(), uc))
	if err := bucket.Publish(t.Context(), []keystore.KeyPair{k}, []int{1}); err != nil {
		t.Fatal(err)
	}
	if only(t, p.Of(t.Context(), uc)) != bucket {
		t.Error("the destination is made again in each round")
	}
	name := bucket.Name()
	if _, ok := p.Former(uc, name); ok {
		t.Error("a destination that the spec names is a former one")
	}
	uc.Spec.KSASigningKey.Publish = []string{"file://" + dir + "/blue?create_dir=true"}
	if _, ok := p.Former(uc, name); ok {
		t.Error("a destination that the spec names in another way is a former one")
	}
	uc.Spec.KSASigningKey.Publish = nil
	if _, ok := newPublishers(t, nil).Former(uc, name); ok {
		t.Error("a destination that is not allowed is asked")
	}
	former, ok := p.Former(uc, name)
	if !ok {
		t.Fatal("the former destination is not known")
	}
	if err := former.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "blue/openid/v1/jwks")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the JWKS is still there (%v)", err)
	}
}

// newAdmin is the administrator of a real API server.
func newAdmin(t *testing.T) client.Client {
	t.Helper()
	config := kubetest.Start(t, kubetest.Options{})
	if err := install.Apply(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	scheme, err := controller.NewScheme()
	if err != nil {
		t.Fatal(err)
	}
	admin, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	return admin
}

// Only a Secret that is marked as the cluster's is used, and only to connect to what is allowed.
func TestCredentials(t *testing.T) {
	admin, o := newAdmin(t), newOutside(t)
	secret := func(name string, keyFile []byte, change func(*corev1.Secret)) string {
		t.Helper()
		s := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name,
				Labels: map[string]string{v1alpha1.LabelCluster: "blue"}},
			Type: corev1.SecretTypeOpaque, Data: map[string][]byte{v1alpha1.CredentialsKey: keyFile},
		}
		if change != nil {
			change(s)
		}
		if err := admin.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		return name
	}
	endpoint := "--allow-fleet-endpoint=" + o.URL
	owned := func(uid types.UID) func(*corev1.Secret) {
		return func(s *corev1.Secret) {
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "keyturn.dev/v1alpha1", Kind: "UserCluster", Name: "blue",
				UID: uid}}
		}
	}
	for name, refused := range map[string]struct{ secret, text string }{
		"another cluster's": {secret("green-gke-connect", o.keyFile, func(s *corev1.Secret) {
			s.Labels[v1alpha1.LabelCluster] = "green"
		}), "is not this cluster's"},
		"nobody's": {secret("somebodys", o.keyFile, func(s *corev1.Secret) {
			s.Labels = nil
		}), "is not this cluster's"},
		"an earlier one's": {secret("earlier", o.keyFile, owned("5d1c9f1e-6f0e-4d41-8f1e-2c8a3e0a7b22")),
			"is not this cluster's"},
		"of another type": {
			secret("typed", o.keyFile, func(s *corev1.Secret) { s.Type = "example.com/key" }), "is not this cluster's",
		},
		"another token_uri": {
			secret("elsewhere", bytes.ReplaceAll(o.keyFile, []byte(o.URL), []byte("https://127.0.0.1:1")), nil), "token_uri",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPublishers(t, admin, endpoint)
			wantUnusable(t, only(t, p.Of(t.Context(), o.cluster(refused.secret))), refused.text)
		})
	}
	if n := o.visits.Load(); n != 0 {
		t.Errorf("%d requests reached the server", n)
	}

	uc, k := o.cluster(secret("blue-gke-connect", o.keyFile, owned("0f5ac8ad-8d2b-4c5c-9d1e-0b7f2b8f6a11"))),
		generate(t, 1)
	p := newPublishers(t, admin, endpoint)
	membership := only(t, p.Of(t.Context(), uc))
	if err := membership.Publish(t.Context(), []keystore.KeyPair{k}, []int{1}); err != nil {
		t.Fatal(err)
	}
	if !o.shown.Load() {
		t.Error("no access token was shown to the fleet")
	}
	testCredentialsGoFirst(t, admin, p, uc, membership)
}

// testCredentialsGoFirst has the Secret deleted before its cluster, as when their namespace is.
func testCredentialsGoFirst(
	t *testing.T, admin client.Client, p *publishers, uc *v1alpha1.UserCluster, membership fleet.Publisher,
) {
	gone := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: uc.Namespace,
		Name: uc.Spec.GKEConnect.CredentialsSecret}}
	if err := admin.Delete(t.Context(), gone); err != nil {
		t.Fatal(err)
	}
	lost := only(t, newPublishers(t, admin, "--allow-fleet-endpoint="+uc.Spec.GKEConnect.Endpoint).Of(t.Context(), uc))
	if err := lost.Remove(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "reading the credentials of the fleet") {
		t.Errorf("while the cluster is not being deleted: %v", err)
	}
	uc = uc.DeepCopy()
	uc.DeletionTimestamp, uc.Generation = &metav1.Time{Time: time.Now()}, 2
	if got := only(t, p.Of(t.Context(), uc)); got != membership {
		t.Errorf("the membership that is in memory is not used: %T", got)
	}
	restarted := only(t, newPublishers(t, admin, "--allow-fleet-endpoint="+uc.Spec.GKEConnect.Endpoint).Of(t.Context(),
		uc))
	if err := restarted.Remove(t.Context()); err != nil {
		t.Errorf("a controller that remembers nothing: %v", err)
	}
	p.Forget(client.ObjectKeyFromObject(uc))
	if len(p.of) > 0 {
		t.Error("credentials of a cluster that is gone are in memory")
	}
}
