package evict

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// NoteName is the ConfigMap in namespace kube-system that records since when no pod gets a token of an older key.
const NoteName = "keyturn-signing-key"

// The keys of the ConfigMap: the kid of the new key, and the time.
const (
	noteKeyID = "keyID"
	noteSince = "since"
)

// noted reads the time; zero if it is not recorded, or for another key.
func (e *Executor) noted(ctx context.Context) (time.Time, error) {
	note, err := e.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, NoteName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && note.Data[noteKeyID] != e.Keys.KeyID {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("reading ConfigMap %s/%s: %w", metav1.NamespaceSystem, NoteName, err)
	}
	since, _ := time.Parse(time.RFC3339, note.Data[noteSince]) // an invalid time is replaced
	return since, nil
}

// note records the time at which API servers issued the tokens that proved that they sign with the new key. After a
// crash in between, there is no note, and the next plan writes one with a later time, which is also correct.
func (e *Executor) note(ctx context.Context) error {
	notes := e.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	if err := e.deleteNote(ctx); err != nil {
		return fmt.Errorf("deleting ConfigMap %s/%s: %w", metav1.NamespaceSystem, NoteName, err)
	}
	immutable := true
	_, err := notes.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: NoteName, Labels: map[string]string{v1alpha1.LabelClusterUID: e.Cluster}},
		Data:       map[string]string{noteKeyID: e.Keys.KeyID, noteSince: e.Keys.ProvenAt.UTC().Format(time.RFC3339)},
		Immutable:  &immutable,
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("creating ConfigMap %s/%s: %w", metav1.NamespaceSystem, NoteName, err)
	}
	return nil
}

// deleteNote deletes the note of an earlier rotation, which earlier releases did not mark.
func (e *Executor) deleteNote(ctx context.Context) error {
	notes := e.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	note, err := notes.Get(ctx, NoteName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if uid := note.Labels[v1alpha1.LabelClusterUID]; uid != "" && uid != e.Cluster {
		return fmt.Errorf("it has the label %s=%s: another UserCluster rotates the keys of this cluster; if that is gone, "+
			"delete it", v1alpha1.LabelClusterUID, uid)
	}
	err = notes.Delete(ctx, NoteName, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &note.UID, ResourceVersion: &note.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
