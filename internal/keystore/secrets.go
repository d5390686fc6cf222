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
	"k8s.io/apimachinery/pkg/labels"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// Secrets stores each key version as one immutable Secret in the namespace of its UserCluster.
//
// A key Secret is identified by its type and its name, which nobody can change, and by the UID of its UserCluster, in a
// label that only the controller and administrators can write (ValidatingAdmissionPolicy keyturn-signing-keys). If its
// content does not match its name, List fails.
//
// Each read of a private key leaves copies of it in the memory of the API server. So Secrets reads only metadata if
// that is enough, reads the data of each Secret once, and caches the key pair until List no longer finds that Secret.
//
// A namespace may have the key Secrets of a thousand clusters. Once it has cached keys of a cluster, List requests only
// Secrets with the label of that cluster. Before, and when a name is taken or everything is deleted, it requests all
// Secrets of the namespace, to notice a Secret that lost its label.
type Secrets struct {
	data     corev1client.SecretsGetter
	metadata metadata.Interface
	memory   memory
}

var _ Store = (*Secrets)(nil)

// NewSecrets returns a store in the cluster that config reaches.
func NewSecrets(config *rest.Config) (*Secrets, error) {
	data, err := corev1client.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for key Secrets: %w", err)
	}
	meta, err := metadata.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("making a client for the metadata of key Secrets: %w", err)
	}
	return &Secrets{data: data, metadata: meta}, nil
}

// List implements Store.
func (s *Secrets) List(ctx context.Context, c Cluster) ([]KeyPair, error) {
	known, whole := s.memory.get(c)
	which := everywhere
	if whole {
		which = metav1.ListOptions{LabelSelector: labels.Set{v1alpha1.LabelCluster: c.Name}.String()}
	}
	listed, err := s.list(ctx, c, which)
	if err != nil {
		return nil, err
	}
	read := map[revision]KeyPair{}
	defer func() { s.memory.set(c, read) }()
	var keys []KeyPair
	for _, found := range listed {
		k, err := s.read(ctx, c, found, known)
		if err != nil {
			return nil, fmt.Errorf("reading key Secret %s/%s: %w", c.Namespace, found.Name, err)
		}
		read[revisionOf(found)] = k
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b KeyPair) int { return a.Version - b.Version })
	return keys, checkDistinct(c, keys)
}

// everywhere selects Secrets regardless of their labels.
var everywhere = metav1.ListOptions{}

// list returns the metadata of the selected key Secrets that have a name of the cluster, whoever owns them. It leaves
// resourceVersion unset, so that the API server answers with its newest state.
func (s *Secrets) list(
	ctx context.Context, c Cluster, which metav1.ListOptions,
) ([]*metav1.PartialObjectMetadata, error) {
	which.FieldSelector = fields.OneTermEqualSelector("type", v1alpha1.SecretTypeSigningKey).String()
	list, err := s.meta(c).List(ctx, which)
	if err != nil {
		return nil, fmt.Errorf("listing key versions of %s: %w", c, err)
	}
	var found []*metav1.PartialObjectMetadata
	for i := range list.Items {
		if named(list.Items[i].Name, c) {
			found = append(found, &list.Items[i])
		}
	}
	return found, nil
}

func (s *Secrets) meta(c Cluster) metadata.ResourceInterface {
	return s.metadata.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(c.Namespace)
}

// read returns the key pair of a listed Secret, from the cache if it is there.
func (s *Secrets) read(
	ctx context.Context, c Cluster, listed *metav1.PartialObjectMetadata, known map[revision]KeyPair,
) (KeyPair, error) {
	if err := checkOwner(c, listed); err != nil {
		return KeyPair{}, err
	}
	if k, ok := known[revisionOf(listed)]; ok {
		return k, nil
	}
	// The watch cache of the API server has this version or a later one, and need not decrypt it again.
	asListed := metav1.GetOptions{ResourceVersion: listed.ResourceVersion}
	secret, err := s.data.Secrets(c.Namespace).Get(ctx, listed.Name, asListed)
	if err != nil {
		return KeyPair{}, err
	}
	if revisionOf(secret) != revisionOf(listed) {
		return KeyPair{}, errors.New("it changed since it was listed")
	}
	defer clear(secret.Data[privateKeyEntry])
	return decode(c, secret)
}

