package legacytoken

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/podtokens"
)

// use is a running pod's use of the token of a Secret.
type use struct {
	pod     string
	created time.Time
	// mounted means that a volume projects the token, which its kubelet keeps up to date.
	mounted bool
	// copied is another way in which the pod holds the token, and which no kubelet refreshes; empty for none.
	copied podtokens.Way
	// notified is the last write that the pod was notified of.
	notified write
}

// write identifies one write of a Secret with a new token: the key version, and the resourceVersion after the write.
// Since Kubernetes 1.35 these numbers can be compared (KEP-5504).
type write struct {
	version         int
	resourceVersion uint64
}

func writeOf(version int, s *corev1.Secret) write {
	number, _ := strconv.ParseUint(s.ResourceVersion, 10, 64)
	return write{version: version, resourceVersion: number}
}

// String returns the value of the annotation. It differs for each write: a pod that mounts several Secrets changes with
// each, and a kubelet acts only on a change.
func (w write) String() string { return fmt.Sprintf("%d.%d", w.version, w.resourceVersion) }

// parseWrite is the inverse of String. What it cannot parse is older than everything else.
func parseWrite(s string) write {
	version, number, _ := strings.Cut(s, ".")
	v, err := strconv.Atoi(version)
	if err != nil {
		return write{}
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return write{}
	}
	return write{version: v, resourceVersion: n}
}

func (w write) before(other write) bool {
	return w.version < other.version || w.version == other.version && w.resourceVersion < other.resourceVersion
}

// appendUses appends the uses of Secrets by a pod, unless its kubelet would not act: nothing is projected into a pod
// that is terminating.
func appendUses(items []item[use], pod *corev1.Pod) []item[use] {
	if pod.DeletionTimestamp != nil {
		return items
	}
	of := map[string]*use{}
	for _, t := range podtokens.Of(pod, podtokens.Cluster{}) {
		if t.Kind != podtokens.Legacy {
			continue
		}
		if of[t.Secret] == nil {
			of[t.Secret] = &use{
				pod:      pod.Name,
				created:  pod.CreationTimestamp.Time,
				notified: parseWrite(pod.Annotations[v1alpha1.AnnotationTokenRefreshed]),
			}
		}
		of[t.Secret].add(t)
	}
	for secret, u := range of {
		items = append(items, item[use]{namespace: pod.Namespace, name: secret, value: *u})
	}
	return items
}

// add adds one way in which the pod holds the token.
func (u *use) add(t podtokens.Token) {
	if t.Refresh == podtokens.ByKubelet {
		u.mounted = true
		return
	}
	u.copied = cmp.Or(u.copied, t.Way)
}

// notify annotates a pod, so that its kubelet projects the current content of its Secrets. A pod that is gone needs
// nothing.
func notify(ctx context.Context, client kubernetes.Interface, namespace, pod string, w write) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, v1alpha1.AnnotationTokenRefreshed, w)
	_, err := client.CoreV1().Pods(namespace).Patch(
		ctx, pod, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: fieldManager})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("annotating pod %s/%s: %w", namespace, pod, err)
	}
	return nil
}
