package legacytoken

import (
	"bytes"
	"context"
	"crypto/rand"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

// BenchmarkPass compares whole walks with bare updates of the same Secrets, by as many workers, that are listed
// before and not signed: what the API server can do at all. Both take turns, so that noise hits both.
func BenchmarkPass(b *testing.B) {
	const secrets = 2000
	for _, algorithm := range []string{jwks.ES256, jwks.RS256} {
		b.Run(algorithm, func(b *testing.B) {
			c := newCluster(b, algorithm)
			for _, namespace := range []string{"a", "b", "c", "d"} {
				c.fill(b, namespace, secrets/4)
			}
			r := &Refresher{Client: c.client}
			keys := []keystore.KeyPair{c.new, c.old}
			var ours, bare time.Duration
			n := 0
			for b.Loop() {
				start := time.Now()
				if result := pass(b, r, targetOf(b, keys[n%2])); result.Resigned != secrets {
					b.Fatalf("result = %+v, want %d re-signed", result, secrets)
				}
				ours += time.Since(start)
				bare += c.updateAll(b)
				n++
			}
			total := float64(n * secrets)
			b.ReportMetric(total/ours.Seconds(), "secrets/s")
			b.ReportMetric(total/bare.Seconds(), "bare/s")
			b.ReportMetric(bare.Seconds()/ours.Seconds(), "ratio")
		})
	}
}

// updateAll changes every Secret once, without a change of its size, and returns how long that took.
func (c *cluster) updateAll(b *testing.B) time.Duration {
	b.Helper()
	list, err := c.client.CoreV1().Secrets("").List(b.Context(),
		metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)})
	if err != nil {
		b.Fatal(err)
	}
	next := make(chan *corev1.Secret)
	var workers sync.WaitGroup
	start := time.Now()
	for range DefaultWorkers {
		workers.Go(func() {
			for s := range next {
				c.change(b, s)
			}
		})
	}
	for i := range list.Items {
		next <- &list.Items[i]
	}
	close(next)
	workers.Wait()
	return time.Since(start)
}

// change puts as many other bytes in the place of the token's signature.
func (c *cluster) change(b *testing.B, s *corev1.Secret) {
	held := s.Data[corev1.ServiceAccountTokenKey]
	copy(held[bytes.LastIndexByte(held, '.')+1:], rand.Text())
	options := metav1.UpdateOptions{FieldManager: fieldManager}
	if _, err := c.client.CoreV1().Secrets(s.Namespace).Update(context.Background(), s, options); err != nil {
		b.Error(err)
	}
}
