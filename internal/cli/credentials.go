package cli

import (
	"bytes"
	"context"
	"errors"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/config"
)

// credentials is a Secret in the admin cluster with which the controller reaches the fleet of a cluster, or the cluster
// itself. gkectl creates it before the cluster, and the controller adds the cluster's UID. A Secret of its name without
// the labels of the cluster is not ours.
type credentials struct {
	admin admin
	// cluster is the name of the cluster, name the name of the Secret, and key the key with the content.
	cluster, name, key string
	// found is the Secret as it was read; nil if there is none.
	found *corev1.Secret
}

// fleetKey reads the Secret with the service account key for the fleet of a cluster. uid is empty if the cluster does
// not exist yet. If the key is needed, a Secret of that name that is not ours is an error.
func (c admin) fleetKey(ctx context.Context, cluster string, uid types.UID, needed bool) (credentials, error) {
	s := credentials{admin: c, cluster: cluster, name: v1alpha1.CredentialsSecretName(cluster),
		key: v1alpha1.CredentialsKey}
	return s.read(ctx, uid, needed)
}

// adoptedKubeconfig is fleetKey for the kubeconfig of an adopted cluster. It reads the Secret only if it is needed,
// since otherwise gkectl did not create it.
func (c admin) adoptedKubeconfig(ctx context.Context, cluster string, uid types.UID, needed bool) (credentials, error) {
	s := credentials{
		admin: c, cluster: cluster, name: v1alpha1.AdoptedKubeconfigSecretName(cluster), key: v1alpha1.KubeconfigKey,
	}
	if !needed {
		return s, nil
	}
	return s.read(ctx, uid, needed)
}

func (s credentials) read(ctx context.Context, uid types.UID, needed bool) (credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	c, cluster := s.admin, s.cluster
	found := s.empty()
	switch err := c.client.Get(ctx, client.ObjectKeyFromObject(found), found); {
	case isMissing(err):
		return s, nil
	case err != nil:
		return s, inWords(err, "reading Secret %s", found.Name)
	}
	of, marked := found.Labels[v1alpha1.LabelClusterUID]
	named := found.Labels[v1alpha1.LabelCluster] == cluster && found.Type == corev1.SecretTypeOpaque
	if named && (!marked || of == string(uid)) {
		s.found = found
		return s, nil
	}
	if !needed {
		return s, nil
	}
	return s, refused("delete it if nobody needs it",
		"Secret %s in namespace %s exists already, and does not belong to user cluster %s: "+
			"it lacks the label %s=%s or the type %s, or has the UID of another cluster",
		found.Name, found.Namespace, cluster, v1alpha1.LabelCluster, cluster, corev1.SecretTypeOpaque)
}

func (s credentials) empty() *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.admin.namespace,
			Name:      s.name,
			Labels:    map[string]string{v1alpha1.LabelCluster: s.cluster},
		},
		Type: corev1.SecretTypeOpaque,
	}
}

// hold reports whether the Secret holds this key or, for a nil key, does not exist.
func (s credentials) hold(key config.Secret) bool {
	if s.found == nil || key == nil {
		return s.found == nil && key == nil
	}
	return bytes.Equal(s.found.Data[s.key], key)
}

// store stores a key in the Secret, unless the Secret has changed since it was read. undo deletes the Secret only if
// store created it.
func (s credentials) store(ctx context.Context, key config.Secret) (undo func() error, err error) {
	secret, nothing := s.empty(), func() error { return nil }
	if s.hold(key) {
		return nothing, nil
	}
	write := func(ctx context.Context) error { return s.admin.client.Create(ctx, secret) }
	if s.found != nil {
		secret = s.found.DeepCopy()
		write = func(ctx context.Context) error { return s.admin.client.Update(ctx, secret) }
	}
	secret.Data = map[string][]byte{s.key: key}
	bounded, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	switch err := write(bounded); {
	case apierrors.IsAlreadyExists(err) || apierrors.IsConflict(err):
		return nothing, refused("run the command again to see what it would do now",
			"Secret %s was changed by somebody else meanwhile; nothing was done", secret.Name)
	case err != nil:
		return nothing, inWords(err, "writing Secret %s", secret.Name)
	case s.found != nil:
		return nothing, nil
	}
	// An interrupt must not prevent the cleanup.
	return func() error { return s.admin.deleteSecret(context.WithoutCancel(ctx), secret) }, nil
}

// remove deletes the Secret that was read, if there was one.
func (s credentials) remove(ctx context.Context) error {
	if s.found == nil {
		return nil
	}
	return s.admin.deleteSecret(ctx, s.found)
}

// deleteSecret deletes exactly the Secret that was read or written, not another one of its name.
func (c admin) deleteSecret(ctx context.Context, secret *corev1.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	same := client.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion}
	return inWords(client.IgnoreNotFound(c.client.Delete(ctx, secret, same)), "deleting Secret %s", secret.Name)
}

// withKey stores the key that a write of the cluster needs, and does that write. If the write is refused, withKey
// deletes a Secret that it created. If the result of the write is unknown, the Secret stays, and the next run uses it.
// The same holds after a crash between both.
func (s credentials) withKey(ctx context.Context, key config.Secret, write func() error) error {
	if key == nil {
		return write()
	}
	undo, err := s.store(ctx, key)
	if err != nil {
		return err
	}
	if err = write(); rejected(err) {
		return errors.Join(err, undo())
	}
	return err
}

// rejected reports whether a write was certainly not done. Most other errors leave that open.
func rejected(err error) bool {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code == ExitRefused
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return false
	}
	code := status.Status().Code
	return code >= 400 && code < 500 && code != http.StatusRequestTimeout && !apierrors.IsAlreadyExists(err)
}

// secrets are the Secrets of one cluster, with the content that each should have.
type secrets struct {
	fleet, kubeconfig credentials
	wanted            wanted
}

// secrets reads the Secrets of a cluster. uid is empty if the cluster does not exist yet.
func (c admin) secrets(ctx context.Context, w wanted, uid types.UID) (s secrets, err error) {
	s.wanted = w
	if s.fleet, err = c.fleetKey(ctx, w.Name, uid, w.key != nil); err != nil {
		return s, err
	}
	s.kubeconfig, err = c.adoptedKubeconfig(ctx, w.Name, uid, w.kubeconfig != nil)
	return s, err
}

// asWanted reports whether each Secret holds what it should.
func (s secrets) asWanted() bool {
	return s.fleet.hold(s.wanted.key) && s.kubeconfig.hold(s.wanted.kubeconfig)
}

// with stores the Secrets that a write of the cluster needs, and does that write.
func (s secrets) with(ctx context.Context, write func() error) error {
	return s.kubeconfig.withKey(ctx, s.wanted.kubeconfig,
		func() error { return s.fleet.withKey(ctx, s.wanted.key, write) })
}
