package v1alpha1

import corev1 "k8s.io/api/core/v1"

// Condition types of a UserCluster.
const (
	// ConditionReady is True when the cluster matches its spec.
	ConditionReady = "Ready"
	// ConditionKSASigningKeyRotation is False while a rotation runs and True when it is complete.
	ConditionKSASigningKeyRotation = "KSASigningKeyRotation"
	// ConditionKubeconfig is True when Secret NAME-kubeconfig holds the administrator's kubeconfig of the cluster.
	ConditionKubeconfig = "Kubeconfig"
	// ConditionKSATokensExpired is False while Retire waits for tokens of the old key to expire, and True once they
	// have. It is about the latest rotation that waited for tokens.
	ConditionKSATokensExpired = "KSATokensExpired"
)

// Reasons of the condition KSASigningKeyRotation, as the documented product spells them.
const (
	// ReasonRotationCompleted is the reason while no rotation runs.
	ReasonRotationCompleted = "KSASigningKeyRotationCompleted"
	// ReasonRotationProcessed is the reason while a rotation runs.
	ReasonRotationProcessed = "KSASigningKeyRotationProcessedReason"
)

// Reasons of the condition Ready.
const (
	// ReasonReady is the reason while the cluster is as its spec wants it.
	ReasonReady = "ClusterReady"
	// ReasonCreateOrUpdate is the reason while the cluster is created or changed.
	ReasonCreateOrUpdate = "ClusterCreateOrUpdate"
	// ReasonRotating is the reason while a rotation runs.
	ReasonRotating = "KSASigningKeyRotation"
	// ReasonRotationBlocked is the reason while a person must act; the message says what to do.
	ReasonRotationBlocked = "KSASigningKeyRotationBlocked"
	// ReasonNotObserved is the reason while the cluster cannot be reached.
	ReasonNotObserved = "ClusterNotObserved"
)

// ReasonOldTokens is the reason of the event that names pods with a dead token at the end of a rotation.
const ReasonOldTokens = "PodsKeepOldTokens"

// Reasons of the condition Kubeconfig.
const (
	// ReasonKubeconfigWritten is the reason once the Secret holds the kubeconfig.
	ReasonKubeconfigWritten = "KubeconfigWritten"
	// ReasonKubeconfigPending is the reason while there is no kubeconfig yet.
	ReasonKubeconfigPending = "KubeconfigPending"
	// ReasonSecretNotOurs is the reason while a Secret of somebody else has that name.
	ReasonSecretNotOurs = "SecretNotOurs"
)

// Reasons of the condition KSATokensExpired.
const (
	// ReasonTokensExpired is the reason once no token of the old key lives.
	ReasonTokensExpired = "TokensExpired"
	// ReasonTokensLive is the reason while Retire waits for tokens of the old key.
	ReasonTokensLive = "TokensLive"
	// ReasonRetiredInUse: the old key was retired although tokens of it may still have been valid, because the limit
	// had passed, or because the spec no longer required to wait for them.
	ReasonRetiredInUse = "RetiredInUse"
)

