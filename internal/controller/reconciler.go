// Package controller rotates the signing keys of the UserClusters of an admin cluster.
//
// Start with Reconciler. Each round gathers what can be observed, plans without side effects (package rotation), does
// the planned external write, if there is one, and patches the status once. It keeps only state that it could observe
// again, except the progress of a walk over legacy tokens; being killed costs only time. Answers of verifiers outside
// the cluster are cached for a few seconds, since queries cost them more than us.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/rotation"
)

// How long after a round the next one begins, unless the cluster is settled.
const (
	afterProgress   = 100 * time.Millisecond // something was written, and its result may show at any moment
	afterWaiting    = 300 * time.Millisecond // another process is working
	afterPublishing = 500 * time.Millisecond // verifiers outside the cluster are working
	afterBlocked    = 2 * time.Second        // somebody must act
	untilCertain    = 2 * time.Second        // at most, while only time must pass
	afterPatience   = 30 * time.Second       // it takes minutes or hours; a process that dies wakes the controller

	longestBackOff = 5 * time.Second // between rounds that fail
)

// Tokens signs the legacy tokens of user clusters again.
type Tokens interface {
	// Refresh signs, for a limited time, legacy tokens again that were not signed with k, continuing where the last
	// call with the same version stopped. It is called only while every signer of the cluster signs with k.
	Refresh(
		ctx context.Context, uc *v1alpha1.UserCluster, k keystore.KeyPair,
	) (rotation.Legacy, v1alpha1.LegacyTokenStatus, error)
	// Forget drops what is remembered about a cluster that is gone.
	Forget(cluster types.UID)
}

// Reconciler brings UserClusters to the state that their spec wants.
type Reconciler struct {
	Client client.Client
	Keys   keystore.Store
	// ControlPlane opens the control plane of a cluster.
	ControlPlane func(*v1alpha1.UserCluster) (controlplane.Adapter, error)
	// Prove asks one API server directly, as controlplane.Prover does.
	Prove func(context.Context, controlplane.Question) (controlplane.Proof, error)
	// Nodes opens the nodes of a cluster.
	Nodes  func(*v1alpha1.UserCluster) (nodes.Adapter, error)
	Tokens Tokens
	// UserCluster reaches the API of a cluster; if nil, it is unknown which pods hold tokens.
	UserCluster func(context.Context, *v1alpha1.UserCluster) (kubernetes.Interface, error)
	// Publishers makes the destinations that keys are published to. Nil: there are none.
	Publishers Publishers
	// Forgotten is called when a cluster is gone, to drop clients and other state of it. It may be nil.
	Forgotten func(keystore.Cluster)
	// Also returns another object that the events of a cluster should be attached to, or nil. It may be nil.
	Also     func(*v1alpha1.UserCluster) runtime.Object
	Recorder events.EventRecorder
	Log      *slog.Logger
	// Now is the clock; nil: time.Now.
	Now func() time.Time

	// Options are how often and how long it works on clusters.
	Options Options
	// Wakes start rounds earlier; nil: nothing does.
	Wakes Wakes

	memory memory
	rounds rounds
}

// read returns a UserCluster; nil if it is gone. It is then forgotten, even if somebody else removed its finalizer.
func (r *Reconciler) read(ctx context.Context, name types.NamespacedName) (*v1alpha1.UserCluster, error) {
	uc := &v1alpha1.UserCluster{}
	if err := r.Client.Get(ctx, name, uc); err != nil {
		if apierrors.IsNotFound(err) {
			r.forgetName(name)
		}
		return nil, client.IgnoreNotFound(err)
	}
	return uc, nil
}

// round does one round for a UserCluster.
func (r *Reconciler) round(ctx context.Context, uc *v1alpha1.UserCluster) (ctrl.Result, error) {
	if !uc.DeletionTimestamp.IsZero() {
		return r.delete(ctx, uc)
	}
	before := uc.DeepCopy()
	held, marked := controllerutil.AddFinalizer(uc, v1alpha1.Finalizer), uc.MarkForMove()
	if held || marked {
		// A crash after this is harmless: nothing exists yet that the finalizer would have to remove.
		return ctrl.Result{RequeueAfter: afterProgress}, r.patchMetadata(ctx, before, uc)
	}
	return r.converge(ctx, uc)
}

