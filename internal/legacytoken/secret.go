package legacytoken

import (
	"crypto/rand"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/token"
)

// fieldManager is our name in managedFields. It shows a later walk when a Secret was signed again, so nothing else may
// write Secrets with this name.
const fieldManager = "keyturn-legacytoken"

// condition is the state of a Secret with respect to a target.
type condition int

const (
	gone    condition = iota // it was deleted, or nothing accepts its token any more
	foreign                  // no legacy token belongs here
	empty                    // kube-controller-manager has yet to fill it
	fresh                    // a token of the target's key
	stale                    // anything else
)

func (t Target) judge(s *corev1.Secret) condition {
	if s.Type != corev1.SecretTypeServiceAccountToken {
		return foreign
	}
	if s.DeletionTimestamp != nil {
		return gone // API servers refuse its token, even if finalizers keep it
	}
	held := s.Data[corev1.ServiceAccountTokenKey]
	if len(held) == 0 {
		return empty
	}
	if kid, err := token.KeyID(string(held)); err == nil && kid == t.KeyID {
		return fresh
	}
	return stale
}

// resign returns the Secret with a new token for the ServiceAccount with this UID, exactly as kube-controller-manager
// makes it (generateTokenIfNeeded in its tokens_controller.go). It does not change its argument.
func (t Target) resign(read *corev1.Secret, uid types.UID) (*corev1.Secret, error) {
	signed, err := t.Signer.Sign(rand.Reader, token.NewLegacyClaims(token.Legacy{
		Namespace:          read.Namespace,
		SecretName:         read.Name,
		ServiceAccountName: read.Annotations[corev1.ServiceAccountNameKey],
		ServiceAccountUID:  string(uid),
	}))
	if err != nil {
		return nil, err
	}
	s := *read
	s.Data = maps.Clone(read.Data)
	s.Data[corev1.ServiceAccountTokenKey] = []byte(signed)
	s.Annotations = maps.Clone(read.Annotations)
	s.Annotations[corev1.ServiceAccountUIDKey] = string(uid)
	// Without them in the request, the API server keeps the existing ones, and the write is smaller.
	s.ManagedFields = nil
	return &s, nil
}

// resignedAt returns when a Secret was last signed again, to the second, by the API server's clock.
func resignedAt(s *corev1.Secret) (time.Time, bool) {
	for _, m := range s.ManagedFields {
		if m.Manager == fieldManager && m.Operation == metav1.ManagedFieldsOperationUpdate && m.Time != nil {
			return m.Time.Time, true
		}
	}
	return time.Time{}, false
}

func isImmutable(s *corev1.Secret) bool { return s.Immutable != nil && *s.Immutable }
