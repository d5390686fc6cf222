package kubeadm

import (
	"context"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/rotation"
)

// uploadName is the Secret in namespace kube-system with the keys and certificates that kubeadm init phase upload-certs
// encrypts for control-plane nodes that join. kubeadm deletes it after two hours.
const uploadName = "kubeadm-certs"

// joinTime is within which a node that joins shows its API server after it has read that Secret: as a mirror pod, long
// before it serves.
const joinTime = time.Minute

// first reports whether no API server that stays has come to the stage of these keys.
func (v *view) first(keys rotation.Keys) bool {
	return !slices.ContainsFunc(v.staying(), func(n *node) bool { return n.configured.Stage() >= keys.Stage() })
}

// publishing reports whether API servers have keys in step Publish: two, of which the older one signs.
func publishing(keys rotation.Keys) bool { return len(keys.Verify) == 2 && keys.Sign == keys.Verify[0] }

// dropUpload deletes what kubeadm has uploaded. If there was something, the time is noted first: a node that has just
// read it comes with keys from before, and is to show itself before an API server gets keys that do not go with those.
// stage is the one that all API servers have come to, since what is uploaded from then on has its keys; 0 for none. A
// crash in between only makes that wait longer.
func (c *Cluster) dropUpload(ctx context.Context, stage int) error {
	there, err := c.plane.uploaded(ctx)
	if err != nil || !there {
		return err
	}
	if err := c.agents.noteUpload(ctx, c.now(), stage); err != nil {
		return err
	}
	return c.plane.dropUpload(ctx)
}

// reached returns the stage that all API servers that stay have come to in Publish or in Switch; 0 while they have not.
func (v *view) reached() int {
	stage := 0
	for i, n := range v.staying() {
		if i == 0 {
			stage = n.configured.Stage()
		}
		if len(n.configured.Verify) != 2 || n.configured.Stage() != stage || !n.changed() {
			return 0
		}
	}
	return stage
}

// outdated reports whether what kubeadm has uploaded may be from before all API servers came to this step. A node that
// starts with it during the next one would refuse tokens, or have its own refused. Without agents nothing is about to
// change.
func (c *Cluster) outdated(ctx context.Context, v *view) (bool, error) {
	if stage := v.reached(); stage == 0 || stage == v.agents.droppedFor || !v.agents.asked {
		return false, nil
	}
	return c.plane.uploaded(ctx)
}

// joining is what is waited for in Publish and in Switch after an upload was deleted, in words; empty for nothing.
func (c *Cluster) joining(v *view) string {
	left := v.agents.dropped.Add(joinTime).Sub(c.now())
	waits := slices.ContainsFunc(v.staying(), func(n *node) bool { return len(n.configured.Verify) == 2 })
	if !waits || left <= 0 || left > joinTime { // a clock that was set back makes nobody wait
		return ""
	}
	return fmt.Sprintf("nodes that may be joining with the Secret %s/%s of before to show their API servers, until %s",
		metav1.NamespaceSystem, uploadName, v.agents.dropped.Add(joinTime).UTC().Format(time.RFC3339))
}

// uploaded reports whether kubeadm has uploaded something.
func (r *reach) uploaded(ctx context.Context) (bool, error) {
	client, err := r.client()
	if err != nil {
		return false, err
	}
	_, err = client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, uploadName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading Secret %s/%s: %w", metav1.NamespaceSystem, uploadName, err)
	}
	return true, nil
}

// dropUpload deletes that Secret. It holds the keys of the moment in which it was made, encrypted, so nobody knows
// which. kubeadm join then fails, and names the Secret.
func (r *reach) dropUpload(ctx context.Context) error {
	client, err := r.client()
	if err != nil {
		return err
	}
	err = client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, uploadName, metav1.DeleteOptions{})
	if err := ignoreGone(err); err != nil {
		return fmt.Errorf("deleting Secret %s/%s, whose keys are about to be old: %w", metav1.NamespaceSystem, uploadName, err)
	}
	return nil
}
