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
	keys, sign, ok := h.keysOf(parts[0], parts[1])
	if !ok {
		<-r.Context().Done()
		return
	}
	switch path := "/" + parts[2]; {
	case path == jwks.DiscoveryPath:
		answer(w, map[string]any{
			"issuer": v1alpha1.DefaultIssuer, "jwks_uri": v1alpha1.DefaultIssuer + jwks.Path,
			"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
			"id_token_signing_alg_values_supported": []string{jwks.ES256},
		})
	case path == jwks.Path:
		serveKeys(w, keys)
	case strings.HasSuffix(path, "/token"):
		issueToken(w, sign)
	case strings.HasSuffix(path, "/tokenreviews"):
		review(w, r, keys)
	case r.Method == http.MethodGet:
		answer(w, map[string]any{
			"kind": "List", "apiVersion": "v1", "metadata": map[string]string{"resourceVersion": "1"}, "items": []int{},
		})
	default:
		http.NotFound(w, r)
	}
}

// keysOf are the keys that an API server accepts, and the one that it signs with; false if it is silent.
func (h *Host) keysOf(name, apiServer string) (accepted []keystore.KeyPair, sign keystore.KeyPair, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.clusters[name]
	if c == nil || c.silent {
		return nil, sign, false
	}
	i := slices.IndexFunc(c.servers, func(s server) bool { return s.name == apiServer })
	if i < 0 {
		return nil, sign, false
	}
	for _, k := range c.keys {
		if slices.Contains(c.servers[i].keys.Verify, k.Version) {
			accepted = append(accepted, k)
		}
		if c.servers[i].keys.Sign == k.Version {
			sign = k
		}
	}
	return accepted, sign, true
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

func serveKeys(w http.ResponseWriter, keys []keystore.KeyPair) {
	var public []jwks.Key
	for _, k := range keys {
		public = append(public, jwks.Key{KeyID: k.KeyID, Algorithm: k.Algorithm, Public: k.Signer.Public()})
	}
	set, err := jwks.NewSet(public...)
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

func review(w http.ResponseWriter, r *http.Request, keys []keystore.KeyPair) {
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
	known := slices.ContainsFunc(keys, func(k keystore.KeyPair) bool { return k.KeyID == kid })
	answer(w, authenticationv1.TokenReview{
		TypeMeta: metav1.TypeMeta{Kind: "TokenReview", APIVersion: "authentication.k8s.io/v1"},
		Status:   authenticationv1.TokenReviewStatus{Authenticated: err == nil && known},
	})
}
