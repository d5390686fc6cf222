// Package provider is an infrastructure provider of Cluster API whose machines are sandboxes of one Linux host, without
// Docker and without virtual machines. It is there to develop and to test with: Cluster API with real nodes.
//
// Setup is where to start: it adds the controllers to a manager. A LocalCluster is a bridge and a load balancer; a
// LocalMachine is a machine that carries out its bootstrap data when it is first started, as a virtual machine does by
// cloud-init. Both are found again on the host by the id of the LocalCluster, so the provider may be killed at any
// time, and two management clusters may share a host while clusterctl move is under way.
package provider

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"
	"sigs.k8s.io/cluster-api/util/conditions"
	"sigs.k8s.io/cluster-api/util/patch"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"github.com/keyturn/keyturn/internal/printable"
	"github.com/keyturn/keyturn/tools/capi/api/v1alpha1"
)

const (
	// busyInterval is how often a machine is checked that carries out its bootstrap data, or that ends.
	busyInterval = time.Second
	// settledInterval is how often the host is compared with what should be there.
	settledInterval = 10 * time.Second
	// roundTimeout bounds one round, which may build images.
	roundTimeout = 2 * time.Minute
	// maxMessage is the length of a condition's message.
	maxMessage = 1000
)

// Scheme has the kinds that the provider reads and writes.
func Scheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, clusterv1.AddToScheme, v1alpha1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return scheme, nil
}

// Setup adds the controllers of a host to a manager.
func Setup(ctx context.Context, m manager.Manager, host *Host) error {
	if err := (&clusters{Client: m.GetClient(), host: host}).setup(ctx, m); err != nil {
		return err
	}
	return (&machines{Client: m.GetClient(), reader: m.GetAPIReader(), host: host}).setup(m)
}

// resource is a LocalCluster or a LocalMachine.
type resource interface {
	client.Object
	conditions.Setter
}

// setReady sets the condition Ready, which is true for ReasonReady only.
func setReady(r resource, reason, message string) {
	status := metav1.ConditionFalse
	if reason == v1alpha1.ReasonReady {
		status = metav1.ConditionTrue
	}
	conditions.Set(r, metav1.Condition{
		Type: clusterv1.ReadyCondition, Status: status, Reason: reason, Message: printable.Text(message, maxMessage),
		ObservedGeneration: r.GetGeneration(),
	})
}

// ownedConditions are the conditions that only this provider writes.
var ownedConditions = patch.WithOwnedConditions{Conditions: []string{clusterv1.ReadyCondition, clusterv1.PausedCondition}}
