package clusterapi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
)

// What of Cluster API is read, in the version of contract v1beta2.
var (
	coreVersion         = schema.GroupVersion{Group: "cluster.x-k8s.io", Version: "v1beta2"}
	controlPlaneVersion = schema.GroupVersion{Group: "controlplane.cluster.x-k8s.io", Version: "v1beta2"}
)

// Names that Cluster API puts on objects.
const (
	controlPlaneKind  = "KubeadmControlPlane"
	clusterLabel      = "cluster.x-k8s.io/cluster-name"
	controlPlaneLabel = "cluster.x-k8s.io/control-plane"
	pausedAnnotation  = "cluster.x-k8s.io/paused"
)

// cluster is what of a Cluster is of use.
type cluster struct {
	Spec struct {
		Topology struct {
			ControlPlane struct {
				Rollout rollout `json:"rollout"`
			} `json:"controlPlane"`
			Workers struct {
				MachineDeployments []struct {
					Name    string  `json:"name"`
					Rollout rollout `json:"rollout"`
				} `json:"machineDeployments"`
			} `json:"workers"`
		} `json:"topology"`
		Paused          bool `json:"paused"`
		ControlPlaneRef struct {
			APIGroup string `json:"apiGroup"`
			Kind     string `json:"kind"`
			Name     string `json:"name"`
		} `json:"controlPlaneRef"`
	} `json:"spec"`
}

// rollout is which machines are to be replaced: those that are older.
type rollout struct {
	After metav1.Time `json:"after"`
}

// machineObject is what of a Machine is of use.
type machineObject struct {
	Spec struct {
		Bootstrap struct {
			DataSecretName string `json:"dataSecretName"`
		} `json:"bootstrap"`
	} `json:"spec"`
	Status struct {
		NodeRef struct {
			Name string `json:"name"`
		} `json:"nodeRef"`
	} `json:"status"`
}

// machine is one control-plane Machine.
type machine struct {
	name string
	// data names the Secret with its bootstrap data, and node is its node; each is empty until it is there.
	data, node string
	created    time.Time
	leaving    bool
}

// management reads the objects of Cluster API that a UserCluster is about.
type management struct {
	client.Reader
	namespace, cluster string
}

func managementOf(reader client.Reader, uc *v1alpha1.UserCluster) management {
	return management{reader, uc.Namespace, uc.Spec.Infrastructure.ClusterAPI.Cluster}
}

func (m management) String() string { return "Cluster " + m.namespace + "/" + m.cluster }

func (m management) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: m.namespace, Name: name}
}

// errGone means that there is no such Cluster.
var errGone = errors.New("it does not exist")

// waiting returns what the cluster lacks to be observed, in words; empty when nothing. An error that lasts until
// somebody acts is a controlplane.BlockedError.
func (m management) waiting(ctx context.Context) (string, error) {
	c, o, err := m.read(ctx)
	if err != nil {
		return "", err
	}
	return m.waitingFor(ctx, c, o)
}

// waitingFor is waiting for a Cluster that was read.
func (m management) waitingFor(ctx context.Context, c cluster, o client.Object) (string, error) {
	ref := c.Spec.ControlPlaneRef
	if ref.Kind != controlPlaneKind || ref.APIGroup != controlPlaneVersion.Group {
		return "", controlplane.Blocked(fmt.Errorf("the control plane of %s is a %s of %q: Keyturn rotates those that are a "+
			"KubeadmControlPlane", m, ref.Kind, ref.APIGroup))
	}
	if c.Spec.Paused || isPaused(o) {
		return m.String() + " not to be paused", nil
	}
	kcp, err := m.get(ctx, controlPlaneVersion.WithKind(controlPlaneKind), ref.Name, &struct{}{})
	if err != nil {
		return "", fmt.Errorf("reading KubeadmControlPlane %s/%s: %w", m.namespace, ref.Name, err)
	}
	if isPaused(kcp) {
		return fmt.Sprintf("KubeadmControlPlane %s/%s not to be paused", m.namespace, ref.Name), nil
	}
	return "", nil
}

