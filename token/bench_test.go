package token_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"testing"
	"time"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// BenchmarkSign signs legacy tokens. Compare ES256 with raw, the signature alone.
func BenchmarkSign(b *testing.B) {
	b.Run("ES256/raw", func(b *testing.B) {
		key := private(b, "p256-1").key.(*ecdsa.PrivateKey)
		digest := sha256.Sum256(nil)
		for b.Loop() {
			if _, err := ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("RS256/raw", func(b *testing.B) {
		key := private(b, "rsa-1").key
		digest := sha256.Sum256(nil)
		for b.Loop() {
			if _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
				b.Fatal(err)
			}
		}
	})
	for alg, name := range map[string]string{jwks.ES256: "p256-1", jwks.RS256: "rsa-1"} {
		b.Run(alg+"/token", func(b *testing.B) {
			signer, claims := private(b, name).signer(b), legacyClaims()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := signer.Sign(rand.Reader, claims); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	for alg, name := range map[string]string{jwks.ES256: "p256-1", jwks.RS256: "rsa-1"} {
		b.Run(alg, func(b *testing.B) {
			signed, err := private(b, name).signer(b).Sign(rand.Reader, boundClaims())
			if err != nil {
				b.Fatal(err)
			}
			keys := set(b, name)
			expect := token.Expect{Issuer: "https://issuer.example", Audience: "sts.example", Now: now.Add(time.Minute)}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := token.Verify(signed, keys, expect); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkKeyID(b *testing.B) {
	signed, err := private(b, "p256-1").signer(b).Sign(rand.Reader, boundClaims())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := token.KeyID(signed); err != nil {
			b.Fatal(err)
		}
	}
}
