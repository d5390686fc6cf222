package keystore

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// Secrets keeps each key version as one immutable Secret beside its UserCluster.
//
// A key Secret is known by its type and its name, which nobody can change, and never by its labels: those are
// for people and policies. One that does not hold what its name says makes List fail.
type Secrets struct {
	client corev1client.SecretsGetter
}

var _ Store = (*Secrets)(nil)

// NewSecrets returns a store in the cluster that the client reaches. The client must read from the API server,
// not from a cache.
func NewSecrets(client corev1client.SecretsGetter) *Secrets { return &Secrets{client: client} }

// List implements Store. It leaves resourceVersion unset, which the API server answers with its newest state.
func (s *Secrets) List(ctx context.Context, c Cluster) ([]KeyPair, error) {
	ofType := fields.OneTermEqualSelector("type", v1alpha1.SecretTypeSigningKey).String()
	list, err := s.client.Secrets(c.Namespace).List(ctx, metav1.ListOptions{FieldSelector: ofType})
	if err != nil {
		return nil, fmt.Errorf("listing key versions of %s: %w", c, err)
	}
	var keys []KeyPair
	for i := range list.Items {
		if !belongs(list.Items[i].Name, c) {
			continue
		}
		k, err := decode(c, &list.Items[i])
		if err != nil {
			return nil, fmt.Errorf("reading key Secret %s/%s: %w", c.Namespace, list.Items[i].Name, err)
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b KeyPair) int { return a.Version - b.Version })
	return keys, checkDistinct(c, keys)
}

// checkDistinct refuses a key that two versions share: retiring the older one would leave it in use.
func checkDistinct(c Cluster, keys []KeyPair) error {
	versions := map[string]int{}
	for _, k := range keys {
		if other, ok := versions[k.KeyID]; ok {
			return fmt.Errorf("listing key versions of %s: versions %d and %d hold the same key", c, other, k.Version)
		}
		versions[k.KeyID] = k.Version
	}
	return nil
}

// Create implements Store.
func (s *Secrets) Create(ctx context.Context, c Cluster, k KeyPair) error {
	secret, err := encode(c, k)
	if err != nil {
		return fmt.Errorf("creating key Secret of %s: %w", c, err)
	}
	_, err = s.client.Secrets(c.Namespace).Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		err = ErrExists
	}
	if err != nil {
		return fmt.Errorf("creating key Secret %s/%s: %w", c.Namespace, secret.Name, ambiguous(err))
	}
	return nil
}

// Delete implements Store. It deletes the very object that it has read, and returns once the API server does not
// serve it any more. A Secret that a finalizer keeps is an error.
func (s *Secrets) Delete(ctx context.Context, c Cluster, version int) error {
	name := secretName(c, version)
	if err := s.delete(ctx, c.Namespace, name); err != nil {
		return fmt.Errorf("deleting key Secret %s/%s: %w", c.Namespace, name, err)
	}
	return nil
}

func (s *Secrets) delete(ctx context.Context, namespace, name string) error {
	secrets := s.client.Secrets(namespace)
	found, err := secrets.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if found.Type != v1alpha1.SecretTypeSigningKey {
		return fmt.Errorf("it is of type %s, not %s", found.Type, v1alpha1.SecretTypeSigningKey)
	}
	same := metav1.Preconditions{UID: &found.UID, ResourceVersion: &found.ResourceVersion}
	err = secrets.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &same})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return ambiguous(err)
	}
	return s.gone(ctx, found)
}

// gone reads the Secret again: the API server answers a deletion that a finalizer holds up like any other.
func (s *Secrets) gone(ctx context.Context, deleted *corev1.Secret) error {
	left, err := s.client.Secrets(deleted.Namespace).Get(ctx, deleted.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return ambiguous(err)
	case left.UID == deleted.UID:
		return fmt.Errorf("its finalizers %q keep it: remove them", left.Finalizers)
	}
	return nil
}

// ambiguous wraps ErrAmbiguous around every error but a refusal by the API server, which answers it with a
// status from 400 to 499. Status 408 is a time-out and no refusal.
func ambiguous(err error) error {
	if errors.Is(err, ErrExists) {
		return err
	}
	if status := apierrors.APIStatus(nil); errors.As(err, &status) {
		code := status.Status().Code
		if code >= 400 && code < 500 && code != http.StatusRequestTimeout {
			return err
		}
	}
	return fmt.Errorf("%w: %w", ErrAmbiguous, err)
}
