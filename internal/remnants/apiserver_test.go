package remnants_test

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/remnants"
	"github.com/keyturn/keyturn/jwks"
)

const encryption = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - secretbox: {keys: [{name: key1, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}
`

var cluster = keystore.Cluster{Namespace: "default", Name: "blue", UID: "uid"}

// world is an API server that encrypts Secrets, with the two key versions of a cluster.
type world struct {
	config  *rest.Config
	client  *kubernetes.Clientset
	store   *keystore.Secrets
	retired remnants.Forms
}

func newWorld(tb testing.TB, args map[string][]string) *world {
	tb.Helper()
	config := filepath.Join(tb.TempDir(), "encryption.yaml")
	if err := os.WriteFile(config, []byte(encryption), 0o600); err != nil {
		tb.Fatal(err)
	}
	args["encryption-provider-config"] = []string{config}
	cfg := kubetest.Start(tb, kubetest.Options{APIServerArgs: args})
	store, err := keystore.NewSecrets(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{config: cfg, client: kubernetes.NewForConfigOrDie(cfg), store: store}
	for version := 1; version <= 2; version++ {
		k, err := keystore.Generate(rand.Reader, version, jwks.ES256)
		if err != nil {
			tb.Fatal(err)
		}
		if err := w.store.Create(tb.Context(), cluster, k); err != nil {
			tb.Fatal(err)
		}
		if version == 1 {
			if w.retired, err = remnants.FormsOf(k.Signer); err != nil {
				tb.Fatal(err)
			}
		}
	}
	return w
}

// BenchmarkAPIServer reads private keys in some ways, deletes one, and reports how many copies of it are in the memory
// of kube-apiserver: at once, and after other requests. The controller's way is measured in a process of its own too.
func BenchmarkAPIServer(b *testing.B) {
	for _, cache := range []string{"secrets#100", "secrets#0"} {
		for name, begin := range map[string]func(testing.TB, *world) (round func() error, pid int){
			"controller":   startReader,
			"list Secrets": listSecrets,
			"read nothing": func(testing.TB, *world) (func() error, int) { return func() error { return nil }, 0 },
		} {
			b.Run(name+"/"+cache, func(b *testing.B) {
				for b.Loop() {
					measure(b, newWorld(b, map[string][]string{"watch-cache-sizes": {cache}}), begin)
				}
			})
		}
	}
}

func listSecrets(tb testing.TB, w *world) (round func() error, pid int) {
	return func() error {
		_, err := w.client.CoreV1().Secrets(cluster.Namespace).List(tb.Context(), metav1.ListOptions{})
		return err
	}, 0
}

func measure(b *testing.B, w *world, begin func(testing.TB, *world) (func() error, int)) {
	b.Helper()
	round, reader := begin(b, w)
	rounds := func(n int) {
		for range n {
			if err := round(); err != nil {
				b.Fatal(err)
			}
		}
	}
	count := func(when string) {
		report(b, child(b, "kube-apiserver"), w.retired, "copies-"+when)
		if reader != 0 {
			report(b, reader, w.retired, "controller-copies-"+when)
		}
	}
	rounds(100)
	if err := w.store.Delete(b.Context(), cluster, 1); err != nil {
		b.Fatal(err)
	}
	rounds(1)
	count("at-once")
	for range 100 {
		traffic(b, w.client, 60)
		rounds(1)
	}
	count("later")
}

func report(b *testing.B, pid int, retired remnants.Forms, unit string) {
	b.Helper()
	counts, err := remnants.Count(pid, retired)
	if err != nil {
		b.Skip(err)
	}
	b.ReportMetric(float64(counts.Total()), unit)
	b.Logf("%s: %s", unit, counts)
}

// TestDeletedKeyIsServed reads a deleted private key again. Whoever may list Secrets can, with the resource version of
// before, until etcd is compacted; docs/security.md names this.
func TestDeletedKeyIsServed(t *testing.T) {
	w := newWorld(t, map[string][]string{"etcd-compaction-interval": {"500ms"}})
	secrets := w.client.CoreV1().Secrets(cluster.Namespace)
	before, err := secrets.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old := metav1.ListOptions{
		ResourceVersion: before.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact,
	}
	if err := w.store.Delete(t.Context(), cluster, 1); err != nil {
		t.Fatal(err)
	}
	for served := 0; ; served++ {
		list, err := secrets.List(t.Context(), old)
		switch {
		case apierrors.IsResourceExpired(err):
			if served == 0 {
				t.Log("etcd was compacted before the first reading")
			}
			return
		case err != nil:
			t.Fatal(err)
		case len(list.Items) != len(before.Items):
			t.Fatalf("%d Secrets at the old resource version, want %d", len(list.Items), len(before.Items))
		}
	}
}

// traffic makes the API server reuse its memory.
func traffic(tb testing.TB, client *kubernetes.Clientset, n int) {
	tb.Helper()
	for range n {
		o := &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "filler-"}, Data: map[string]string{"x": strings.Repeat("x", 1000)},
		}
		if _, err := client.CoreV1().ConfigMaps("default").Create(tb.Context(), o, metav1.CreateOptions{}); err != nil {
			tb.Fatal(err)
		}
	}
}

// child returns the pid of a program that this process started.
func child(tb testing.TB, program string) (pid int) {
	tb.Helper()
	all, _ := filepath.Glob("/proc/self/task/*/children")
	for _, f := range all {
		raw, _ := os.ReadFile(f)
		for field := range strings.FieldsSeq(string(raw)) {
			comm, _ := os.ReadFile("/proc/" + field + "/comm")
			if strings.TrimSpace(string(comm)) == program {
				_, _ = fmt.Sscan(field, &pid)
			}
		}
	}
	if pid == 0 {
		tb.Fatalf("no %s", program)
	}
	return pid
}
