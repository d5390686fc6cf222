package simulated

import (
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// serveAPI answers for one API server, whose cluster and name begin the path.
func (h *Host) serveAPI(w http.ResponseWriter, r *http.Request) {
	parts := strings.SplitN(strings.TrimPrefix(r.URL.Path, "/"), "/", 3)
	if len(parts) < 3 {
		http.NotFound(w, r)
		return
	}
	keys, ok := h.keysOf(parts[0], parts[1])
	if !ok {
		<-r.Context().Done()
		return
	}
	switch path := "/" + parts[2]; {
	case keys.answer(w, r, path):
	case r.Method == http.MethodGet:
		answer(w, map[string]any{
			"kind": "List", "apiVersion": "v1", "metadata": map[string]string{"resourceVersion": "1"}, "items": []int{},
		})
	default:
		http.NotFound(w, r)
	}
}

// served are the keys that an API server accepts, and the one that it signs with.
type served struct {
	accepted []jwks.Key
	sign     keystore.KeyPair
}

// answer answers what is about keys, and reports whether the request was.
func (s served) answer(w http.ResponseWriter, r *http.Request, path string) bool {
	switch {
	case path == jwks.DiscoveryPath:
		answer(w, map[string]any{
			"issuer": v1alpha1.DefaultIssuer, "jwks_uri": v1alpha1.DefaultIssuer + jwks.Path,
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{jwks.ES256},
		})
	case path == jwks.Path:
		serveKeys(w, s.accepted)
	case strings.HasSuffix(path, "/token"):
		issueToken(w, s.sign)
	case strings.HasSuffix(path, "/tokenreviews"):
		review(w, r, s.accepted)
	default:
		return false
	}
	return true
}

// keysOf are the keys of an API server; false if it is silent.
func (h *Host) keysOf(name, apiServer string) (keys served, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.clusters[name]
	if c == nil || c.silent {
		return keys, false
	}
	i := slices.IndexFunc(c.servers, func(s server) bool { return s.name == apiServer })
	if i < 0 {
		return keys, false
	}
	for _, k := range c.keys {
		if slices.Contains(c.servers[i].keys.Verify, k.Version) {
			keys.accepted = append(keys.accepted, jwks.Key{KeyID: k.KeyID, Algorithm: k.Algorithm, Public: k.Signer.Public()})
		}
		if c.servers[i].keys.Sign == k.Version {
			keys.sign = k
		}
	}
	return keys, true
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func serveKeys(w http.ResponseWriter, keys []jwks.Key) {
	set, err := jwks.NewSet(keys...)
	if err == nil {
		var data []byte
		if data, err = set.Marshal(); err == nil {
			w.Header().Set("Content-Type", "application/jwk-set+json")
			_, _ = w.Write(data)
			return
		}
	}
	http.Error(w, err.Error(), http.StatusInternalServerError)
}

func issueToken(w http.ResponseWriter, sign keystore.KeyPair) {
	claims := token.NewBoundClaims(v1alpha1.DefaultIssuer, []string{v1alpha1.DefaultIssuer}, token.Kubernetes{
		Namespace: metav1.NamespaceSystem, ServiceAccount: token.Ref{Name: v1alpha1.CanaryAccount, UID: "simulated"},
	}, time.Now(), 10*time.Minute)
	text, err := token.Sign(rand.Reader, sign.Signer, sign.Algorithm, sign.KeyID, claims)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{Kind: "TokenRequest", APIVersion: "authentication.k8s.io/v1"},
		Status:   authenticationv1.TokenRequestStatus{Token: text},
	})
}

func review(w http.ResponseWriter, r *http.Request, keys []jwks.Key) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var asked authenticationv1.TokenReview
	if _, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &asked); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	kid, err := token.KeyID(asked.Spec.Token)
	known := slices.ContainsFunc(keys, func(k jwks.Key) bool { return k.KeyID == kid })
	answer(w, authenticationv1.TokenReview{
		TypeMeta: metav1.TypeMeta{Kind: "TokenReview", APIVersion: "authentication.k8s.io/v1"},
		Status:   authenticationv1.TokenReviewStatus{Authenticated: err == nil && known},
	})
}
