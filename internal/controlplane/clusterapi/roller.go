package clusterapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/nodes"
)

const (
	deploymentKind = "MachineDeployment"
	// topologyOwned is on objects that a ClusterClass makes: what is written to them is put back. topologyName is how the
	// topology of the Cluster calls a MachineDeployment.
	topologyOwned = "topology.cluster.x-k8s.io/owned"
	topologyName  = "topology.cluster.x-k8s.io/deployment-name"
	// controlPlaneNodeLabel is on control-plane nodes.
	controlPlaneNodeLabel = "node-role.kubernetes.io/control-plane"
)

// Roller has Cluster API replace the machines of one cluster, by rollout.after. It implements nodes.Roller.
type Roller struct {
	management
	client client.Client
	now    func() time.Time
	memory *memory
	// retry is the value of v1alpha1.AnnotationRetryChange.
	retry string
	// workers means that it replaces only workers: a rotation replaces the other machines three times anyway.
	workers bool
}

var _ nodes.Roller = (*Roller)(nil)

// Roller returns what replaces the machines of a UserCluster with spec.infrastructure.clusterAPI.
func (c *Clusters) Roller(uc *v1alpha1.UserCluster) *Roller {
	r := reader(c.client, uc)
	r.client, r.memory = c.client, c.remember(types.UID(uc.Identity()))
	r.retry = uc.Annotations[v1alpha1.AnnotationRetryChange]
	return r
}

// reader returns a Roller that only reads.
func reader(from client.Reader, uc *v1alpha1.UserCluster) *Roller {
	return &Roller{management: managementOf(from, uc), now: time.Now, workers: uc.Spec.Infrastructure.RollsOut()}
}

// Keeps implements nodes.Roller.
func (r *Roller) Keeps(node *corev1.Node) bool {
	_, controlPlane := node.Labels[controlPlaneNodeLabel]
	return r.workers && controlPlane
}

// machineOwner is what makes machines: a MachineDeployment or the KubeadmControlPlane.
type machineOwner struct {
	*unstructured.Unstructured
	after    time.Time
	strategy string
	paused   bool
}

// ownerObject is what of a machineOwner is of use.
type ownerObject struct {
	Spec struct {
		Paused  bool `json:"paused"`
		Rollout struct {
			After    metav1.Time `json:"after"`
			Strategy struct {
				Type string `json:"type"`
			} `json:"strategy"`
		} `json:"rollout"`
	} `json:"spec"`
}

func (o machineOwner) String() string {
	return o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
}

// owned reports whether the topology of the Cluster owns the object.
func (o machineOwner) owned() bool {
	_, owned := o.GetLabels()[topologyOwned]
	return owned
}

// slack is how much the clocks of the admin cluster and of the user cluster may differ.
const slack = 5 * time.Second

// Roll implements nodes.Roller. It asks for the same time as long as since stays, so that a machine that is new is not
// replaced again.
func (r *Roller) Roll(ctx context.Context, since time.Time) error {
	waiting, err := r.waiting(ctx)
	if err != nil || waiting != "" {
		return err // a paused cluster is left alone; Reasons names it
	}
	owners, err := r.owners(ctx)
	if err != nil {
		return err
	}
	after := since.Add(slack)
	due := slices.DeleteFunc(owners, func(o machineOwner) bool {
		return !o.after.Before(after) // asked for, perhaps for later by somebody else
	})
	return r.request(ctx, due, after)
}

