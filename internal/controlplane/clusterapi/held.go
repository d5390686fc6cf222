package clusterapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/nodes"
)

const (
	poolKind = "MachinePool"
	onDelete = "OnDelete"
)

// Held is an object of Cluster API whose machines Cluster API does not replace now, although it is asked to.
type Held struct {
	Kind, Namespace, Name string
	// Why is the reason, in words.
	Why string
}

func (h Held) String() string { return h.Kind + " " + h.Namespace + "/" + h.Name }

// FindHeld returns what a rotation of a UserCluster with nodeRefresh Replace would wait for until somebody acts. It
// reads the objects of Cluster API from the admin cluster, with rights that the caller may lack.
func FindHeld(ctx context.Context, from client.Reader, uc *v1alpha1.UserCluster) ([]Held, error) {
	r := reader(from, uc)
	all, err := r.held(ctx, r.now())
	if refused, ok := errors.AsType[*apierrors.StatusError](err); ok && apierrors.IsForbidden(err) {
		err = refused // what is around it tells how to give the controller rights
	}
	var found []Held
	for _, h := range all {
		found = append(found, h.Held)
	}
	return found, err
}

// heldReason is what is held, and what a rotation waits for.
type heldReason struct {
	Held
	nodes.Reason
}

// Reasons implements nodes.Roller. It names what Cluster API does not replace itself.
func (r *Roller) Reasons(ctx context.Context, since time.Time) ([]nodes.Reason, error) {
	waiting, err := r.waiting(ctx)
	if err != nil {
		return nil, err
	}
	if waiting != "" {
		return []nodes.Reason{{Words: waiting, Blocked: true}}, nil
	}
	all, err := r.held(ctx, since)
	var reasons []nodes.Reason
	for _, h := range all {
		reasons = append(reasons, h.Reason)
	}
	return reasons, err
}

// held returns what is held where machines from before a time are to be replaced.
func (r *Roller) held(ctx context.Context, since time.Time) ([]heldReason, error) {
	owners, err := r.owners(ctx)
	if err != nil {
		return nil, err
	}
	var all []heldReason
	for _, o := range owners {
		if why, words := o.held(since, r.now()); why != "" {
			all = append(all, heldReason{
				Held{o.GetKind(), o.GetNamespace(), o.GetName(), why}, nodes.Reason{Words: words, Blocked: true},
			})
		}
	}
	pools, err := r.listOf(ctx, poolKind)
	if _, blocked := errors.AsType[*controlplane.BlockedError](err); blocked && meta.IsNoMatchError(err) {
		return all, nil
	}
	for _, p := range pools {
		h := Held{poolKind, p.GetNamespace(), p.GetName(), "Cluster API has no rollout for it: have its infrastructure do it"}
		all = append(all, heldReason{h, nodes.Reason{Words: fmt.Sprintf(
			"the machines of %s to be replaced, which Cluster API has no rollout for: have its infrastructure do it", h)}})
	}
	return all, err
}

// held returns why Cluster API does not replace the machines, and what has to happen, in words; both empty when it
// does, as far as is known.
func (o machineOwner) held(since, now time.Time) (why, words string) {
	switch {
	case o.paused:
		return "it is paused", o.String() + " not to be paused"
	case o.strategy == onDelete:
		return "its strategy is OnDelete: delete its Machines in Refresh", fmt.Sprintf(
			"the machines of %s that are from before %s to be deleted: its strategy is OnDelete", o, text(since))
	case o.after.After(now.Add(time.Minute)):
		return "its rollout.after is " + text(o.after),
			fmt.Sprintf("%s to be rolled out at %s, which its rollout.after names", o, text(o.after))
	}
	return "", ""
}
