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

// pageSize is how many pods are read at once.
const pageSize = 500

// observeUnmanaged finds what is known of the nodes that Keyturn did not make. While no rotation runs it is of no use.
func (e *Executor) observeUnmanaged(ctx context.Context, objects []*corev1.Node) (Unmanaged, error) {
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
	options := metav1.ListOptions{
		Limit: pageSize, FieldSelector: "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed",
	}
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

// note notes that every API server signs with the new key. Crash in between: there is no note, and the next plan makes
// one.
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
