package signer

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/jwks"
)

// boundClaims are of the size of those of a pod's token.
const boundClaims = `{"aud":["https://kubernetes.default.svc.cluster.local"],"exp":1831536000,"iat":1800000000,` +
	`"iss":"https://kubernetes.default.svc.cluster.local",` +
	`"jti":"0f6f3f3b-2a06-4d5a-a6b6-6c3f4d10a0b0","kubernetes.io":{"namespace":"default",` +
	`"node":{"name":"node-1","uid":"3b2a06d5-6c3f-4d10-a0b0-a0f6f3f3b2a0"},` +
	`"pod":{"name":"web-5d78c9869d-2xk7q","uid":"4d10a0b0-6c3f-4d10-a0b0-a0f6f3f3b2a0"},` +
	`"serviceaccount":{"name":"web","uid":"a0f6f3f3-6c3f-4d10-a0b0-a0f6f3f3b2a0"},` +
	`"warnafter":1800003607},"nbf":1800000000,"sub":"system:serviceaccount:default:web"}`

// benchWorld is a signer from which the API server has its key, and a request.
func benchWorld(b *testing.B, algorithm string) (*world, *externaljwt.SignJWTRequest) {
	b.Helper()
	w := newWorld(b, algorithm)
	w.write(1, 1)
	w.start()
	w.signer.env = systemEnvironment()
	w.fetch()
	return w, &externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(boundClaims))}
}

// BenchmarkSign compares the bare signature, Sign in this process, and Sign over the socket by 16 clients.
func BenchmarkSign(b *testing.B) {
	for _, algorithm := range []string{jwks.ES256, jwks.RS256} {
		b.Run(algorithm+"/bare", func(b *testing.B) {
			w, _ := benchWorld(b, algorithm)
			key, err := backend.PEM{}.Open(w.keys[1])
			if err != nil {
				b.Fatal(err)
			}
			digest := sha256.Sum256([]byte(boundClaims))
			for b.Loop() {
				if _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
					b.Fatal(err)
				}
			}
			perSecond(b)
		})
		b.Run(algorithm+"/process", func(b *testing.B) {
			w, request := benchWorld(b, algorithm)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.signer.Sign(b.Context(), request); err != nil {
					b.Fatal(err)
				}
			}
			perSecond(b)
		})
		b.Run(algorithm+"/bare, 16 at once", func(b *testing.B) {
			w, _ := benchWorld(b, algorithm)
			key, err := backend.PEM{}.Open(w.keys[1])
			if err != nil {
				b.Fatal(err)
			}
			digest := sha256.Sum256([]byte(boundClaims))
			parallel(b, func(context.Context) error {
				_, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
				return err
			})
		})
		b.Run(algorithm+"/socket, 16 at once", func(b *testing.B) {
			w, request := benchWorld(b, algorithm)
			parallel(b, func(ctx context.Context) error {
				_, err := w.client.Sign(ctx, request)
				return err
			})
		})
	}
}

func parallel(b *testing.B, do func(context.Context) error) {
	b.SetParallelism(8) // on two processors: 16
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if err := do(b.Context()); err != nil {
				b.Error(err)
			}
		}
	})
	perSecond(b)
}

func perSecond(b *testing.B) {
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "signatures/s")
}

func BenchmarkFetchKeys(b *testing.B) {
	b.Run("process", func(b *testing.B) {
		w, _ := benchWorld(b, jwks.ES256)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := w.signer.FetchKeys(b.Context(), nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("socket", func(b *testing.B) {
		w, _ := benchWorld(b, jwks.ES256)
		for b.Loop() {
			w.fetch()
		}
	})
}

// BenchmarkFlood signs over the socket, calmly and while one caller fetches keys as fast as he can: kube-apiserver has
// at most one FetchKeys call under way, however many forged kids it meets.
func BenchmarkFlood(b *testing.B) {
	for _, flood := range []bool{false, true} {
		name := "calm"
		if flood {
			name = "flood"
		}
		b.Run(name, func(b *testing.B) {
			w, request := benchWorld(b, jwks.ES256)
			ctx, stop := context.WithCancel(b.Context())
			var flooding sync.WaitGroup
			var fetches atomic.Int64
			if flood {
				flooding.Go(func() {
					for ctx.Err() == nil {
						_, _ = w.client.FetchKeys(ctx, &externaljwt.FetchKeysRequest{})
						fetches.Add(1)
					}
				})
			}
			var took []time.Duration
			for b.Loop() {
				began := time.Now()
				if _, err := w.client.Sign(ctx, request); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
			b.ReportMetric(float64(fetches.Load())/b.Elapsed().Seconds(), "fetches/s")
			stop()
			flooding.Wait()
		})
	}
}

// BenchmarkParts measures what Sign costs beside the bare signature.
func BenchmarkParts(b *testing.B) {
	w, request := benchWorld(b, jwks.ES256)
	k, err := w.signer.signing()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("claims", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := readClaims(request.Claims); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("encoding", func(b *testing.B) {
		der, err := k.signer.Sign(rand.Reader, k.digest(nil), k.hash)
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for b.Loop() {
			if _, err := fixedSize(der, k.size); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("bare", func(b *testing.B) {
		digest := k.digest(nil)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.signer.Sign(rand.Reader, digest, k.hash); err != nil {
				b.Fatal(err)
			}
		}
	})
}
