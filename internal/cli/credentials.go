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

// credentials is a Secret in the admin cluster by which the controller reaches something of one cluster: its fleet, or the
// cluster itself. A Secret of its name that is not labelled as the cluster's belongs to somebody else. It is made before the
// cluster, and gets the cluster's UID from the controller.
type credentials struct {
	admin admin
	// cluster is the name of the cluster, name that of the Secret, and key where that has its content.
	cluster, name, key string
	// found is the Secret as it was read; nil when there is none.
	found *corev1.Secret
}

// fleetKey reads the Secret that holds the service account key for the fleet of a cluster, whose UID is empty while it does
// not exist. Only a verb that needs it to hold a key has to find no foreign one there.
func (c admin) fleetKey(ctx context.Context, cluster string, uid types.UID, needed bool) (credentials, error) {
	s := credentials{admin: c, cluster: cluster, name: v1alpha1.CredentialsSecretName(cluster), key: v1alpha1.CredentialsKey}
	return s.read(ctx, uid, needed)
}

// adoptedKubeconfig is the same for the kubeconfig of an adopted cluster. Unless it is needed, it is not read: gkectl has
// not made it then.
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
		"Secret %s in namespace %s is there already, and is none of user cluster %s: "+
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

// hold says that the Secret holds this key; a nil key, that there is no Secret.
func (s credentials) hold(key config.Secret) bool {
	if s.found == nil || key == nil {
		return s.found == nil && key == nil
	}
	return bytes.Equal(s.found.Data[s.key], key)
}

// store makes the Secret hold a key, if it is still as it was read. What undo deletes is a Secret that was not there
// before, and nothing else.
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
	// An interrupt must not keep what it leaves from being cleared up.
	return func() error { return s.admin.deleteSecret(context.WithoutCancel(ctx), secret) }, nil
}

// remove deletes the Secret that was read, if there was one.
func (s credentials) remove(ctx context.Context) error {
	if s.found == nil {
		return nil
	}
	return s.admin.deleteSecret(ctx, s.found)
}

// deleteSecret deletes a Secret as it was read or written, and no other one of its name.
func (c admin) deleteSecret(ctx context.Context, secret *corev1.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	same := client.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion}
	return inWords(client.IgnoreNotFound(c.client.Delete(ctx, secret, same)), "deleting Secret %s", secret.Name)
}

// withKey makes the Secret hold the key that a write of the cluster itself needs, and does that write. If it is
// refused, a Secret that was not there before is not left behind; if it is not known whether it was done, the Secret
// stays, and the next run uses it. So it is after a crash between both.
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

// rejected says that a write was not done. Most other errors leave open whether it was.
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

// secrets are the Secrets of one cluster, with what each is to hold.
type secrets struct {
	fleet, kubeconfig credentials
	wanted            wanted
}

// secrets reads the Secrets of a cluster, whose UID is empty while it does not exist.
func (c admin) secrets(ctx context.Context, w wanted, uid types.UID) (s secrets, err error) {
	s.wanted = w
	if s.fleet, err = c.fleetKey(ctx, w.Name, uid, w.key != nil); err != nil {
		return s, err
	}
	s.kubeconfig, err = c.adoptedKubeconfig(ctx, w.Name, uid, w.kubeconfig != nil)
	return s, err
}

// asWanted reports whether each Secret holds what it is to hold.
func (s secrets) asWanted() bool {
	return s.fleet.hold(s.wanted.key) && s.kubeconfig.hold(s.wanted.kubeconfig)
}

// with makes the Secrets hold what a write of the cluster itself needs, and does that write.
func (s secrets) with(ctx context.Context, write func() error) error {
	return s.kubeconfig.withKey(ctx, s.wanted.kubeconfig, func() error { return s.fleet.withKey(ctx, s.wanted.key, write) })
}
