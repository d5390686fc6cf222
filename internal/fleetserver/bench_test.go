package fleetserver_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/keyturn/keyturn/internal/keystore"
)

// BenchmarkExchange trades tokens without a network. Compare it with verify, which is go-jose's verification alone.
func BenchmarkExchange(b *testing.B) {
	f := newFleet(b)
	f.register("m", first, rsaKey)
	for _, k := range []keystore.KeyPair{first, rsaKey} {
		subject := f.good(k)
		body := form("m", subject).Encode()
		b.Run(k.Algorithm+"/exchange", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequest(http.MethodPost, "/v1/token", strings.NewReader(body))
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				w := httptest.NewRecorder()
				if f.ServeHTTP(w, r); w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
		b.Run(k.Algorithm+"/verify", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				parsed, err := jwt.ParseSigned(subject, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(k.Algorithm)})
				must(b, err)
				var c jwt.Claims
				must(b, parsed.Claims(k.Signer.Public(), &c))
			}
		})
	}
}
