package controlplane_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// keyFiles writes the files of the keys as an API server reads them and returns its flags for them.
func keyFiles(t *testing.T, sign keystore.KeyPair, verify ...keystore.KeyPair) map[string][]string {
	t.Helper()
	dir := t.TempDir()
	private, err := token.MarshalPrivateKey(sign.Signer)
	if err != nil {
		t.Fatal(err)
	}
	flags := map[string][]string{
		"service-account-issuer":           {issuer},
		"service-account-signing-key-file": {write(t, dir, "sign.pem", private)},
	}
	for _, k := range verify {
		public, err := jwks.MarshalPublicKey(k.Signer.Public())
		if err != nil {
			t.Fatal(err)
		}
		flags["service-account-key-file"] = append(flags["service-account-key-file"],
			write(t, dir, "verify-"+strconv.Itoa(k.Version)+".pem", public))
	}
	return flags
}

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func generate(t *testing.T, version int, alg string) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, alg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// ask proves by a Prover that is not used for anything else.
func ask(t *testing.T, cfg *rest.Config, keys ...keystore.KeyPair) controlplane.Proof {
	t.Helper()
	proof, err := (&controlplane.Prover{}).Prove(t.Context(), controlplane.Question{Config: cfg, Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return proof
}

func want(t *testing.T, what string, want, got controlplane.Proof) {
	t.Helper()
	if got.SigningKeyID != "" && got.IssuedAt.IsZero() {
		t.Errorf("%s: nobody knows when the token was issued", what)
	}
	got.IssuedAt = time.Time{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: proof (-want +got):\n%s", what, diff)
	}
}

func TestProve(t *testing.T) {
	one, two := generate(t, 1, "RS256"), generate(t, 2, "ES256")
	three, four := generate(t, 3, "RS256"), generate(t, 4, "ES256")
	cfg := kubetest.Start(t, kubetest.Options{APIServerArgs: keyFiles(t, one, one, two)})

	// Several at once find no canary account, and make one. Later it is there already, and so are the clients.
	prover := &controlplane.Prover{}
	question := controlplane.Question{Config: cfg, Keys: []keystore.KeyPair{four, three, two, one}}
	known := controlplane.Proof{Accepts: []int{1, 2}, Refuses: []int{3, 4}, Signs: 1, SigningKeyID: one.KeyID}
	for range 2 {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				got, err := prover.Prove(t.Context(), question)
				if err != nil {
					t.Error(err)
				}
				want(t, "all keys known", known, got)
			})
		}
		all.Wait()
	}

	// Keys that are none of ours prove nothing about ours, and are named.
	foreign := []string{one.KeyID, two.KeyID}
	slices.Sort(foreign)
	want(t, "foreign signer", controlplane.Proof{
		Refuses: []int{3}, SigningKeyID: one.KeyID, Foreign: foreign,
	}, ask(t, cfg, three))
	want(t, "foreign verification key", controlplane.Proof{
		Accepts: []int{1}, Signs: 1, SigningKeyID: one.KeyID, Foreign: []string{two.KeyID},
	}, ask(t, cfg, one))
	want(t, "no keys", controlplane.Proof{SigningKeyID: one.KeyID, Foreign: foreign}, ask(t, cfg))
}

// TestCanaryAccount reads the account that a proof makes. Another proof may make it at the same moment. No pod gets a
// token of it on its own.
func TestCanaryAccount(t *testing.T) {
	one, cfg := sharedServer(t)
	accounts := kubernetes.NewForConfigOrDie(cfg).CoreV1().ServiceAccounts(metav1.NamespaceSystem)
	for _, raced := range []bool{false, true} {
		removeCanaryAccount(t, cfg)
		through := proxied(t, cfg, func(_ http.ResponseWriter, r *http.Request) bool {
			if raced && r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/serviceaccounts") {
				ask(t, cfg, one)
			}
			return false
		})
		proof, err := (&controlplane.Prover{}).Prove(t.Context(), controlplane.Question{
			Cluster: "uid", Config: through, Keys: []keystore.KeyPair{one},
		})
		if err != nil {
			t.Fatalf("raced %t: %v", raced, err)
		}
		want(t, "one key", controlplane.Proof{Accepts: []int{1}, Signs: 1, SigningKeyID: one.KeyID}, proof)
		account, err := accounts.Get(t.Context(), "keyturn-canary", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if mounted := account.AutomountServiceAccountToken; mounted == nil || *mounted {
			t.Errorf("pods get a token of the account %+v", account)
		}
		if cluster := account.Labels["keyturn.dev/cluster-uid"]; !raced && cluster != "uid" {
			t.Errorf("the account is labeled with the cluster %q", cluster)
		}
	}
}

