package controller

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/pager"

	"github.com/keyturn/keyturn/internal/inuse"
	"github.com/keyturn/keyturn/internal/podtokens"
	"github.com/keyturn/keyturn/token"
)

// holders reads who holds tokens in a user cluster, page by page. It keeps no token.
type holders struct {
	client  kubernetes.Interface
	cluster podtokens.Cluster
	// owners are the controllers of ReplicaSets and Jobs, which people recognize.
	owners  map[types.UID]metav1.OwnerReference
	pods    []inuse.Pod
	secrets []inuse.Secret
}

// readPods reads all pods, including those that have ended: tokens bound to a pod are valid until it is deleted.
func (h *holders) readPods(ctx context.Context) error {
	list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return h.client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, o)
	}
	return eachListed(ctx, "pods", list, func(p *corev1.Pod) {
		h.pods = append(h.pods, inuse.Pod{
			Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Account: p.Spec.ServiceAccountName,
			Workload: h.workload(p), Tokens: podtokens.Of(p, h.cluster),
		})
	})
}

// workload returns what created a pod, such as Deployment/web.
func (h *holders) workload(p *corev1.Pod) string {
	owner := metav1.GetControllerOf(p)
	if owner == nil {
		return "Pod/" + p.Name
	}
	if above, ok := h.owners[owner.UID]; ok {
		owner = &above
	}
	return owner.Kind + "/" + owner.Name
}

// readOwners reads what created ReplicaSets and Jobs.
func (h *holders) readOwners(ctx context.Context) error {
	h.owners = map[types.UID]metav1.OwnerReference{}
	note := func(o metav1.Object) {
		if above := metav1.GetControllerOf(o); above != nil {
			h.owners[o.GetUID()] = *above
		}
	}
	sets := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return h.client.AppsV1().ReplicaSets(metav1.NamespaceAll).List(ctx, o)
	}
	if err := eachListed(ctx, "ReplicaSets", sets, func(s *appsv1.ReplicaSet) { note(s) }); err != nil {
		return err
	}
	jobs := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		return h.client.BatchV1().Jobs(metav1.NamespaceAll).List(ctx, o)
	}
	return eachListed(ctx, "Jobs", jobs, func(j *batchv1.Job) { note(j) })
}

// readSecrets reads the Secrets that hold legacy tokens, and keeps only the kids.
func (h *holders) readSecrets(ctx context.Context) error {
	list := func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
		o.FieldSelector = "type=" + string(corev1.SecretTypeServiceAccountToken)
		return h.client.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, o)
	}
	return eachListed(ctx, "legacy tokens", list, func(s *corev1.Secret) {
		kid, err := token.KeyID(string(s.Data[corev1.ServiceAccountTokenKey]))
		if err != nil {
			kid = "" // it has no token yet, or an invalid one
		}
		h.secrets = append(h.secrets, inuse.Secret{
			Namespace: s.Namespace, Name: s.Name, Account: s.Annotations[corev1.ServiceAccountNameKey],
			KeyID: kid, LastUsed: s.Labels[lastUsedLabel],
		})
	})
}

// lastUsedLabel is the label in which the API server records the day on which a legacy token was last used:
// LastUsedLabelKey in pkg/serviceaccount of Kubernetes.
const lastUsedLabel = "kubernetes.io/legacy-token-last-used"

// eachListed calls do with every object of a list, which is read page by page.
func eachListed[T runtime.Object](ctx context.Context, what string, list pager.ListPageFunc, do func(T)) error {
	p := pager.New(list)
	p.PageBufferSize = 1
	err := p.EachListItem(ctx, metav1.ListOptions{}, func(o runtime.Object) error {
		do(o.(T))
		return nil
	})
	if err != nil {
		return fmt.Errorf("listing %s: %w", what, err)
	}
	return nil
}
