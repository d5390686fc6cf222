package cli

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/config"
	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// marker is in every service account key of the scripts.
const marker = "nObOdYmAySeEtHiS"

// guard ends gkectl when it writes any part of a service account key to a stream, in any verb.
type guard struct {
	to   io.Writer
	seen bytes.Buffer
	// forbidden are words that must not be shown either.
	forbidden []string
}

func (g *guard) Write(p []byte) (int, error) {
	g.seen.Write(p)
	for _, secret := range []string{marker, "PRIVATE KEY",
		base64.StdEncoding.EncodeToString([]byte("{\n  \"type\": \"service"))} {
		if strings.Contains(g.seen.String(), secret) {
			fmt.Fprintln(os.Stderr, "gkectl shows a service account key")
			os.Exit(99)
		}
	}
	for _, word := range g.forbidden {
		if strings.Contains(g.seen.String(), word) {
			fmt.Fprintf(os.Stderr, "the output names %s:\n%s\n", word, &g.seen)
			os.Exit(98)
		}
	}
	return g.to.Write(p)
}

// cmdNewKey writes a service account key, with mode 0600: newkey FILE.
func cmdNewKey(ts *testscript.TestScript, _ bool, args []string) {
	key, _, err := fleetserver.NewServiceAccountKey("https://token.test", marker+"@my-project-123.test")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), key, 0o600))
}

// cmdNewCertificate writes a certificate: newcert FILE.
func cmdNewCertificate(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
}

// cmdSecret compares what the Secret of a cluster holds with a file, or wants none: secret CLUSTER FILE|none.
func cmdSecret(ts *testscript.TestScript, _ bool, args []string) {
	c, err := controllerClient()
	ts.Check(err)
	found := credentialsOf(args[0])
	err = c.Get(context.Background(), client.ObjectKeyFromObject(found), found)
	if args[1] == "none" {
		if !apierrors.IsNotFound(err) {
			ts.Fatalf("Secret %s is there (%v)", found.Name, err)
		}
		return
	}
	ts.Check(err)
	if found.Type != corev1.SecretTypeOpaque || len(found.Data) != 1 ||
		string(found.Data[v1alpha1.CredentialsKey]) != ts.ReadFile(args[1]) {
		ts.Fatalf("Secret %s of type %s does not hold the key in %s alone", found.Name, found.Type, args[1])
	}
}

// cmdAs writes a kubeconfig file of another user: as USER FILE.
func cmdAs(ts *testscript.TestScript, _ bool, args []string) {
	config := rest.CopyConfig(server)
	config.Impersonate.UserName = args[0]
	ts.Check(writeAdminKubeconfig(ts.MkAbs(args[1]), config))
}

func credentialsOf(cluster string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace,
		Name: v1alpha1.CredentialsSecretName(cluster)}}
}

// faulty connects to the shared API server; of requests with a method whose path ends with a suffix, it meets a fault.
func faulty(t *testing.T, faults map[string]kubetest.Fault) admin {
	t.Helper()
	config := kubetest.Inject(rest.CopyConfig(server), func(r *http.Request) kubetest.Fault {
		for request, fault := range faults {
			method, suffix, _ := strings.Cut(request, " ")
			if r.Method == method && strings.HasSuffix(r.URL.Path, suffix) {
				return fault
			}
		}
		return kubetest.None
	})
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		t.Fatal(err)
	}
	return admin{client: c, namespace: v1alpha1.SystemNamespace, program: gkectl}
}

// After any failure on the way, no Secret stays behind for a cluster that was refused, the next run uses each other
// one, and no error shows the key.
func TestCreateWithKeyFails(t *testing.T) {
	const createSecret, createCluster = "POST /secrets", "POST /userclusters"
	const deleteSecret = "DELETE /secrets/faulty-gke-connect"
	for _, test := range []struct {
		name   string
		faults map[string]kubetest.Fault
		stays  bool
	}{
		{"Secret is refused", map[string]kubetest.Fault{createSecret: http.StatusForbidden}, false},
		{"Secret is lost", map[string]kubetest.Fault{createSecret: kubetest.LoseRequest}, false},
		{"answer about the Secret is lost", map[string]kubetest.Fault{createSecret: kubetest.LoseAnswer}, true},
		{"cluster is refused", map[string]kubetest.Fault{createCluster: http.StatusForbidden}, false},
		{"cluster is lost", map[string]kubetest.Fault{createCluster: kubetest.LoseRequest}, true},
		{"answer about the cluster is lost", map[string]kubetest.Fault{createCluster: kubetest.LoseAnswer}, true},
		{"cluster fails", map[string]kubetest.Fault{createCluster: http.StatusInternalServerError}, true},
		{"cluster is refused and the Secret stays", map[string]kubetest.Fault{
			createCluster: http.StatusForbidden, deleteSecret: http.StatusInternalServerError,
		}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, _, stderr := testEnv()
			c, uc := newFleetCluster(t, "faulty")
			w := wanted{UserCluster: uc, key: config.Secret(marker + test.name)}
			err := a.createObject(t.Context(), faulty(t, test.faults), w)
			if err == nil || strings.Contains(err.Error(), marker) {
				t.Errorf("createObject = %v", err)
			}
			found := credentialsOf(uc.Name)
			err = c.Get(t.Context(), client.ObjectKeyFromObject(found), found)
			if client.IgnoreNotFound(err) != nil || test.stays != (err == nil) {
				t.Errorf("Secret: %v, want that it stays: %v", err, test.stays)
			}
			if err := a.createObject(t.Context(), faulty(t, nil), w); err != nil {
				t.Errorf("the next run: %v", err)
			}
			if err := c.Get(t.Context(), client.ObjectKeyFromObject(found), found); err != nil ||
				string(found.Data[v1alpha1.CredentialsKey]) != string(w.key) {
				t.Errorf("the Secret of the next run does not hold the key (%v)", err)
			}
			if strings.Contains(stderr.String(), marker) {
				t.Errorf("standard error shows the key:\n%s", stderr)
			}
		})
	}
}