// request has the machines replaced that are older than after, once that is over by every clock. Cluster API compares
// rollout.after with its own when the object changes, and at no certain time after that.
func (r *Roller) request(ctx context.Context, owners []machineOwner, after time.Time) error {
	if r.now().Before(after.Add(slack)) {
		return nil
	}
	var errs []error
	var topology []machineOwner
	for _, o := range owners {
		switch err := r.reverted(ctx, o, after); {
		case err != nil:
			errs = append(errs, err)
		case o.owned():
			topology = append(topology, o)
		default:
			err := r.set(ctx, o.Unstructured, func(object map[string]any) error {
				return unstructured.SetNestedField(object, text(after), "spec", "rollout", "after")
			})
			if err == nil {
				r.memory.asked(o, after, r.retry)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, r.rollTopology(ctx, topology, after))...)
}

// reverted returns an error if somebody has taken a request away. Cluster API may then bring back machines as they were
// before, and so would each request that follows, until the user asks for one more.
func (r *Roller) reverted(ctx context.Context, o machineOwner, after time.Time) error {
	if !r.memory.hasAsked(o, after, r.retry) {
		return nil
	}
	written, path := metav1.Object(o.Unstructured), []string{"f:spec", "f:rollout", "f:after"}
	name := o.String()
	if o.owned() {
		cluster := &unstructured.Unstructured{}
		cluster.SetGroupVersionKind(coreVersion.WithKind("Cluster"))
		if err := r.Get(ctx, r.key(r.cluster), cluster); err != nil {
			return fmt.Errorf("reading %s: %w", r, lasting(err))
		}
		written, path, name = cluster, topologyPath(o), name+" in the topology of "+r.String()
	}
	var names []string
	for ; len(path) > 0 && len(names) == 0; path = path[:len(path)-1] {
		names = managers(written, path...) // who removes a field owns what is around it
	}
	return controlplane.Blocked(fmt.Errorf("%s took away rollout.after of %s: have that leave the field alone until the "+
		"rotation has ended, and then annotate the UserCluster with %s=VALUE, a new one each time", inWords(names), name,
		v1alpha1.AnnotationRetryChange))
}

// topologyPath is where the managed fields of a Cluster have rollout.after of what makes machines.
func topologyPath(o machineOwner) []string {
	if o.GetKind() == controlPlaneKind {
		return []string{"f:spec", "f:topology", "f:controlPlane", "f:rollout", "f:after"}
	}
	return []string{
		"f:spec", "f:topology", "f:workers", "f:machineDeployments",
		fmt.Sprintf(`k:{"name":%q}`, o.GetLabels()[topologyName]), "f:rollout", "f:after",
	}
}

// rollRequest is a request to replace machines.
type rollRequest struct {
	// after was written into rollout.after.
	after time.Time
	// retried is the value of v1alpha1.AnnotationRetryChange with which it was.
	retried string
}

// asked notes a request.
func (m *memory) asked(o machineOwner, after time.Time, retry string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rolled == nil {
		m.rolled = map[string]rollRequest{}
	}
	m.rolled[o.String()] = rollRequest{after, retry}
}

// hasAsked reports whether a request was made before, and nobody has asked to make it again.
func (m *memory) hasAsked(o machineOwner, after time.Time, retry string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.rolled[o.String()]
	return !was.after.Before(after) && (retry == "" || retry == was.retried)
}

// text is a time as the API has it.
func text(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// mayRoll returns which right of the controller is missing for having machines replaced; nil if none is. It asks until
// all were there once.
func (r *Roller) mayRoll(ctx context.Context) error {
	r.memory.mu.Lock()
	may := r.memory.entitled
	r.memory.mu.Unlock()
	if may {
		return nil
	}
	for _, right := range []authorizationv1.ResourceAttributes{
		{Verb: "list", Group: coreVersion.Group, Resource: "machinedeployments"},
		{Verb: "list", Group: coreVersion.Group, Resource: "machinepools"},
		{Verb: "update", Group: coreVersion.Group, Resource: "machinedeployments"},
		{Verb: "update", Group: coreVersion.Group, Resource: "clusters"},
		{Verb: "update", Group: controlPlaneVersion.Group, Resource: "kubeadmcontrolplanes"},
	} {
		right.Namespace = r.namespace
		review := &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &right},
		}
		if err := r.client.Create(ctx, review); err != nil {
			return fmt.Errorf("asking whether machines of %s may be replaced: %w", r, err)
		}
		if !review.Status.Allowed {
			return controlplane.Blocked(fmt.Errorf("nodeRefresh Replace and method Rollout have Cluster API replace machines, "+
				"and keyturn-controller may not %s %s.%s in namespace %s: set clusterAPI.replaceNodes of the chart, or choose "+
				"another nodeRefresh", right.Verb, right.Resource, right.Group, right.Namespace))
		}
	}
	r.memory.mu.Lock()
	defer r.memory.mu.Unlock()
	r.memory.entitled = true
	return nil
}

// set changes an object as it was read: whoever changed it meanwhile wins.
func (r *Roller) set(ctx context.Context, o *unstructured.Unstructured, change func(map[string]any) error) error {
	o = o.DeepCopy()
	err := change(o.Object)
	if err == nil {
		err = r.client.Update(ctx, o, client.FieldOwner(fieldManager))
	}
	if err != nil {
		return fmt.Errorf("setting rollout.after of %s %s/%s: %w", o.GetKind(), o.GetNamespace(), o.GetName(), lasting(err))
	}
	return nil
}