// checkDistinct refuses a key that two versions share, since retiring the older one would leave it in use.
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
	_, err = s.data.Secrets(c.Namespace).Create(ctx, secret, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		s.memory.doubt(c) // the next List also finds a Secret without the label of the cluster
		err = s.exists(ctx, c, secret.Name)
	}
	if err != nil {
		return fmt.Errorf("creating key Secret %s/%s: %w", c.Namespace, secret.Name, ambiguous(err))
	}
	return nil
}

// exists returns ErrExists if the object with the name is a key of the cluster, and ErrForeign if it is not.
func (s *Secrets) exists(ctx context.Context, c Cluster, name string) error {
	if _, err := s.find(ctx, c, name); err != nil {
		return err
	}
	return ErrExists
}

// find returns the metadata of a key Secret of the cluster: ErrForeign if it is not one. Metadata do not contain the
// type, but the API server can select by it.
func (s *Secrets) find(ctx context.Context, c Cluster, name string) (*metav1.PartialObjectMetadata, error) {
	listed, err := s.list(ctx, c, everywhere)
	if err != nil {
		return nil, err
	}
	for _, found := range listed {
		if found.Name == name {
			return found, checkOwner(c, found)
		}
	}
	if _, err := s.meta(c).Get(ctx, name, metav1.GetOptions{}); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: it is not of type %s; delete it if nobody needs it",
		ErrForeign, v1alpha1.SecretTypeSigningKey)
}

// Delete implements Store. It deletes exactly the object that it found, and returns once the API server no longer
// serves it. If a finalizer keeps the Secret, Delete returns an error.
func (s *Secrets) Delete(ctx context.Context, c Cluster, version int) error {
	name := secretName(c, version)
	found, err := s.find(ctx, c, name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("deleting key Secret %s/%s: %w", c.Namespace, name, err)
	}
	return s.delete(ctx, c, found)
}

// DeleteAll implements Store. If it fails, call it again to delete the rest.
func (s *Secrets) DeleteAll(ctx context.Context, c Cluster) error {
	listed, err := s.list(ctx, c, everywhere)
	if err != nil {
		return err
	}
	for _, found := range listed {
		if checkOwner(c, found) != nil {
			continue
		}
		if err := s.delete(ctx, c, found); err != nil {
			return err
		}
	}
	s.Forget(c)
	return nil
}

// Forget implements Store.
func (s *Secrets) Forget(c Cluster) { s.memory.set(c, nil) }

// delete deletes a Secret as it was found, and not another one of its name.
func (s *Secrets) delete(ctx context.Context, c Cluster, found *metav1.PartialObjectMetadata) error {
	same := metav1.Preconditions{UID: &found.UID, ResourceVersion: &found.ResourceVersion}
	err := s.meta(c).Delete(ctx, found.Name, metav1.DeleteOptions{Preconditions: &same})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		err = ambiguous(err)
	default:
		err = s.gone(ctx, c, found)
	}
	if err != nil {
		return fmt.Errorf("deleting key Secret %s/%s: %w", c.Namespace, found.Name, err)
	}
	return nil
}

// gone reads the Secret again, since the API server does not report that a finalizer blocks a deletion.
func (s *Secrets) gone(ctx context.Context, c Cluster, deleted *metav1.PartialObjectMetadata) error {
	left, err := s.meta(c).Get(ctx, deleted.Name, metav1.GetOptions{})
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

// ambiguous wraps every error with ErrAmbiguous except a refusal by the API server: a status from 400 to 499. Status
// 408 is a timeout and not a refusal.
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
