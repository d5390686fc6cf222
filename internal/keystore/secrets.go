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
// A key Secret is known by its type and its name, which nobody can change, and by the UID of its UserCluster, a label
// that only the controller and administrators can write (ValidatingAdmissionPolicy keyturn-signing-keys). One that does
// not hold what its name says makes List fail.
type Secrets struct {
	client corev1client.SecretsGetter
}

var _ Store = (*Secrets)(nil)

// NewSecrets returns a store in the cluster that the client reaches. The client must read from the API server,
// not from a cache.
func NewSecrets(client corev1client.SecretsGetter) *Secrets { return &Secrets{client: client} }

// List implements Store.
func (s *Secrets) List(ctx context.Context, c Cluster) ([]KeyPair, error) {
	secrets, err := s.list(ctx, c)
	if err != nil {
		return nil, err
	}
	var keys []KeyPair
	for _, secret := range secrets {
		k, err := KeyPair{}, check(c, secret)
		if err == nil {
			k, err = decode(c, secret)
		}
		if err != nil {
			return nil, fmt.Errorf("reading key Secret %s/%s: %w", c.Namespace, secret.Name, err)
		}
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b KeyPair) int { return a.Version - b.Version })
	return keys, checkDistinct(c, keys)
}

// list returns the key Secrets that have a name of the cluster's. It leaves resourceVersion unset, which the API server
// answers with its newest state.
func (s *Secrets) list(ctx context.Context, c Cluster) ([]*corev1.Secret, error) {
	ofType := fields.OneTermEqualSelector("type", v1alpha1.SecretTypeSigningKey).String()
	list, err := s.client.Secrets(c.Namespace).List(ctx, metav1.ListOptions{FieldSelector: ofType})
	if err != nil {
		return nil, fmt.Errorf("listing key versions of %s: %w", c, err)
	}
	var secrets []*corev1.Secret
	for i := range list.Items {
		if named(list.Items[i].Name, c) {
			secrets = append(secrets, &list.Items[i])
		}
	}
	return secrets, nil
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
		err = s.exists(ctx, c, secret.Name)
	}
	if err != nil {
		return fmt.Errorf("creating key Secret %s/%s: %w", c.Namespace, secret.Name, ambiguous(err))
	}
	return nil
}

// exists returns ErrExists if what has the name is a key of the cluster, and ErrForeign if it is not.
func (s *Secrets) exists(ctx context.Context, c Cluster, name string) error {
	found, err := s.client.Secrets(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := check(c, found); err != nil {
		return err
	}
	return ErrExists
}

// Delete implements Store. It deletes the very object that it has read, and returns once the API server does not
// serve it any more. A Secret that a finalizer keeps is an error.
func (s *Secrets) Delete(ctx context.Context, c Cluster, version int) error {
	name := secretName(c, version)
	found, err := s.client.Secrets(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil {
		err = check(c, found)
	}
	if err != nil {
		return fmt.Errorf("deleting key Secret %s/%s: %w", c.Namespace, name, err)
	}
	return s.delete(ctx, found)
}

// DeleteAll implements Store. If it fails, the rest is deleted when it is called again.
func (s *Secrets) DeleteAll(ctx context.Context, c Cluster) error {
	secrets, err := s.list(ctx, c)
	if err != nil {
		return err
	}
	for _, secret := range secrets {
		if check(c, secret) != nil {
			continue
		}
		if err := s.delete(ctx, secret); err != nil {
			return err
		}
	}
	return nil
}

// delete deletes a Secret as it was read, and no other one of its name.
func (s *Secrets) delete(ctx context.Context, read *corev1.Secret) error {
	same := metav1.Preconditions{UID: &read.UID, ResourceVersion: &read.ResourceVersion}
	err := s.client.Secrets(read.Namespace).Delete(ctx, read.Name, metav1.DeleteOptions{Preconditions: &same})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		err = ambiguous(err)
	default:
		err = s.gone(ctx, read)
	}
	if err != nil {
		return fmt.Errorf("deleting key Secret %s/%s: %w", read.Namespace, read.Name, err)
	}
	return nil
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
	if errors.Is(err, ErrExists) || errors.Is(err, ErrForeign) {
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