// rollTopology sets rollout.after where the topology of the Cluster owns it.
func (r *Roller) rollTopology(ctx context.Context, owners []machineOwner, after time.Time) error {
	if len(owners) == 0 {
		return nil
	}
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(coreVersion.WithKind("Cluster"))
	if err := r.Get(ctx, r.key(r.cluster), o); err != nil {
		return fmt.Errorf("reading %s: %w", r, lasting(err))
	}
	err := r.set(ctx, o, func(object map[string]any) error {
		for _, owner := range owners {
			if err := setTopology(object, owner, text(after)); err != nil {
				return err
			}
		}
		return nil
	})
	for _, owner := range owners {
		if err == nil {
			r.memory.asked(owner, after, r.retry)
		}
	}
	return err
}

// setTopology sets rollout.after of what the topology of a Cluster says about an owner of machines.
func setTopology(cluster map[string]any, owner machineOwner, after string) error {
	if owner.GetKind() == controlPlaneKind {
		return unstructured.SetNestedField(cluster, after, "spec", "topology", "controlPlane", "rollout", "after")
	}
	path := []string{"spec", "topology", "workers", "machineDeployments"}
	list, _, err := unstructured.NestedSlice(cluster, path...)
	if err != nil {
		return err
	}
	for _, each := range list {
		if d, ok := each.(map[string]any); ok && d["name"] == owner.GetLabels()[topologyName] {
			if err := unstructured.SetNestedField(d, after, "rollout", "after"); err != nil {
				return err
			}
		}
	}
	return unstructured.SetNestedSlice(cluster, list, path...)
}

// owners returns what makes the machines that it replaces.
func (r *Roller) owners(ctx context.Context) (owners []machineOwner, err error) {
	c, _, err := r.read(ctx)
	if err != nil {
		return nil, err
	}
	if !r.workers {
		kcp, err := r.controlPlaneOf(ctx, c)
		if err != nil {
			return nil, err
		}
		owners = append(owners, kcp)
	}
	list, err := r.listOf(ctx, deploymentKind)
	for i := range list {
		var read ownerObject
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list[i].Object, &read); err != nil {
			return nil, fmt.Errorf("reading MachineDeployment %s/%s: %w", r.namespace, list[i].GetName(), err)
		}
		owners = append(owners, c.ownerOf(&list[i], read))
	}
	return owners, err
}

// controlPlane returns what makes the control-plane machines.
func (r *Roller) controlPlane(ctx context.Context) (machineOwner, error) {
	c, _, err := r.read(ctx)
	if err != nil {
		return machineOwner{}, err
	}
	return r.controlPlaneOf(ctx, c)
}

func (r *Roller) controlPlaneOf(ctx context.Context, c cluster) (machineOwner, error) {
	var read ownerObject
	kcp, err := r.get(ctx, controlPlaneVersion.WithKind(controlPlaneKind), c.Spec.ControlPlaneRef.Name, &read)
	if err != nil {
		return machineOwner{}, fmt.Errorf("reading the KubeadmControlPlane of %s: %w", r, err)
	}
	return c.ownerOf(kcp, read), nil
}

// ownerOf also takes what the topology has, which Cluster API copies to what it owns some time later.
func (c cluster) ownerOf(o *unstructured.Unstructured, read ownerObject) machineOwner {
	rollout := read.Spec.Rollout
	owner := machineOwner{o, rollout.After.Time, rollout.Strategy.Type, read.Spec.Paused || isPaused(o)}
	topology := c.Spec.Topology
	switch {
	case !owner.owned():
	case o.GetKind() == controlPlaneKind:
		owner.after = latest(owner.after, topology.ControlPlane.Rollout.After.Time)
	default:
		for _, d := range topology.Workers.MachineDeployments {
			if d.Name == o.GetLabels()[topologyName] {
				owner.after = latest(owner.after, d.Rollout.After.Time)
			}
		}
	}
	return owner
}

// listOf lists the objects of the cluster of a kind of Cluster API's core.
func (r *Roller) listOf(ctx context.Context, kind string) ([]unstructured.Unstructured, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(coreVersion.WithKind(kind + "List"))
	err := r.List(ctx, list, client.InNamespace(r.namespace), client.MatchingLabels{clusterLabel: r.cluster})
	if err != nil {
		return nil, fmt.Errorf("listing the %ss of %s: %w", kind, r, lasting(err))
	}
	return list.Items, nil
}