// read reads the Cluster.
func (m management) read(ctx context.Context) (c cluster, o client.Object, err error) {
	o, err = m.get(ctx, coreVersion.WithKind("Cluster"), m.cluster, &c)
	if apierrors.IsNotFound(err) {
		err = controlplane.Blocked(errGone)
	}
	if err != nil {
		return c, nil, fmt.Errorf("reading %s: %w", m, err)
	}
	return c, o, nil
}

func isPaused(o client.Object) bool {
	_, paused := o.GetAnnotations()[pausedAnnotation]
	return paused
}

// get reads an object into what is of use of it.
func (m management) get(
	ctx context.Context, kind schema.GroupVersionKind, name string, into any,
) (*unstructured.Unstructured, error) {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(kind)
	if err := m.Get(ctx, m.key(name), o); err != nil {
		return nil, lasting(err)
	}
	return o, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, into)
}

// lasting tells what only an administrator can change.
func lasting(err error) error {
	switch {
	case meta.IsNoMatchError(err):
		return controlplane.Blocked(fmt.Errorf("the admin cluster does not serve Cluster API of contract v1beta2: %w", err))
	case apierrors.IsForbidden(err):
		return controlplane.Blocked(fmt.Errorf("name its namespace in the value clusterAPI.namespaces of the chart and, for "+
			"nodeRefresh Replace and method Rollout, set clusterAPI.replaceNodes: %w", err))
	}
	return err
}

// machines returns the control-plane Machines, by name.
func (m management) machines(ctx context.Context) ([]machine, error) {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(coreVersion.WithKind("MachineList"))
	err := m.List(ctx, list, client.InNamespace(m.namespace), client.HasLabels{controlPlaneLabel},
		client.MatchingLabels{clusterLabel: m.cluster})
	if err != nil {
		return nil, fmt.Errorf("listing the control-plane Machines of %s: %w", m, lasting(err))
	}
	machines := make([]machine, len(list.Items))
	for i, o := range list.Items {
		var read machineObject
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &read); err != nil {
			return nil, fmt.Errorf("reading Machine %s/%s: %w", m.namespace, o.GetName(), err)
		}
		machines[i] = machine{
			name: o.GetName(), created: o.GetCreationTimestamp().Time, leaving: o.GetDeletionTimestamp() != nil,
			data: read.Spec.Bootstrap.DataSecretName, node: read.Status.NodeRef.Name,
		}
	}
	return machines, nil
}

// coming reports whether the machine has no node yet. Its bootstrap data, even if it is yet to be made, may be made of
// a Secret that was read before the last change of that. So no step begins before its API server is proven.
func (m machine) coming() bool { return !m.leaving && m.node == "" }

// starting reports whether a machine has what it starts with, and no node yet. Its node may have another name.
func (m machine) starting() bool { return m.coming() && m.data != "" }

// waiting is what the API server of a machine that is coming waits for, in words.
func (m machine) waiting() string {
	if m.data == "" {
		return fmt.Sprintf("Machine %s is to get its bootstrap data and to become a node", m.name)
	}
	return fmt.Sprintf("Machine %s has its bootstrap data and is to become a node", m.name)
}

// amend adds the API servers that are still to come to those that were found, and marks those that go.
func amend(machines []machine, f *kubeadm.Found) {
	for i, s := range f.Servers {
		f.Servers[i].Leaving = s.Leaving || orphaned(machines, s.Node)
	}
	for _, m := range machines {
		switch {
		case m.leaving && m.node != "":
			leave(m.node, f)
		case m.coming() && !slices.ContainsFunc(f.Servers, func(s kubeadm.Server) bool { return s.Node == m.name }):
			f.Servers = append(f.Servers, kubeadm.Server{Node: m.name, Waiting: m.waiting()})
		}
	}
}

// orphaned reports whether the machine of a node is gone. Cluster API deletes a Node with its Machine, and gives up if
// it cannot for nodeDeletionTimeoutSeconds, 10 by default. While a machine starts, the node may belong to it.
func orphaned(machines []machine, node string) bool {
	return len(machines) > 0 && !slices.ContainsFunc(machines, func(m machine) bool {
		return m.node == node || m.name == node || m.starting()
	})
}

// leave marks the API server of a node as leaving.
func leave(node string, f *kubeadm.Found) {
	for i := range f.Servers {
		if f.Servers[i].Node == node {
			f.Servers[i].Leaving = true
		}
	}
}