// patchMetadata writes the metadata of uc and nothing else: writing the whole object would drop empty lists of the
// spec, which counts as a change of it.
func (r *Reconciler) patchMetadata(ctx context.Context, before, uc *v1alpha1.UserCluster) error {
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	if err := r.Client.Patch(ctx, uc, patch); err != nil {
		return fmt.Errorf("patching the metadata of %s: %w", uc.Name, err)
	}
	return nil
}

func (r *Reconciler) converge(ctx context.Context, uc *v1alpha1.UserCluster) (ctrl.Result, error) {
	work, cancel := context.WithTimeout(ctx, r.Options.withDefaults().RoundTimeout)
	defer cancel()
	if changed, err := r.holdCredentials(work, uc); err != nil || changed {
		return ctrl.Result{RequeueAfter: afterProgress}, err
	}
	seen, err := r.gather(work, uc)
	if err != nil {
		return ctrl.Result{}, r.patchError(ctx, uc, err)
	}
	decision := rotation.Plan(seen.Observed, r.now())
	if !decision.Settled {
		r.remember(uc).setSettled(nil)
		if seen.routine != nil {
			return ctrl.Result{RequeueAfter: afterProgress}, nil
		}
	}
	result := ctrl.Result{RequeueAfter: r.pause(decision)}
	if !decision.Blind && string(decision.Step) != uc.Status.KSASigningKey.Step {
		// The status shows a step before its first write, which may take seconds. The next round reports the result.
		if err := r.patchStatus(ctx, uc, decision, seen); err != nil {
			return unlessStale(ctrl.Result{}, err)
		}
		return result, r.act(work, uc, decision, &seen)
	}
	actErr := r.act(work, uc, decision, &seen)
	if actErr != nil {
		decision.Waiting, decision.Blocked, decision.Settled = actErr.Error(), needsAction(actErr), false
	}
	lasting := r.remember(uc).obstruct(seen.obstructed || isObstructed(actErr))
	decision.Blocked = decision.Blocked || lasting && decision.Waiting != ""
	if len(seen.former) > 0 && !decision.Blind && r.remember(uc).mayWithdraw(r.now()) {
		r.rounds.wait(func() { seen.former = r.withdraw(work, uc, seen.former) })
	}
	if err := r.patchStatus(ctx, uc, decision, seen); err != nil {
		return unlessStale(ctrl.Result{}, errors.Join(actErr, err))
	}
	if decision.Settled {
		r.settle(uc, &seen, result.RequeueAfter)
	}
	return result, actErr
}

// unlessStale makes a round start again if its UserCluster was written meanwhile, for example by another controller.
// This is not a failure.
func unlessStale(result ctrl.Result, err error) (ctrl.Result, error) {
	if apierrors.IsConflict(err) {
		return ctrl.Result{RequeueAfter: afterProgress}, nil
	}
	return result, err
}

// needsAction reports whether an error persists until somebody acts.
func needsAction(err error) bool {
	_, blocked := errors.AsType[*controlplane.BlockedError](err)
	return blocked || errors.Is(err, keystore.ErrForeign)
}

func (r *Reconciler) now() time.Time {
	if r.Now == nil {
		return time.Now()
	}
	return r.Now()
}

// pause returns how long after a round the next one begins.
func (r *Reconciler) pause(d rotation.Decision) time.Duration {
	switch {
	case d.Settled:
		return r.Options.settledPause()
	case d.Blocked:
		return afterBlocked
	case d.Patient:
		return afterPatience
	case !d.Until.IsZero():
		return min(max(d.Until.Sub(r.now()), afterProgress), untilCertain)
	case d.Action.Kind == rotation.PublishKeys:
		return afterPublishing
	case d.Action.Target.Live:
		return afterProgress // signers take no time to change
	case d.Waiting != "":
		return afterWaiting
	}
	return afterProgress
}

// NewScheme returns the scheme of the admin cluster.
func NewScheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range schemes {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("building the scheme: %w", err)
		}
	}
	return s, nil
}
