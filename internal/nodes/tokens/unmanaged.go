package tokens

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/nodes"
)

// noteName is the ConfigMap of namespace kube-system that notes since when API servers sign with a key: it was created
// then, by the clock by which pods are. It has the kid of the key, and no more.
const noteName = "keyturn-signing-key"

// noteKeyID is the kid in a note.
const noteKeyID = "keyID"

// clockSlack is how far the clocks of API servers may be apart.
const clockSlack = 5 * time.Second

// pageSize is how many pods are read at once.
const pageSize = 500

// Unmanaged are the nodes that Keyturn did not make. It neither replaces them nor reads the tokens of their pods, but the
// API shows how old these pods are: a pod that was created once every API server signed with the new key has no older
// token. So such a node counts as one of the new key version when it has no older pod with a token.
type Unmanaged struct {
	// Nodes are the Node objects.
	Nodes []*corev1.Node
	// Since is when all API servers were known to sign with the new key; zero while that is not noted.
	Since time.Time
	// Outdated are the pods with tokens that are older than that, by node.
	Outdated map[string][]string
}

// keyVersion is one that no token of a pod on the node is older than.
func (u Unmanaged) keyVersion(node string, keys nodes.Keys) int {
	switch {
	case keys.Old == 0:
		return keys.Next // every older token is refused, so nobody holds one
	case u.Since.IsZero() || len(u.Outdated[node]) > 0:
		return keys.Old
	default:
		return keys.Next
	}
}

// plan is what to do now about the nodes that Keyturn did not make.
func (u Unmanaged) plan(keys nodes.Keys) []Chain {
	if len(u.Nodes) == 0 || keys.Old == 0 || !u.Since.IsZero() {
		return nil
	}
	return []Chain{{{Step: Note}}}
}

// reasons are what these nodes wait for.
func (u Unmanaged) reasons(keys nodes.Keys) []nodes.Reason {
	var out []nodes.Reason
	for _, n := range u.Nodes {
		pods := u.Outdated[n.Name]
		if keys.Old == 0 || len(pods) == 0 {
			continue
		}
		out = append(out, nodes.Reason{Blocked: true, Words: fmt.Sprintf(
			"%s to be deleted%s, which may hold a token older than key version %d: Keyturn did not make the node, and cannot read it",
			pods[0], andMore(pods), keys.Next)})
	}
	return out
}

// predates reports whether a pod may hold a token from before a time.
func predates(pod *corev1.Pod, since time.Time) bool {
	return len(tokenMounts(pod)) > 0 && !pod.CreationTimestamp.After(since.Add(clockSlack))
}

// lookAtUnmanaged finds what is known of the nodes that Keyturn did not make. While no rotation runs it is of no use.
func (e *Executor) lookAtUnmanaged(ctx context.Context, objects []*corev1.Node) (Unmanaged, error) {
	u := Unmanaged{Nodes: objects}
	if len(objects) == 0 || e.Keys.Old == 0 {
		return u, nil
	}
	note, err := e.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, noteName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && note.Data[noteKeyID] != e.Keys.KeyID {
		return u, nil
	}
	if err != nil {
		return u, fmt.Errorf("reading ConfigMap %s: %w", noteName, err)
	}
	u.Since = note.CreationTimestamp.Time
	u.Outdated, err = e.Memory.outdatedPods(e.Keys.KeyID, e.Now, e.Every*slow, func() (map[string][]string, error) {
		return e.outdated(ctx, u.Since)
	})
	return u, err
}

// outdated lists the running pods that may hold a token from before a time, by node.
func (e *Executor) outdated(ctx context.Context, since time.Time) (map[string][]string, error) {
	pods := map[string][]string{}
	options := metav1.ListOptions{Limit: pageSize, FieldSelector: "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"}
	for {
		list, err := e.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("listing pods: %w", err)
		}
		for i := range list.Items {
			if pod := &list.Items[i]; predates(pod, since) {
				pods[pod.Spec.NodeName] = append(pods[pod.Spec.NodeName], nodes.PodName(pod))
			}
		}
		if options.Continue = list.Continue; options.Continue == "" {
			return pods, nil
		}
	}
}

// note notes that every API server signs with the new key. Crash in between: there is no note, and the next plan makes one.
func (e *Executor) note(ctx context.Context) error {
	notes := e.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	err := notes.Delete(ctx, noteName, metav1.DeleteOptions{}) // the note of an earlier rotation
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting ConfigMap %s: %w", noteName, err)
	}
	immutable := true
	_, err = notes.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: noteName},
		Data:       map[string]string{noteKeyID: e.Keys.KeyID},
		Immutable:  &immutable,
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("creating ConfigMap %s: %w", noteName, err)
	}
	return nil
}
