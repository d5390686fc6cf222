package signer

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"maps"
	"testing"

	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/jwks"
)

func TestSign(t *testing.T) {
	for _, algorithm := range []string{jwks.RS256, jwks.ES256, jwks.ES384} {
		t.Run(algorithm, func(t *testing.T) {
			w := newWorld(t, algorithm)
			w.write(1, 1)
			w.start()
			w.fetch()
			w.wantSigner(1, "at the start")
			r, err := w.client.Sign(t.Context(),
				&externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(claims))})
			if err != nil {
				t.Fatal(err)
			}
			raw, err := base64.RawURLEncoding.DecodeString(r.Header)
			if err != nil {
				t.Fatal(err)
			}
			kid, err := jwks.KeyID(w.keys[1].Public)
			if err != nil {
				t.Fatal(err)
			}
			var header map[string]string
			want := map[string]string{"alg": algorithm, "kid": kid, "typ": "JWT"}
			if err := json.Unmarshal(raw, &header); err != nil || !maps.Equal(header, want) {
				t.Errorf("header %s (%v), want %v", raw, err, want)
			}
		})
	}
}

func TestFetchKeysAndMetadata(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	excluded := w.keys[3]
	excluded.VerifyOnly, excluded.ExcludeFromOIDCDiscovery = true, true
	w.keys[3] = excluded
	w.write(1, 1, 3)
	w.start()
	r := w.fetch()
	if r.RefreshHintSeconds != 3600 {
		t.Errorf("refresh hint %d s with one key and an excluded one, want 3600", r.RefreshHintSeconds)
	}
	for i, version := range []int{1, 3} {
		k := r.Keys[i]
		public, err := x509.ParsePKIXPublicKey(k.Key)
		kid, errKid := jwks.KeyID(public)
		if err != nil || errKid != nil || k.KeyId != kid || !backend.Same(public, w.keys[version].Public) ||
			k.ExcludeFromOidcDiscovery != (version == 3) {
			t.Errorf("key version %d: %v, %v", version, k, err)
		}
	}
	w.write(1, 1, 2, 3)
	if r := w.fetch(); r.RefreshHintSeconds != 3 || len(r.Keys) != 3 {
		t.Errorf("refresh hint %d s with two keys, want 3", r.RefreshHintSeconds)
	}
	m, err := w.client.Metadata(t.Context(), &externaljwt.MetadataRequest{})
	if err != nil || m.MaxTokenExpirationSeconds != 86400 {
		t.Errorf("%v, %v; want 86400", m, err)
	}
}
