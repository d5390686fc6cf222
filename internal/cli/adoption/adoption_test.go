package adoption

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/jwks"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// ofKubeadm is a cluster whose certificatesDir is kubeadm's default.
var ofKubeadm = v1alpha1.Infrastructure{Kubeadm: &v1alpha1.KubeadmInfrastructure{}}

// newKey makes a key on a curve.
func newKey(t *testing.T, curve elliptic.Curve) jwks.Key {
	t.Helper()
	private, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := jwks.NewKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestConclude compares control planes of nodes a and b, which are right but for one thing each.
func TestConclude(t *testing.T) {
	one, two := newKey(t, elliptic.P384()), newKey(t, elliptic.P256())
	for _, tt := range []struct {
		name   string
		change func(servers []kubeadm.Server, answers []answer)
		// problem and warning are parts of the only one of each.
		problem, warning string
		foreign          []string
	}{
		{name: "all is right", change: func([]kubeadm.Server, []answer) {}},
		{
			name:    "one does not answer",
			change:  func(_ []kubeadm.Server, a []answer) { a[0] = answer{err: errors.New("pod \x1b[31mnot found")} },
			problem: "the API server on node a does not answer through a forwarded port of its pod: pod [31mnot found",
		},
		{
			name: "one that shows itself nowhere", change: func(s []kubeadm.Server, a []answer) {
				s[0], a[0] = kubeadm.Server{Node: "a", Waiting: "node a has no pod"}, answer{err: errors.New("node a has no pod")}
			},
			problem: "node a has no pod: start kube-apiserver there, or delete the node",
		},
		{
			name: "one that goes", change: func(s []kubeadm.Server, a []answer) {
				s[0].Leaving, a[0] = true, answer{err: errLeaving}
			},
			warning: "the node a of an API server is being deleted",
		},
		{
			name: "another key file", change: func(s []kubeadm.Server, _ []answer) {
				s[1].SignFile = "/etc/kubernetes/pki/own.key"
			},
			problem: "the API server on node b signs with /etc/kubernetes/pki/own.key and verifies with " +
				"/etc/kubernetes/pki/sa.pub: Keyturn changes only /etc/kubernetes/pki/sa.key and",
		},
		{
			name: "another directory", change: func(s []kubeadm.Server, _ []answer) {
				s[1].SignFile, s[1].VerifyFiles = "/etc/kubernetes/ssl/sa.key", []string{"/etc/kubernetes/ssl/sa.pub"}
			},
			problem: "so set infrastructure.kubeadm.certificatesDir to /etc/kubernetes/ssl",
		},
		{
			name: "another issuer", change: func(_ []kubeadm.Server, a []answer) { a[1].issuer += ".other" },
			problem: "have the issuers " + issuer + " and " + issuer + ".other: give them the same --service-account-issuer",
		},
		{
			name: "an issuer that is none", change: func(_ []kubeadm.Server, a []answer) {
				a[0].issuer, a[1].issuer = "https://a.test/", "https://a.test/"
			},
			problem: "the issuer https://a.test/ must not end with a slash",
		},
		{
			name: "another signing key", change: func(_ []kubeadm.Server, a []answer) { a[1].kid = two.KeyID },
			problem: "sign with different keys (" + one.KeyID + " and " + two.KeyID + "): let all of them sign with one",
		},
		{
			name: "a signing key of another kind", change: func(_ []kubeadm.Server, a []answer) {
				a[0].kid, a[1].kid = "of P-521", "of P-521"
			},
			problem: "the API servers sign with key of P-521, which is neither RSA",
			warning: "accept 1 more keys", foreign: []string{one.KeyID},
		},
		{
			name: "a key that is not accepted", change: func(_ []kubeadm.Server, a []answer) { a[1].refuses = []string{"a"} },
			problem: "the API server on node b refuses the tokens that the one on node a signs: give both the same sa.pub",
		},
		{
			name: "a key that nobody can use", change: func(_ []kubeadm.Server, a []answer) { a[0].others = 1 },
			problem: "the API server on node a accepts 1 keys that are neither RSA",
		},
		{
			name: "a signer", change: func(s []kubeadm.Server, _ []answer) { s[1].SignerSocket = "/run/kms" },
			problem: "the API server on node b signs with the signer at /run/kms",
		},
		{
			name: "an old version", change: func(_ []kubeadm.Server, a []answer) {
				a[0].version, a[1].version = "v1.33.9", "v1.33.9"
			},
			problem: "has version v1.33.9: upgrade the cluster to 1.34 or later first",
		},
		{
			name: "a new version", change: func(_ []kubeadm.Server, a []answer) {
				a[0].version, a[1].version = "v1.37.0", "v1.37.0"
			},
			warning: "has version v1.37.0: Keyturn was tested up to 1.36",
		},
		{
			name: "an upgrade", change: func(_ []kubeadm.Server, a []answer) { a[1].version = "v1.36.5" },
			warning: "of versions v1.36.4 and v1.36.5: finish the upgrade before you rotate keys",
		},
		{
			name: "a foreign key", change: func(_ []kubeadm.Server, a []answer) { a[1].keys = setOf(t, one, two) },
			warning: "accept 1 more keys: Keyturn keeps them", foreign: []string{two.KeyID},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			servers := []kubeadm.Server{{Node: "a", Address: "10.0.0.1"}, {Node: "b", Address: "10.0.0.2"}}
			for i := range servers {
				servers[i].SignFile, servers[i].VerifyFiles = "/etc/kubernetes/pki/sa.key", []string{"/etc/kubernetes/pki/sa.pub"}
			}
			ok := answer{version: "v1.36.4", issuer: issuer, keys: setOf(t, one), kid: one.KeyID}
			answers := []answer{ok, ok}
			tt.change(servers, answers)
			r := conclude(ofKubeadm, kubeadm.Found{Servers: servers}, answers)
			only(t, "problems", tt.problem, r.Problems)
			only(t, "warnings", tt.warning, r.Warnings)
			if !slices.Equal(tt.foreign, r.ForeignKeyIDs) {
				t.Errorf("foreign keys: %q, want %q", r.ForeignKeyIDs, tt.foreign)
			}
			if len(r.Servers) != 2 || r.Ready() != (tt.problem == "") {
				t.Errorf("report: %+v", r)
			}
			if r.Ready() && (r.SigningKeyID != one.KeyID || r.Algorithm != "ES384" || r.Issuer != issuer) {
				t.Errorf("the cluster signs with %s (%s) for %s", r.SigningKeyID, r.Algorithm, r.Issuer)
			}
		})
	}
}

