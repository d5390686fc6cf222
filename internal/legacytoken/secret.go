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

// fieldManager is our name in managedFields. It tells a later walk when a Secret was re-signed, so nothing else may
// write Secrets by this name.
const fieldManager = "keyturn-legacytoken"

// condition is what a Secret holds, as seen from a target.
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
		return gone // API servers refuse its token, however long finalizers keep it
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

// resign returns the Secret with a new token for the ServiceAccount with this UID, just as kube-controller-manager
// makes it (generateTokenIfNeeded in its tokens_controller.go). What was read stays as it is.
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
	// Without them in the request the API server keeps those that it has; it is the smaller write.
	s.ManagedFields = nil
	return &s, nil
}

// resignedAt returns when a Secret was last re-signed, to the second, by the API server's clock.
func resignedAt(s *corev1.Secret) (time.Time, bool) {
	for _, m := range s.ManagedFields {
		if m.Manager == fieldManager && m.Operation == metav1.ManagedFieldsOperationUpdate && m.Time != nil {
			return m.Time.Time, true
		}
	}
	return time.Time{}, false
}

func isImmutable(s *corev1.Secret) bool { return s.Immutable != nil && *s.Immutable }