// Names that Keyturn sets on objects.
const (
	// Finalizer keeps a UserCluster until its infrastructure and keys are deleted.
	Finalizer = "keyturn.dev/cluster"
	// LabelCluster names the UserCluster that a Secret belongs to.
	LabelCluster = "keyturn.dev/cluster"
	// LabelClusterUID is the identity of the UserCluster that a Secret belongs to, since another cluster may reuse its
	// name: see UserCluster.Identity.
	LabelClusterUID = "keyturn.dev/cluster-uid"
	// LabelKeyVersion is the key version of a key Secret. On a node, it is the version in use when the node was made.
	LabelKeyVersion = "keyturn.dev/ksa-signing-key-version"
	// LabelNodePool names the pool of a node.
	LabelNodePool = "keyturn.dev/node-pool"
	// AnnotationTokenRefreshed is set on a pod to make its kubelet project a re-signed legacy token at once.
	AnnotationTokenRefreshed = "keyturn.dev/legacy-token-refreshed"
	// SecretTypeSigningKey is the type of the Secrets that hold key versions.
	SecretTypeSigningKey = "keyturn.dev/ksa-signing-key"
	// SecretTypeKubeconfig is the type of the Secrets that hold the administrator's kubeconfig of a user cluster.
	SecretTypeKubeconfig = "keyturn.dev/kubeconfig"
	// KubeconfigKey is the key of such a Secret that holds the kubeconfig.
	KubeconfigKey = "value"
	// CredentialsKey is the key of the Secret named by gkeConnect that holds a service account key.
	CredentialsKey = "key.json"
	// AnnotationBreakGlass is set on a UserCluster or a Secret, with a reason as its value, by an administrator who is
	// about to do what only the controller may do otherwise.
	AnnotationBreakGlass = "keyturn.dev/break-glass"
	// AnnotationLeavePublished is set on a UserCluster that is being deleted, with a reason as its value, to delete it
	// even though its published documents or membership cannot be removed.
	AnnotationLeavePublished = "keyturn.dev/leave-published"
	// AnnotationEvict is set to "true" on a pod that has no controller to recreate it. A rotation with nodeRefresh
	// Evict then evicts it like other pods.
	AnnotationEvict = "keyturn.dev/evict"
	// AnnotationReleaseForeignKeys is set on a UserCluster to a comma-separated list of kids. They are keys that API
	// servers accept and Keyturn did not make, and that it may remove, at the end of a rotation or after it.
	AnnotationReleaseForeignKeys = "keyturn.dev/release-foreign-keys"
	// AnnotationRetryChange is set on a UserCluster, with a new value each time, to retry a change of a control-plane
	// node that was undone because kube-apiserver did not become ready with it.
	AnnotationRetryChange = "keyturn.dev/retry-change"
	// AnnotationLeaveCluster is set on a UserCluster that is being deleted, with a reason as its value, to delete it
	// even though its cluster can no longer be reached, and so not be released.
	AnnotationLeaveCluster = "keyturn.dev/leave-cluster"
	// AnnotationShowTokens is set on a UserCluster, with a new value each time, to show the valid tokens in
	// status.ksaSigningKey.tokens.
	AnnotationShowTokens = "keyturn.dev/show-tokens"
	// AnnotationIdentity is set on a UserCluster that moves, to NAMESPACE/NAME/UID with its first UID: see
	// UserCluster.Identity. It means nothing on a copy that has another name.
	AnnotationIdentity = "keyturn.dev/identity"
	// LabelMove makes `clusterctl move` take an object along.
	LabelMove = "clusterctl.cluster.x-k8s.io/move"
	// AnnotationDeleteForMove is set by `clusterctl move` on an object that it moved and is about to delete.
	AnnotationDeleteForMove = "clusterctl.cluster.x-k8s.io/delete-for-move"
	// VerbBreakGlass is the RBAC verb on userclusters that AnnotationBreakGlass requires.
	VerbBreakGlass = "breakglass"
	// ControllerUser is the user that the controller has in the admin cluster. Only this user may touch keys.
	ControllerUser = "system:serviceaccount:keyturn-system:keyturn-controller"
	// CanaryAccount is the ServiceAccount in kube-system that canary tokens are issued for. It has no permissions.
	CanaryAccount = "keyturn-canary"
	// SystemNamespace is the namespace of the controller and, by default, of UserClusters.
	SystemNamespace = "keyturn-system"
)

// KubeconfigSecretName returns the name of the Secret that holds the administrator's kubeconfig of a user cluster.
func KubeconfigSecretName(cluster string) string { return cluster + "-kubeconfig" }

// AdoptedKubeconfigSecretName returns the name of the Secret in which gkectl stores the kubeconfig with which the
// controller reaches an adopted cluster.
func AdoptedKubeconfigSecretName(cluster string) string { return cluster + "-adopted-kubeconfig" }

// CredentialsSecretName returns the name of the Secret in which gkectl stores the service account key that registers a
// cluster.
func CredentialsSecretName(cluster string) string { return cluster + "-gke-connect" }

// IsCredential reports whether a Secret is marked as a credential of a cluster, as gkectl marks those that it stores:
// it has the type Opaque and the label LabelCluster, and no other UserCluster owns it. The controller uses no other
// Secret that a UserCluster names, since the author of a UserCluster may not be allowed to read Secrets.
func IsCredential(secret *corev1.Secret, of *UserCluster) bool {
	for _, owner := range secret.OwnerReferences {
		if owner.Kind == "UserCluster" && owner.UID != of.UID {
			return false
		}
	}
	return secret.Labels[LabelCluster] == of.Name && secret.Type == corev1.SecretTypeOpaque
}