// TestProveComparesWithTheJWKS has a real API server behind a proxy that alters its JWKS, and nothing else.
func TestProveComparesWithTheJWKS(t *testing.T) {
	one, two, three := generate(t, 1, "ES256"), generate(t, 2, "ES256"), generate(t, 3, "ES256")
	cfg := kubetest.Start(t, kubetest.Options{APIServerArgs: keyFiles(t, one, one, two)})
	type pairs = []keystore.KeyPair
	for name, c := range map[string]struct {
		served pairs
		want   controlplane.Proof
	}{
		"as it is": {pairs{one, two}, controlplane.Proof{Accepts: []int{1, 2}, Refuses: []int{3}, Signs: 1}},
		// It accepts 2, which verifiers outside do not get to know.
		"accepted and not served": {pairs{one}, controlplane.Proof{Accepts: []int{1}, Refuses: []int{3}, Signs: 1}},
		// It refuses 3, which verifiers outside accept.
		"refused and served":            {pairs{one, two, three}, controlplane.Proof{Accepts: []int{1, 2}, Signs: 1}},
		"the signing key is not served": {pairs{two}, controlplane.Proof{Accepts: []int{2}, Refuses: []int{3}, Signs: 1}},
		"nothing served":                {nil, controlplane.Proof{Refuses: []int{3}, Signs: 1}},
	} {
		c.want.SigningKeyID = one.KeyID
		want(t, name, c.want, ask(t, serving(t, cfg, set(t, c.served...)), one, two, three))
	}
	extra := generate(t, 4, "ES256")
	want(t, "a foreign key served", controlplane.Proof{
		Accepts: []int{1, 2}, Refuses: []int{3}, Signs: 1, SigningKeyID: one.KeyID, Foreign: []string{extra.KeyID},
	}, ask(t, serving(t, cfg, set(t, one, two, extra)), one, two, three))
}

func set(t *testing.T, keys ...keystore.KeyPair) []byte {
	t.Helper()
	var list []jwks.Key
	for _, k := range keys {
		key, err := jwks.NewKey(k.Signer.Public())
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, key)
	}
	s, err := jwks.NewSet(list...)
	if err != nil {
		t.Fatal(err)
	}
	body, err := s.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// serving reaches an API server through a proxy that answers with a JWKS of its own.
func serving(t *testing.T, cfg *rest.Config, body []byte) *rest.Config {
	t.Helper()
	return proxied(t, cfg, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != jwks.Path {
			return false
		}
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, err := w.Write(body)
		return err == nil
	})
}

// proxied reaches an API server through a proxy that answers some requests itself.
func proxied(t *testing.T, cfg *rest.Config, answer func(http.ResponseWriter, *http.Request) bool) *rest.Config {
	t.Helper()
	to, err := url.Parse(cfg.Host)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(to)
	if proxy.Transport, err = rest.TransportFor(cfg); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !answer(w, r) {
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL, QPS: -1}
}

