package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/legacytoken"
	"github.com/keyturn/keyturn/token"
)

const (
	// namespaces is over how many namespaces the Secrets are spread.
	namespaces = 10
	robot      = "robot"
	rootCA     = "kube-root-ca.crt"
	// refresherName is the field manager of the Refresher. Bare updates use it too, or else the two would take
	// each other's fields and write longer managedFields than either does alone.
	refresherName = "keyturn-legacytoken"
)

// ofTokens selects legacy tokens.
var ofTokens = metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)}

// secretsOf are the legacy tokens of one cluster.
type secretsOf struct {
	client kubernetes.Interface
	count  int
}

// fill creates the Secrets as kube-controller-manager would leave them, which then finds nothing to do about them.
func (s *secretsOf) fill(ctx context.Context, key keystore.KeyPair) error {
	target, err := legacytoken.NewTarget(key)
	if err != nil {
		return err
	}
	for n := range namespaces {
		if err := s.fillNamespace(ctx, fmt.Sprintf("bench-%d", n), s.share(n), target); err != nil {
			return err
		}
	}
	return nil
}

// share is how many of the Secrets are in the n-th namespace.
func (s *secretsOf) share(n int) int { return (s.count + n) / namespaces }

func (s *secretsOf) fillNamespace(ctx context.Context, name string, count int, target legacytoken.Target) error {
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := s.client.CoreV1().Namespaces().Create(ctx, namespace, metav1.CreateOptions{}); err != nil {
		return err
	}
	account, err := s.client.CoreV1().ServiceAccounts(name).Create(ctx,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: robot}}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	ca, err := s.rootCA(ctx, name)
	if err != nil {
		return err
	}
	return parallel(ctx, count, func(ctx context.Context, i int) error {
		secret, err := legacySecret(target, name, fmt.Sprintf("token-%05d", i), account.UID, ca)
		if err != nil {
			return err
		}
		_, err = s.client.CoreV1().Secrets(name).Create(ctx, secret, metav1.CreateOptions{})
		return err
	})
}

// rootCA waits for the certificates that kube-controller-manager puts into every namespace, and every legacy token.
func (s *secretsOf) rootCA(ctx context.Context, namespace string) (ca []byte, err error) {
	err = poll(ctx, time.Minute, func(ctx context.Context) (bool, error) {
		m, err := s.client.CoreV1().ConfigMaps(namespace).Get(ctx, rootCA, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		ca = []byte(m.Data["ca.crt"])
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading ConfigMap %s/%s: %w", namespace, rootCA, err)
	}
	return ca, nil
}

func legacySecret(t legacytoken.Target, namespace, name string, uid types.UID, ca []byte) (*corev1.Secret, error) {
	signed, err := t.Signer.Sign(rand.Reader, token.NewLegacyClaims(token.Legacy{
		Namespace: namespace, SecretName: name, ServiceAccountName: robot, ServiceAccountUID: string(uid),
	}))
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: namespace,
			Annotations: map[string]string{corev1.ServiceAccountNameKey: robot, corev1.ServiceAccountUIDKey: string(uid)},
		},
		Type: corev1.SecretTypeServiceAccountToken,
		Data: map[string][]byte{
			corev1.ServiceAccountTokenKey:     []byte(signed),
			corev1.ServiceAccountRootCAKey:    ca,
			corev1.ServiceAccountNamespaceKey: []byte(namespace),
		},
	}, nil
}

// resign has a Refresher walk over all Secrets with a key that none of them is of, and returns how many it re-signed a
// second, its reading included. Nobody checks the tokens: kube-controller-manager looks whether there is one.
func (s *secretsOf) resign(ctx context.Context, key keystore.KeyPair) (rate float64, err error) {
	target, err := legacytoken.NewTarget(key)
	if err != nil {
		return 0, err
	}
	refresher := &legacytoken.Refresher{Client: s.client}
	began := time.Now()
	result, err := refresher.Pass(ctx, target)
	if err != nil {
		return 0, err
	}
	if result.Resigned != s.count {
		return 0, fmt.Errorf("%d of %d Secrets were re-signed; blocked: %v", result.Resigned, s.count, result.Blocked)
	}
	return float64(s.count) / time.Since(began).Seconds(), nil
}

// update changes all Secrets, which were read before, and returns how many it updated a second: what the API server
// can do at all with so many workers and writes as small as those of the Refresher.
func (s *secretsOf) update(ctx context.Context) (rate float64, err error) {
	list, err := s.client.CoreV1().Secrets("").List(ctx, ofTokens)
	if err != nil {
		return 0, err
	}
	for i := range list.Items {
		scramble(&list.Items[i])
	}
	began := time.Now()
	err = s.write(ctx, list.Items)
	return float64(len(list.Items)) / time.Since(began).Seconds(), err
}

func (s *secretsOf) write(ctx context.Context, secrets []corev1.Secret) error {
	return parallel(ctx, len(secrets), func(ctx context.Context, i int) error {
		secret := &secrets[i]
		_, err := s.client.CoreV1().Secrets(secret.Namespace).Update(ctx, secret, metav1.UpdateOptions{FieldManager: refresherName})
		return err
	})
}

// scramble puts as many other bytes in the place of the token's signature, and leaves managedFields to the API server.
func scramble(s *corev1.Secret) {
	held := s.Data[corev1.ServiceAccountTokenKey]
	copy(held[bytes.LastIndexByte(held, '.')+1:], rand.Text())
	s.ManagedFields = nil
}

// resignedWithin returns the seconds from the first to the last re-signing of the Secrets. Their managedFields tell it
// in whole seconds; the last one counts in full.
func (s *secretsOf) resignedWithin(ctx context.Context) (float64, error) {
	list, err := s.client.CoreV1().Secrets("").List(ctx, ofTokens)
	if err != nil {
		return 0, err
	}
	if len(list.Items) != s.count {
		return 0, fmt.Errorf("%d of %d Secrets are left after the rotation", len(list.Items), s.count)
	}
	var first, last time.Time
	for i := range list.Items {
		at := resignedAt(&list.Items[i])
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	return last.Sub(first).Seconds() + 1, nil
}

func resignedAt(s *corev1.Secret) (at time.Time) {
	for _, m := range s.ManagedFields {
		if m.Manager == refresherName && m.Time != nil {
			at = m.Time.Time
		}
	}
	return at
}

// parallel calls f for 0 to n-1, by as many workers as a Refresher has, and returns the first error.
func parallel(ctx context.Context, n int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var taken atomic.Int64
	var workers sync.WaitGroup
	for range legacytoken.DefaultWorkers {
		workers.Go(func() {
			for i := int(taken.Add(1)); i <= n && ctx.Err() == nil; i = int(taken.Add(1)) {
				if err := f(ctx, i-1); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}
