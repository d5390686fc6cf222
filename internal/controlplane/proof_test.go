package controlplane_test

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// answering reaches an API server through a proxy that answers the requests for a path itself.
func answering(t *testing.T, cfg *rest.Config, path string, answer http.HandlerFunc) *rest.Config {
	t.Helper()
	return proxied(t, cfg, func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, path) {
			return false
		}
		answer(w, r)
		return true
	})
}

// issuing answers the request for a token with parts in clear text.
func issuing(header, claims string) http.HandlerFunc {
	encode := base64.RawURLEncoding.EncodeToString
	return issuingToken(encode([]byte(header)) + "." + encode([]byte(claims)) + ".AAAA")
}

func issuingToken(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w,
			`{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","status":{"token":%q}}`, text)
	}
}

func forbidden(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }

// TestOddAnswers has an API server give tokens and documents of which a part is not as it must be.
func TestOddAnswers(t *testing.T) {
	one, cfg := sharedServer(t)
	good := set(t, one)
	cut := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "5000")
		_, _ = w.Write(good)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	const requested, header = "/keyturn-canary/token", `{"alg":"ES256","kid":"a"}`
	for name, c := range map[string]struct {
		path     string
		answer   http.HandlerFunc
		external bool
		want     string
	}{
		"no header":         {requested, issuing(`{`, `{"iat":1}`), false, "reading the token that"},
		"no claims":         {requested, issuing(header, `{}`), false, "reading the token that"},
		"time that is none": {requested, issuing(header, `{"iat":"1"}`), false, "reading the token that"},
		"claims not encoded": {
			requested, issuingToken("eyJhbGciOiJFUzI1NiIsImtpZCI6ImEifQ.*.AAAA"), false, "reading the token that",
		},
		"two parts":           {requested, issuingToken("a.b"), true, "issued: malformed"},
		"issuer that is none": {requested, issuing(header, `{"iat":1,"iss":7}`), true, "reading the token that"},
		"JWKS cut off":        {jwks.Path, cut, false, "unexpected EOF"},
	} {
		_, err := (&controlplane.Prover{}).Prove(t.Context(), controlplane.Question{
			Config: answering(t, cfg, c.path, c.answer), Keys: []keystore.KeyPair{one}, External: c.external,
		})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "eyJ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for path, external := range map[string]bool{jwks.Path: false, jwks.DiscoveryPath: true} {
		_, err := (&controlplane.Prover{}).Prove(t.Context(), controlplane.Question{
			Config: answering(t, cfg, path, forbidden), External: external,
		})
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s is forbidden, and the error is %v", path, err)
		}
	}
}

// TestForeignKeysAscend also reads the canary tokens, which live no longer than they must.
func TestForeignKeysAscend(t *testing.T) {
	one, cfg := sharedServer(t)
	served, kids := []keystore.KeyPair{one}, []string{one.KeyID}
	for version := range 5 {
		k := generate(t, version+10, "ES256")
		served, kids = append(served, k), append(kids, k.KeyID)
	}
	slices.Sort(kids)
	body := set(t, served...)
	canary := regexp.MustCompile(`eyJ[\w-]+\.[\w-]+\.[\w-]+`)
	var tokens []string
	through := proxied(t, cfg, func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/tokenreviews") {
			review, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			tokens = append(tokens, string(canary.Find(review)))
			r.Body = io.NopCloser(strings.NewReader(string(review)))
		}
		if r.URL.Path != jwks.Path {
			return false
		}
		_, err := w.Write(body)
		return err == nil
	})
	proof := ask(t, through, generate(t, 2, "ES256"))
	if diff := cmp.Diff(kids, proof.Foreign); diff != "" {
		t.Errorf("foreign keys (-want +got):\n%s", diff)
	}
	if len(tokens) != 1 {
		t.Fatalf("%d canary tokens", len(tokens))
	}
	_, claims, err := token.ParseUnverified(tokens[0])
	if err != nil {
		t.Fatal(err)
	}
	if life := claims.Expiry.Time().Sub(claims.IssuedAt.Time()); life != 10*time.Minute {
		t.Errorf("a canary token lives for %s", life)
	}
}

// TestIssuersAreKeptApart has proofs of several API servers of several clusters read each issuer once.
func TestIssuersAreKeptApart(t *testing.T) {
	one, cfg := sharedServer(t)
	prover, read := &controlplane.Prover{}, 0
	server := func() *rest.Config {
		return proxied(t, cfg, func(_ http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == jwks.DiscoveryPath {
				read++
			}
			return false
		})
	}
	type question struct {
		cluster string
		config  *rest.Config
	}
	questions := []question{{"a", server()}, {"a", server()}, {"b", server()}}
	for range 2 {
		for _, q := range questions {
			_, err := prover.Prove(t.Context(), controlplane.Question{
				Cluster: types.UID(q.cluster), Config: q.config, Keys: []keystore.KeyPair{one}, External: true,
			})
			if err != nil {
				t.Error(err)
			}
		}
	}
	if read != len(questions) {
		t.Errorf("%d discovery documents were read, want %d", read, len(questions))
	}
}