// TestProofThatFails has each request that a proof consists of fail, each time as the first proof of its API server:
// the canary account is not there yet.
func TestProofThatFails(t *testing.T) {
	one, cfg := sharedServer(t)
	long := bytes.Repeat([]byte(" "), 1<<20)
	for name, c := range map[string]struct {
		path, status, want string
		external           bool
	}{
		"no token":               {"/keyturn-canary/token", "500", "requesting a token from http://127.0.0.1", false},
		"token that is none":     {"/keyturn-canary/token", garbage, "reading the token that http://127.0.0.1", false},
		"no account":             {"/serviceaccounts", "403", "creating ServiceAccount kube-system/keyturn-canary", false},
		"no review":              {"/tokenreviews", "503", "reviewing a canary token at http://127.0.0.1", false},
		"no JWKS":                {jwks.Path, "403", "reading the JWKS of http://127.0.0.1", false},
		"no discovery":           {jwks.DiscoveryPath, "403", "reading its discovery document", true},
		"no review to ask":       {"/tokenreviews", "500", "ask its signer", true},
		"JWKS that is none":      {jwks.Path, "{", "reading the JWKS of http://127.0.0.1", false},
		"endless JWKS":           {jwks.Path, string(long) + string(set(t, one)), "longer than 1048576 bytes", false},
		"discovery that is none": {jwks.DiscoveryPath, "[]", "reading its discovery document", true},
		"accepts anything":       {"/tokenreviews", authenticated, "a key that nobody has", true},
	} {
		faulty := proxied(t, cfg, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasSuffix(r.URL.Path, c.path) {
				return false
			}
			if code, err := strconv.Atoi(c.status); err == nil {
				w.WriteHeader(code)
				return true
			}
			w.Header().Set("Content-Type", "application/json")
			if _, err := w.Write([]byte(c.status)); err != nil {
				t.Error(err)
			}
			return true
		})
		removeCanaryAccount(t, cfg)
		proof, err := (&controlplane.Prover{}).Prove(t.Context(), controlplane.Question{
			Config: faulty, Keys: []keystore.KeyPair{one}, External: c.external,
		})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "eyJ") {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(controlplane.Proof{}, proof); diff != "" {
			t.Errorf("%s: a proof that failed proves something: %s", name, diff)
		}
	}
	// A document of exactly the size that is read passes.
	want(t, "long JWKS", controlplane.Proof{Accepts: []int{1}, Signs: 1, SigningKeyID: one.KeyID},
		ask(t, serving(t, cfg, append(long[len(set(t, one)):], set(t, one)...)), one))
}

