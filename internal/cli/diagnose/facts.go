package diagnose

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/preflight"
)

// Read is something that was read, or why it could not be.
type Read[T any] struct {
	Value T
	Err   error
}

// Facts are what was read of the clusters. Nothing in them is the data of a Secret.
type Facts struct {
	// Program is the version of this program, and Preview the command that shows what a rotation will do.
	Program, Preview string
	// Down is the advice when the admin cluster does not answer.
	Down  string
	Admin AdminFacts
	// Cluster is nil if the admin cluster alone is checked, or if its API does not answer.
	Cluster *ClusterFacts
}

// AdminFacts are about the cluster in which Keyturn is installed.
type AdminFacts struct {
	// Server is its API server; the rest is zero if that does not answer.
	Server Read[Server]
	// Rights are what the caller may do.
	Rights Read[[]Right]
	// Installed has the object that is installed for each of v1alpha1.Manifests that UserClusters depend on.
	Installed  []Installed
	Deployment Read[*appsv1.Deployment]
	Pods       Read[[]corev1.Pod]
	Lease      Read[*coordinationv1.Lease]
}

// Server is an API server that answered.
type Server struct {
	Version string
	// At is the time on its clock, and Skew how far that is ahead of the clock of this machine.
	At   time.Time
	Skew time.Duration
}

// Right is something that the caller may need to do in the admin cluster.
type Right struct {
	// Words are what it is, and For is what cannot be done without it.
	Words, For string
	Allowed    bool
}

// Installed is an object of v1alpha1.Manifests, and the one of its name in the cluster.
type Installed struct {
	Wanted *unstructured.Unstructured
	Found  Read[*unstructured.Unstructured]
}

// ClusterFacts are about one UserCluster.
type ClusterFacts struct {
	Object *v1alpha1.UserCluster
	// Secrets are the metadata of those that hold its key versions.
	Secrets Read[[]metav1.PartialObjectMetadata]
	// Access is how the cluster is reached. Without it the rest is zero.
	Access Read[Access]
	Server Read[Server]
	Nodes  Read[[]corev1.Node]
	// ControlPlane is what was found of the control plane of an adopted cluster.
	ControlPlane Read[ControlPlane]
	// ClusterAPI is what Cluster API has to do first, in words; empty when nothing.
	ClusterAPI Read[string]
	// Preflight is what a rotation would meet.
	Preflight Read[preflight.Report]
}

// Access is how the administrator of a user cluster reaches it.
type Access struct {
	Endpoint string
	// Expires is when the client certificate does; nil if there is none.
	Expires *time.Time
}

// ControlPlane is what was found of a control plane that kubeadm made.
type ControlPlane struct {
	// Problems are why Keyturn cannot rotate its keys.
	Problems []string
	// Servers are its API servers, each asked alone.
	Servers []LoneServer
}

// LoneServer is one API server that was asked alone.
type LoneServer struct {
	Node string
	// Waiting is why it was not asked, in words. Leaving means that its node is being deleted, and Unlabelled that it
	// lacks the label of the control plane.
	Waiting             string
	Leaving, Unlabelled bool
	Answer              Read[Server]
}
