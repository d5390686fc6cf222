package remnants_test

import (
	"context"
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
	"k8s.io/client-go/metadata"

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

// world is an API server that encrypts Secrets, with the two key versions of a cluster.
type world struct {
	client  *kubernetes.Clientset
	meta    metadata.Interface
	store   *keystore.Secrets
	cluster keystore.Cluster
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
	w := &world{
		client: kubernetes.NewForConfigOrDie(cfg), meta: metadata.NewForConfigOrDie(cfg),
		cluster: keystore.Cluster{Namespace: "default", Name: "blue", UID: "uid"},
	}
	w.store = keystore.NewSecrets(w.client.CoreV1())
	for version := 1; version <= 2; version++ {
		k, err := keystore.Generate(rand.Reader, version, jwks.ES256)
		if err != nil {
			tb.Fatal(err)
		}
		if err := w.store.Create(tb.Context(), w.cluster, k); err != nil {
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

// BenchmarkAPIServer reads private keys in some ways, deletes one, and reports how many copies of it are in the memory of
// kube-apiserver: at once, and after other requests.
func BenchmarkAPIServer(b *testing.B) {
	for _, cache := range []string{"secrets#100", "secrets#0"} {
		for name, round := range map[string]func(context.Context, *world) error{
			"list keys": func(ctx context.Context, w *world) error {
				_, err := w.store.List(ctx, w.cluster)
				return err
			},
			"list metadata": func(ctx context.Context, w *world) error {
				secrets := corev1.SchemeGroupVersion.WithResource("secrets")
				_, err := w.meta.Resource(secrets).Namespace(w.cluster.Namespace).List(ctx, metav1.ListOptions{})
				return err
			},
			"read nothing": func(context.Context, *world) error { return nil },
		} {
			b.Run(name+"/"+cache, func(b *testing.B) {
				for b.Loop() {
					measure(b, newWorld(b, map[string][]string{"watch-cache-sizes": {cache}}), round)
				}
			})
		}
	}
}

func measure(b *testing.B, w *world, round func(context.Context, *world) error) {
	b.Helper()
	count := func(unit string) {
		counts, err := remnants.Count(child(b, "kube-apiserver"), w.retired)
		if err != nil {
			b.Skip(err)
		}
		b.ReportMetric(float64(counts.Total()), unit)
	}
	for range 100 {
		if err := round(b.Context(), w); err != nil {
			b.Fatal(err)
		}
	}
	if err := w.store.Delete(b.Context(), w.cluster, 1); err != nil {
		b.Fatal(err)
	}
	count("copies-at-once")
	traffic(b, w.client, 4000)
	count("copies-later")
}

// TestDeletedKeyIsServed reads a deleted private key again. Whoever may list Secrets can, with the resource version of
// before, until etcd is compacted; SECURITY.md names this.
func TestDeletedKeyIsServed(t *testing.T) {
	w := newWorld(t, map[string][]string{"etcd-compaction-interval": {"500ms"}})
	secrets := w.client.CoreV1().Secrets(w.cluster.Namespace)
	before, err := secrets.List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	old := metav1.ListOptions{ResourceVersion: before.ResourceVersion, ResourceVersionMatch: metav1.ResourceVersionMatchExact}
	if err := w.store.Delete(t.Context(), w.cluster, 1); err != nil {
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
		o := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "filler-"}, Data: map[string]string{"x": strings.Repeat("x", 1000)}}
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
