package controlplane_test

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/jwks"
)

// kids are the kids of what an API server serves, ascending.
func kids(s controlplane.Served) (kids []string) {
	for _, k := range s.Keys.Keys() {
		kids = append(kids, k.KeyID)
	}
	slices.Sort(kids)
	return kids
}

func kidsOf(keys ...keystore.KeyPair) (kids []string) {
	for _, k := range keys {
		kids = append(kids, k.KeyID)
	}
	slices.Sort(kids)
	return kids
}

// TestServed asks an API server that has its keys in files.
func TestServed(t *testing.T) {
	one, two := generate(t, 1, "RS256"), generate(t, 2, "ES256")
	cfg := kubetest.Start(t, kubetest.Options{APIServerArgs: keyFiles(t, two, one, two)})
	prover := &controlplane.Prover{}
	for range 2 { // with the canary account made and then found, and the issuer read and then remembered
		s, err := prover.Served(t.Context(), "uid", cfg)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(kids(s), kidsOf(one, two)) || s.SigningKeyID != two.KeyID || s.External || s.IssuedAt.IsZero() {
			t.Errorf("served %v, signs with %s, external %v, at %s", kids(s), s.SigningKeyID, s.External, s.IssuedAt)
		}
	}
}

// TestServedBySigner asks an API server that has a signer, whose keys change. The refresh hint is an hour: the API
// server knows of the change because it was made to ask.
func TestServedBySigner(t *testing.T) {
	one, two := generate(t, 1, "ES256"), generate(t, 2, "ES256")
	s := newSigner(t)
	s.configure(t, 1, one)
	s.start(t)
	cfg := s.startServer(t)
	prover := &controlplane.Prover{}
	until := func(signs keystore.KeyPair, served ...keystore.KeyPair) {
		t.Helper()
		var last controlplane.Served
		seen := func(ctx context.Context) (is bool, err error) {
			last, err = prover.Served(ctx, "uid", cfg)
			return last.SigningKeyID == signs.KeyID && slices.Equal(kids(last), kidsOf(served...)), err
		}
		err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, 5*time.Minute, true, seen)
		if err != nil || !last.External {
			t.Fatalf("served %v, signs with %s, external %v: %v", kids(last), last.SigningKeyID, last.External, err)
		}
	}
	until(one, one)
	s.configure(t, 1, one, two)
	until(one, one, two)
	s.configure(t, 2, two)
	until(two, two)
}

// TestServedFails has each request fail that the answer consists of.
func TestServedFails(t *testing.T) {
	one, cfg := sharedServer(t)
	const requested = "/keyturn-canary/token"
	elsewhere := canaryClaims()
	elsewhere.Issuer = "https://other"
	for name, c := range map[string]struct {
		path   string
		answer http.HandlerFunc
		want   string
	}{
		"no discovery":        {jwks.DiscoveryPath, status(http.StatusForbidden), "ask its signer"},
		"accepts anything":    {"/tokenreviews", acceptAll, "a key that nobody has"},
		"no token":            {requested, status(http.StatusNotFound), "requesting a token from http://127.0.0.1"},
		"token that is none":  {requested, issuingToken("garbage"), "reading the token that http://127.0.0.1"},
		"another issuer":      {requested, issuingToken(signed(t, one, one.KeyID, elsewhere)), "ask its signer"},
		"header that is none": {requested, issuing(`{`, `{"iat":1}`), "reading the token that http://127.0.0.1"},
		"another account": {requested, issuing(`{"alg":"ES256","kid":"a"}`,
			`{"iat":1,"exp":2,"sub":"system:serviceaccount:kube-system:default"}`), "ServiceAccount kube-system/keyturn-canary"},
		"no JWKS": {jwks.Path, status(http.StatusForbidden), "reading the JWKS of http://127.0.0.1"},
	} {
		_, err := (&controlplane.Prover{}).Served(t.Context(), "uid", answering(t, cfg, c.path, c.answer))
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "eyJ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	silent := answering(t, cfg, jwks.Path, status(http.StatusForbidden))
	_, err := (&controlplane.Prover{}).Served(t.Context(), "uid", silent)
	if !apierrors.IsForbidden(err) {
		t.Errorf("the JWKS is forbidden, and the error is %v", err)
	}
	if _, err := (&controlplane.Prover{}).Served(t.Context(), "uid", &rest.Config{Host: "://"}); err == nil {
		t.Error("an API server without a host serves keys")
	}
}

// acceptAll answers each review of a token as if the token was accepted.
func acceptAll(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write([]byte(authenticated))
}

// TestServedAfterForget has Served read the issuer of an API server again once its cluster was forgotten.
func TestServedAfterForget(t *testing.T) {
	_, cfg := sharedServer(t)
	read := 0
	counted := proxied(t, cfg, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == jwks.DiscoveryPath {
			read++
		}
		return false
	})
	prover := &controlplane.Prover{}
	for _, want := range []int{1, 1, 2} {
		if want == 2 {
			prover.Forget("uid")
		}
		if _, err := prover.Served(t.Context(), "uid", counted); err != nil {
			t.Error(err)
		}
		if read != want {
			t.Errorf("the discovery document was read %d times, want %d", read, want)
		}
	}
}

// status answers with a status and no body.
func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}