func setOf(t *testing.T, keys ...jwks.Key) jwks.Set {
	t.Helper()
	s, err := jwks.NewSet(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// only wants one line that contains a part; none if there is no part.
func only(t *testing.T, what, part string, lines []string) {
	t.Helper()
	if part == "" && len(lines) == 0 || part != "" && len(lines) == 1 && strings.Contains(lines[0], part) {
		return
	}
	t.Errorf("%s: %q, want %q", what, lines, part)
}

func TestCompareIssuer(t *testing.T) {
	for named, want := range map[string]string{
		"": "", issuer: "", "https://a.test": "ksaSigningKey.issuer is https://a.test, but the cluster's issuer is " + issuer,
	} {
		r := Report{Issuer: issuer}
		r.CompareIssuer(named)
		only(t, "problems", want, r.Problems)
	}
}

// TestAsk asks a real API server, and creates no object.
func TestAsk(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{APIServerArgs: map[string][]string{"service-account-issuer": {issuer}}})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	own := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: account}} // of kube-controller-manager, elsewhere
	if _, err := client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).Create(t.Context(), own,
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	a := answer{client: client}
	if err := a.read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, listed := a.keys.Lookup(a.kid); !listed || a.issuer != issuer || !strings.HasPrefix(a.version, "v1.") ||
		a.others != 0 {
		t.Errorf("the API server says %+v", a)
	}
	servers := []kubeadm.Server{{Node: "a"}, {Node: "b"}, {Node: "c"}}
	all := []answer{a, {issued: a.issued + "x"}, {err: errors.New("away")}}
	refuses, err := a.review(t.Context(), servers, all)
	if err != nil || len(refuses) != 1 || refuses[0] != "b" {
		t.Errorf("it refuses %q: %v", refuses, err)
	}
	// The token is of no use at the API server.
	bearer := rest.AnonymousClientConfig(config)
	bearer.BearerToken = a.issued
	user, err := kubernetes.NewForConfig(bearer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := user.Discovery().RESTClient().Get().AbsPath("/api").DoRaw(t.Context()); err == nil {
		t.Error("the API server takes the token as that of an account")
	}
}

// TestInspectUnlikely inspects an API server that kubeadm has not made, as an administrator and as nobody.
func TestInspectUnlikely(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	r, err := Inspect(t.Context(), config, ofKubeadm)
	if err != nil || r.Ready() || !strings.Contains(strings.Join(r.Problems, "\n"), "was not made by kubeadm") {
		t.Errorf("Inspect = %+v, %v", r, err)
	}
	nobody := rest.CopyConfig(config)
	nobody.Impersonate.UserName = "nobody"
	if _, err := Inspect(t.Context(), nobody, ofKubeadm); !errors.Is(err, errNoAdministrator) {
		t.Errorf("Inspect as nobody = %v", err)
	}
}

// TestCompareSource refuses to adopt a cluster that wants signers and cannot have them, and warns of that otherwise.
func TestCompareSource(t *testing.T) {
	one := newKey(t, elliptic.P384())
	ok := answer{version: "v1.36.4", issuer: issuer, keys: setOf(t, one), kid: one.KeyID}
	for _, external := range []bool{true, false} {
		servers := []kubeadm.Server{{Node: "a"}, {Node: "b", NoSigner: "kube-apiserver on node b does not run as root"}}
		r := conclude(ofKubeadm, kubeadm.Found{Servers: servers}, []answer{ok, ok})
		if r.CompareSource(external); external {
			only(t, "problems", "node b does not run as root: use ksaSigningKey.source files", r.Problems)
			continue
		}
		only(t, "warnings", "node b does not run as root: ksaSigningKey.source external is not possible", r.Warnings)
		only(t, "problems", "", r.Problems)
	}
}