// newFleetCluster returns a cluster that is not created yet. It and its Secret are gone when the test ends.
func newFleetCluster(t *testing.T, name string) (client.Client, *v1alpha1.UserCluster) {
	t.Helper()
	file := fmt.Sprintf(`{apiVersion: v1, kind: UserCluster, name: %s, gkeOnPremVersion: 1.36.4-gke.1,
		network: {serviceCIDR: 10.96.0.0/20, podCIDR: 192.168.0.0/16},
		gkeConnect: {projectID: my-project-123, location: global, registerServiceAccountKeyPath: key.json}}`, name)
	parsed, err := config.Parse([]byte(strings.ReplaceAll(file, "\t", " ")))
	if err != nil {
		t.Fatal(err)
	}
	c, err := controllerClient()
	if err != nil {
		t.Fatal(err)
	}
	uc := parsed.Object(config.Files{})
	t.Cleanup(func() {
		for _, o := range []client.Object{uc.DeepCopy(), credentialsOf(name)} {
			if err := client.IgnoreNotFound(c.Delete(context.Background(), o)); err != nil {
				t.Error(err)
			}
		}
	})
	return c, uc
}

// Two runs at once make one cluster with one Secret, whichever is faster.
func TestCreateWithKeyTwice(t *testing.T) {
	c, uc := newFleetCluster(t, "twice")
	w := wanted{UserCluster: uc, key: config.Secret(marker)}
	results := make(chan error, 2)
	for range 2 {
		a, _, _ := testEnv()
		admin := faulty(t, nil)
		go func() { results <- a.createObject(t.Context(), admin, w) }()
	}
	first, second := <-results, <-results
	if first != nil && second != nil {
		t.Errorf("createObject = %v and %v", first, second)
	}
	found := credentialsOf(uc.Name)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(found), found); err != nil ||
		string(found.Data[v1alpha1.CredentialsKey]) != marker {
		t.Errorf("the Secret does not hold the key (%v)", err)
	}
}

// A Secret that somebody changed meanwhile is neither overwritten nor deleted.
func TestKeyOfSomebodyElse(t *testing.T) {
	c, uc := newFleetCluster(t, "meanwhile")
	read, err := faulty(t, nil).fleetKey(t.Context(), uc.Name, uc.UID, true)
	if err != nil {
		t.Fatal(err)
	}
	undo, err := read.store(t.Context(), config.Secret("first"))
	if err != nil {
		t.Fatal(err)
	}
	if read, err = faulty(t, nil).fleetKey(t.Context(), uc.Name, uc.UID, true); err != nil {
		t.Fatal(err)
	}
	if _, err := read.store(t.Context(), config.Secret("second")); err != nil {
		t.Fatal(err)
	}
	for _, old := range []credentials{read, {admin: read.admin, cluster: uc.Name, name: read.name, key: read.key}} {
		_, err := old.store(t.Context(), config.Secret("third"))
		if e, ok := errors.AsType[*exitError](err); !ok || e.code != ExitRefused {
			t.Errorf("store over a newer Secret = %v, want a refusal", err)
		}
	}
	for what, err := range map[string]error{"undo": undo(), "remove": read.remove(t.Context())} {
		if !apierrors.IsConflict(err) {
			t.Errorf("%s of an old Secret = %v, want a conflict", what, err)
		}
	}
	found := credentialsOf(uc.Name)
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(found), found); err != nil ||
		string(found.Data[v1alpha1.CredentialsKey]) != "second" {
		t.Errorf("the Secret holds another key (%v)", err)
	}
}