// removeCanaryAccount makes the next proof create the account again.
func removeCanaryAccount(t *testing.T, cfg *rest.Config) {
	t.Helper()
	accounts := kubernetes.NewForConfigOrDie(cfg).CoreV1().ServiceAccounts(metav1.NamespaceSystem)
	err := accounts.Delete(t.Context(), "keyturn-canary", metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}

// garbage is an answer with what is no token.
const garbage = `{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","status":{"token":"garbage"}}`

// authenticated is a review that accepts a token.
const authenticated = `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","status":{"authenticated":true}}`

func TestProofOfAServerWithoutAHost(t *testing.T) {
	proof, err := (&controlplane.Prover{}).Prove(t.Context(), controlplane.Question{Config: &rest.Config{Host: "://"}})
	if err == nil || !strings.Contains(err.Error(), "making a client for ://") || proof.SigningKeyID != "" {
		t.Errorf("%+v, %v", proof, err)
	}
}

// TestProofOfAServerThatHangs must come to its end.
func TestProofOfAServerThatHangs(t *testing.T) {
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	t.Cleanup(func() { close(release); server.Close() })
	_, err := (&controlplane.Prover{}).Prove(t.Context(), controlplane.Question{Config: &rest.Config{Host: server.URL}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestProveAtASigner has an API server with a signer, whose keys change while both run. The refresh hint is an hour:
// what the API server knows of a change within this test, it has asked for because it was made to.
func TestProveAtASigner(t *testing.T) {
	one, two := generate(t, 1, "ES256"), generate(t, 2, "ES256")
	s := newSigner(t)
	s.configure(t, 1, one)
	s.start(t)
	cfg := s.startServer(t)
	prover := &controlplane.Prover{}
	question := controlplane.Question{Config: cfg, Keys: []keystore.KeyPair{one, two}, External: true}
	prove := func(q controlplane.Question) controlplane.Proof {
		t.Helper()
		proof, err := prover.Prove(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return proof
	}
	// until repeats the proof: the signer needs a moment to see that its key directory was changed.
	until := func(what string, is controlplane.Proof) {
		t.Helper()
		proven := func(context.Context) (bool, error) {
			got := prove(question)
			got.IssuedAt = time.Time{}
			return cmp.Equal(got, is), nil
		}
		if wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 5*time.Minute, true, proven) != nil {
			want(t, what, is, prove(question))
		}
	}
	until("one key", controlplane.Proof{Accepts: []int{1}, Refuses: []int{2}, Signs: 1, SigningKeyID: one.KeyID})
	s.configure(t, 1, one, two)
	until("publish", controlplane.Proof{Accepts: []int{1, 2}, Signs: 1, SigningKeyID: one.KeyID})
	s.configure(t, 2, one, two)
	until("switch", controlplane.Proof{Accepts: []int{1, 2}, Signs: 2, SigningKeyID: two.KeyID})
	s.configure(t, 2, two)
	unasked := question
	unasked.External = false
	want(t, "not asked", controlplane.Proof{Accepts: []int{1, 2}, Signs: 2, SigningKeyID: two.KeyID}, prove(unasked))
	until("retire", controlplane.Proof{Accepts: []int{2}, Refuses: []int{1}, Signs: 2, SigningKeyID: two.KeyID})

	question.Settled, question.Keys = true, []keystore.KeyPair{two}
	until("settled", controlplane.Proof{Accepts: []int{2}, Signs: 2, SigningKeyID: two.KeyID})
	s.configure(t, 2, one, two)
	until("a foreign key", controlplane.Proof{
		Accepts: []int{2}, Signs: 2, SigningKeyID: two.KeyID, Foreign: []string{one.KeyID},
	})
	s.configure(t, 1, one)
	until("another key", controlplane.Proof{SigningKeyID: one.KeyID, Foreign: []string{one.KeyID}})
}

// TestProveSettled has an API server that is asked for less than a whole proof, behind a proxy that alters some
// answers.
func TestProveSettled(t *testing.T) {
	one, cfg := sharedServer(t)
	two := generate(t, 2, "ES256")
	removeCanaryAccount(t, cfg)
	ask(t, cfg, one) // makes the canary account
	var requests atomic.Int64
	counted := func(cfg *rest.Config) *rest.Config {
		return proxied(t, cfg, func(http.ResponseWriter, *http.Request) bool { requests.Add(1); return false })
	}
	proof := controlplane.Proof{Accepts: []int{1}, Signs: 1, SigningKeyID: one.KeyID}
	unproven := controlplane.Proof{Signs: 1, SigningKeyID: one.KeyID}
	foreign := proof
	foreign.Foreign = []string{two.KeyID}
	another := controlplane.Proof{SigningKeyID: two.KeyID, Foreign: []string{two.KeyID}}
	forNobody := canaryClaims()
	forNobody.Audience = nil
	for name, c := range map[string]struct {
		cfg      *rest.Config
		external bool
		requests int64
		want     controlplane.Proof
	}{
		"as before":                   {cfg, false, 2, proof},
		"as before, with a signer":    {cfg, true, 3, proof},
		"a foreign key":               {serving(t, cfg, set(t, one, two)), false, 2, foreign},
		"its key is lost":             {serving(t, cfg, set(t)), false, 2, unproven},
		"another key by the same kid": {serving(t, cfg, impostor(t, one, two)), false, 2, unproven},
		"another signing key":         {issuingWith(t, cfg, two, two.KeyID), false, 2, another},
		"a signature that is none":    {issuingWith(t, cfg, two, one.KeyID), false, 2, unproven},
		"another key by the same kid, which also signs": {
			serving(t, issuingWith(t, cfg, two, one.KeyID), impostor(t, one, two)), false, 2, unproven,
		},
		"for nobody": {answering(t, cfg, "/token", issuingToken(signed(t, one, one.KeyID, forNobody))), false, 2, unproven},
	} {
		prover := &controlplane.Prover{}
		question := controlplane.Question{
			Config: counted(c.cfg), Keys: []keystore.KeyPair{one}, External: c.external, Settled: true,
		}
		for _, rest := range []string{"its issuer unknown", "its issuer known"} {
			requests.Store(0)
			got, err := prover.Prove(t.Context(), question)
			if err != nil {
				t.Errorf("%s, %s: %v", name, rest, err)
			}
			want(t, name+", "+rest, c.want, got)
		}
		if n := requests.Load(); n != c.requests {
			t.Errorf("%s: the proof took %d requests, want %d", name, n, c.requests)
		}
	}
}

// impostor is a JWKS with the kid of one key and the other key.
func impostor(t *testing.T, kid, key keystore.KeyPair) []byte {
	t.Helper()
	return bytes.ReplaceAll(set(t, key), []byte(key.KeyID), []byte(kid.KeyID))
}

// issuingWith reaches an API server through a proxy that has a key sign the tokens that it issues, with a kid.
func issuingWith(t *testing.T, cfg *rest.Config, key keystore.KeyPair, kid string) *rest.Config {
	t.Helper()
	return answering(t, cfg, "/token", issuingToken(signed(t, key, kid, canaryClaims())))
}

// canaryClaims are the claims of a token of the canary account.
func canaryClaims() token.Claims {
	return token.NewBoundClaims(issuer, []string{issuer}, token.Kubernetes{
		Namespace: "kube-system", ServiceAccount: token.Ref{Name: "keyturn-canary", UID: "1"},
	}, time.Now(), time.Hour)
}

func signed(t *testing.T, key keystore.KeyPair, kid string, claims token.Claims) string {
	t.Helper()
	text, err := token.Sign(rand.Reader, key.Signer, key.Algorithm, kid, claims)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestSignsNothingElse has somebody answer in the place of an API server who wants other claims signed by the keys of
// the cluster. Nothing is signed, and so nothing reaches TokenReview.
func TestSignsNothingElse(t *testing.T) {
	one, cfg := sharedServer(t)
	thief := generate(t, 1, "ES256")
	for name, change := range map[string]func(*token.Claims){
		"nothing":                     func(*token.Claims) {},
		"another subject":             func(c *token.Claims) { c.Subject = "system:serviceaccount:kube-system:default" },
		"another account":             func(c *token.Claims) { c.Kubernetes.ServiceAccount.Name = "namespace-controller" },
		"another namespace":           func(c *token.Claims) { c.Kubernetes.Namespace = "default" },
		"no account":                  func(c *token.Claims) { c.Kubernetes = nil },
		"a legacy token":              func(c *token.Claims) { c.Legacy = &token.Legacy{Namespace: "kube-system"} },
		"bound to a pod":              func(c *token.Claims) { c.Kubernetes.Pod = &token.Ref{Name: "a"} },
		"bound to a node":             func(c *token.Claims) { c.Kubernetes.Node = &token.Ref{Name: "a"} },
		"bound to a Secret":           func(c *token.Claims) { c.Kubernetes.Secret = &token.Ref{Name: "a"} },
		"a life of more than an hour": func(c *token.Claims) { c.Expiry++ },
		"no life":                     func(c *token.Claims) { c.Expiry = c.IssuedAt },
		"no end":                      func(c *token.Claims) { c.Expiry = 0 },
		"no time of issue":            func(c *token.Claims) { c.IssuedAt, c.Expiry = 0, 600 },
	} {
		claims := canaryClaims()
		change(&claims)
		var reviewed atomic.Int32
		impostor := answering(t, cfg, "/token", issuingToken(signed(t, thief, one.KeyID, claims)))
		counted := proxied(t, impostor, func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "/tokenreviews") {
				reviewed.Add(1)
			}
			return false
		})
		_, err := (&controlplane.Prover{}).Prove(t.Context(), controlplane.Question{
			Config: counted, Keys: []keystore.KeyPair{one},
		})
		if refused := err != nil; refused != (name != "nothing") || (reviewed.Load() > 0) == refused {
			t.Errorf("%s: %v, after %d reviews", name, err, reviewed.Load())
		}
	}
}

// TestIssuerIsRemembered counts the requests of proofs. An issuer that the tokens no longer have proves
// nothing, and is read again.
func TestIssuerIsRemembered(t *testing.T) {
	one, cfg := sharedServer(t)
	removeCanaryAccount(t, cfg)
	ask(t, cfg, one) // makes the canary account
	var stale bool
	var requests []string
	counted := proxied(t, cfg, func(w http.ResponseWriter, r *http.Request) bool {
		requests = append(requests, r.URL.Path)
		if !stale || r.URL.Path != jwks.DiscoveryPath {
			return false
		}
		elsewhere, err := jwks.NewDiscovery("https://elsewhere.test", "https://elsewhere.test/keys", jwks.Set{})
		if err != nil {
			t.Error(err)
		}
		body, err := elsewhere.Marshal()
		if err != nil {
			t.Error(err)
		}
		_, err = w.Write(body)
		return err == nil
	})
	prover := &controlplane.Prover{}
	prove := func(asked int) error {
		t.Helper()
		requests = nil
		proof, err := prover.Prove(t.Context(), controlplane.Question{
			Config: counted, Keys: []keystore.KeyPair{one}, External: true, Cluster: "cluster",
		})
		if len(requests) != asked {
			t.Errorf("a proof took the requests %q, want %d", requests, asked)
		}
		if err == nil {
			want(t, "one key", controlplane.Proof{Accepts: []int{1}, Signs: 1, SigningKeyID: one.KeyID}, proof)
		}
		return err
	}
	stale = true
	if err := prove(3); err == nil || !strings.Contains(err.Error(), `its issuer changed from "https://elsewhere.test"`) {
		t.Errorf("with the issuer of before: %v", err)
	}
	stale = false
	for _, asked := range []int{5, 4, 4} {
		if err := prove(asked); err != nil {
			t.Error(err)
		}
	}
	prover.Forget("cluster")
	if err := prove(5); err != nil {
		t.Error(err)
	}
}

// testSigner is keyturn-signer with a key directory.
type testSigner struct {
	keyDir  string
	socket  string
	program string
}

// configure writes the keys that the signer serves, and the version that signs. The refresh hint is an hour.
func (s testSigner) configure(t *testing.T, sign int, pairs ...keystore.KeyPair) {
	t.Helper()
	set := keydir.Set{
		SigningVersion: sign, RefreshHint: time.Hour, RotationRefreshHint: time.Hour, MaxTokenExpiration: time.Hour,
	}
	for _, pair := range pairs {
		k, err := keydir.NewKey(pair.Version, pair.Signer)
		if err != nil {
			t.Fatal(err)
		}
		set.Keys = append(set.Keys, k)
	}
	if err := keydir.Write(s.keyDir, set); err != nil {
		t.Fatal(err)
	}
}

// startServer starts an API server that has the signer.
func (s testSigner) startServer(t *testing.T) *rest.Config {
	t.Helper()
	return kubetest.Start(t, kubetest.Options{APIServerArgs: map[string][]string{
		"service-account-issuer": {issuer}, "service-account-signing-endpoint": {s.socket},
		"service-account-signing-key-file": nil, "service-account-key-file": nil,
	}})
}

func newSigner(t *testing.T) testSigner {
	t.Helper()
	dir, err := os.MkdirTemp("", "kts") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := testSigner{
		keyDir: filepath.Join(dir, "keys"), socket: filepath.Join(dir, "run", "s"),
		program: filepath.Join(dir, "keyturn-signer"),
	}
	kubetest.Build(t, dir, "../../cmd/keyturn-signer")
	return s
}

func (s testSigner) start(t *testing.T) {
	t.Helper()
	cmd := exec.Command(s.program, "--socket="+s.socket, "--key-dir="+s.keyDir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
	})
}
