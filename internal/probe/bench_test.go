package probe

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilrand "k8s.io/apimachinery/pkg/util/rand"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// The API server that all tests share accepts tokens of the first two keys and signs with the first.
var (
	config      *rest.Config
	host        string
	clientset   *kubernetes.Clientset
	first, next key
	unknown     key
)

type key struct {
	crypto.Signer
	id string
}

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keyturn-probe")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	first, next, unknown = newKey(dir, "first"), newKey(dir, "next"), newKey(dir, "unknown")
	var stop func() error
	config, stop, err = kubetest.Launch(kubetest.Options{APIServerArgs: map[string][]string{
		"service-account-key-file":         {filepath.Join(dir, "first.pub"), filepath.Join(dir, "next.pub")},
		"service-account-signing-key-file": {filepath.Join(dir, "first")},
	}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = stop() }()
	host = strings.TrimRight(config.Host, "/")
	clientset = kubernetes.NewForConfigOrDie(config)
	return m.Run()
}

// newKey makes a key and writes it to a file of that name, and its public half beside it.
func newKey(dir, name string) key {
	signer, err := token.GenerateKey(rand.Reader, "ES256")
	if err != nil {
		panic(err)
	}
	pem, err := token.MarshalPrivateKey(signer)
	if err != nil {
		panic(err)
	}
	pub, err := jwks.MarshalPublicKey(signer.Public())
	if err != nil {
		panic(err)
	}
	err = errors.Join(os.WriteFile(filepath.Join(dir, name), pem, 0o600),
		os.WriteFile(filepath.Join(dir, name+".pub"), pub, 0o600))
	if err != nil {
		panic(err)
	}
	id, err := jwks.KeyID(signer.Public())
	if err != nil {
		panic(err)
	}
	return key{Signer: signer, id: id}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is the probe of a namespace of its own, with the objects of Manifests.
type bench struct {
	*testing.T
	ctx     context.Context
	ns      string
	account *corev1.ServiceAccount
	dir     string
	options options
}

func newBench(t *testing.T) *bench {
	t.Helper()
	return newBenchOf(t, DefaultDeployment())
}

// newBenchOf is newBench with other objects, but for their namespace.
func newBenchOf(t *testing.T, d Deployment) *bench {
	t.Helper()
	b := &bench{T: t, ctx: t.Context(), dir: t.TempDir()}
	b.ns = "probe-" + utilrand.String(8)
	b.apply(d)
	var err error
	b.account, err = clientset.CoreV1().ServiceAccounts(b.ns).Get(b.ctx, "keyturn-probe", metav1.GetOptions{})
	must(t, err)
	b.options = b.newOptions()
	b.mount(Bound, b.request(""))
	b.mount(ThirdParty, b.request("keyturn-probe"))
	b.publishLegacy(first)
	b.mount(Legacy, b.legacy())
	must(t, os.WriteFile(b.options.CAFile, config.CAData, 0o600))
	return b
}

// apply creates all objects of Manifests.
func (b *bench) apply(d Deployment) {
	b.Helper()
	d.Namespace = b.ns
	var manifests bytes.Buffer
	must(b.T, Manifests(&manifests, d))
	c, err := client.New(config, client.Options{FieldOwner: "test", FieldValidation: metav1.FieldValidationStrict})
	must(b.T, err)
	decoder := utilyaml.NewYAMLOrJSONDecoder(&manifests, 4096)
	for {
		var object unstructured.Unstructured
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return
		}
		must(b.T, err)
		if err := c.Create(b.ctx, &object); err != nil {
			b.Fatalf("creating %s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
}

func (b *bench) newOptions() options {
	o := defaults()
	o.Pod, o.Namespace, o.Node = "pod-1", b.ns, "node-1"
	o.Files = Files{
		Bound: filepath.Join(b.dir, "bound"), Legacy: filepath.Join(b.dir, "legacy"),
		ThirdParty: filepath.Join(b.dir, "third-party"),
	}
	o.CAFile = filepath.Join(b.dir, "ca.crt")
	o.Servers = []string{config.Host} // which ends with a slash
	o.Config = &rest.Config{
		Host: config.Host, BearerTokenFile: o.Files.Bound, TLSClientConfig: rest.TLSClientConfig{CAData: config.CAData},
	}
	o.Save = 100 * time.Millisecond
	o.Rate = 50
	o.Listen = ""
	return o
}

// request has the API server sign a token.
func (b *bench) request(audience string) string {
	b.Helper()
	var spec authenticationv1.TokenRequestSpec
	if audience != "" {
		spec.Audiences = []string{audience}
	}
	r, err := clientset.CoreV1().ServiceAccounts(b.ns).CreateToken(b.ctx, b.account.Name,
		&authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	must(b.T, err)
	return r.Status.Token
}

// resign returns a token with the same claims, signed with another key.
func (b *bench) resign(original string, k key) string {
	b.Helper()
	_, claims, err := token.ParseUnverified(original)
	must(b.T, err)
	signed, err := token.Sign(rand.Reader, k.Signer, "ES256", k.id, claims)
	must(b.T, err)
	return signed
}

// publishLegacy puts a token of a key into the legacy Secret, as kube-controller-manager does.
func (b *bench) publishLegacy(k key) {
	b.Helper()
	secrets := clientset.CoreV1().Secrets(b.ns)
	secret, err := secrets.Get(b.ctx, "keyturn-probe-legacy", metav1.GetOptions{})
	must(b.T, err)
	signed, err := token.Sign(rand.Reader, k.Signer, "ES256", k.id, token.NewLegacyClaims(token.Legacy{
		Namespace: b.ns, SecretName: secret.Name, ServiceAccountName: b.account.Name,
		ServiceAccountUID: string(b.account.UID),
	}))
	must(b.T, err)
	secret.Data = map[string][]byte{corev1.ServiceAccountTokenKey: []byte(signed)}
	_, err = secrets.Update(b.ctx, secret, metav1.UpdateOptions{})
	must(b.T, err)
}

func (b *bench) legacy() string {
	b.Helper()
	secret, err := clientset.CoreV1().Secrets(b.ns).Get(b.ctx, "keyturn-probe-legacy", metav1.GetOptions{})
	must(b.T, err)
	return string(secret.Data[corev1.ServiceAccountTokenKey])
}

// mount replaces the file of a token at once, as kubelet does.
func (b *bench) mount(kind Kind, bearer string) {
	b.Helper()
	path := b.options.Files.path(kind)
	must(b.T, os.WriteFile(path+".new", []byte(bearer), 0o600))
	must(b.T, os.Rename(path+".new", path))
}

// start runs the probe. What it returns ends it and waits for its end.
func (b *bench) start() (stop func()) {
	b.Helper()
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan error, 1)
	go func() { done <- run(ctx, b.options) }()
	return func() {
		b.Helper()
		cancel()
		must(b.T, <-done)
	}
}

// kept reads back what the probe kept in its ConfigMap.
func (b *bench) kept() (Report, bool) {
	b.Helper()
	reports, err := Collect(b.ctx, clientset.CoreV1().ConfigMaps(b.ns))
	must(b.T, err)
	if len(reports) == 0 {
		return Report{}, false
	}
	return reports[0], true
}

// until waits for a report that is as wanted.
func (b *bench) until(what string, is func(Report) bool) Report {
	b.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(time.Minute)
	for {
		report, ok := b.kept()
		if ok && is(report) {
			return report
		}
		select {
		case <-deadline:
			b.Fatalf("waiting for %s: report is %+v", what, report)
		case <-tick.C:
		}
	}
}

// uses is how often a kind of token of a key had a result.
func uses(r Report, kind Kind, k key) Counts {
	var sum Counts
	for _, l := range r.Lines {
		if l.Kind == kind {
			sum.add(l.KeyIDs[k.id])
		}
	}
	return sum
}

func line(r Report, kind Kind, server string) Line {
	for _, l := range r.Lines {
		if l.Kind == kind && l.Server == server {
			return l
		}
	}
	return Line{}
}

func allAccepted(r Report) bool {
	for _, k := range apiServerKinds() {
		if uses(r, k, first).Accepted < 3 {
			return false
		}
	}
	return true
}

// kubeconfig writes the kubeconfig of the administrator.
func (b *bench) kubeconfig() string {
	b.Helper()
	return kubetest.WriteKubeconfig(b.T, config)
}

// trust adds the certificate of a server to those by which API servers are known.
func (b *bench) trust(s *httptest.Server) {
	b.Helper()
	f, err := os.OpenFile(b.options.CAFile, os.O_APPEND|os.O_WRONLY, 0)
	must(b.T, err)
	defer f.Close()
	must(b.T, writePEM(f, s.Certificate().Raw))
}
