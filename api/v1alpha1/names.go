package v1alpha1

// Condition types of a UserCluster.
const (
	// ConditionReady is True when the cluster is as its spec wants it.
	ConditionReady = "Ready"
	// ConditionKSASigningKeyRotation is False while a rotation runs and True when it is complete.
	ConditionKSASigningKeyRotation = "KSASigningKeyRotation"
)

// Reasons of the condition KSASigningKeyRotation, as the documented product spells them.
const (
	ReasonRotationCompleted = "KSASigningKeyRotationCompleted"
	ReasonRotationProcessed = "KSASigningKeyRotationProcessedReason"
)

// Reasons of the condition Ready.
const (
	ReasonReady           = "ClusterReady"
	ReasonCreateOrUpdate  = "ClusterCreateOrUpdate"
	ReasonRotating        = "KSASigningKeyRotation"
	ReasonRotationBlocked = "KSASigningKeyRotationBlocked"
)

// Names that Keyturn puts on objects.
const (
	// Finalizer keeps a UserCluster until its infrastructure and keys are gone.
	Finalizer = "keyturn.dev/cluster"
	// LabelCluster names the UserCluster that a key Secret belongs to.
	LabelCluster = "keyturn.dev/cluster"
	// LabelKeyVersion is the key version of a key Secret, and that from whose time a node is.
	LabelKeyVersion = "keyturn.dev/ksa-signing-key-version"
	// LabelNodePool names the pool of a node.
	LabelNodePool = "keyturn.dev/node-pool"
	// AnnotationTokenRefreshed is put on a pod to make its kubelet project a re-signed legacy token at once.
	AnnotationTokenRefreshed = "keyturn.dev/legacy-token-refreshed"
	// SecretTypeSigningKey is the type of the Secrets that hold key versions.
	SecretTypeSigningKey = "keyturn.dev/ksa-signing-key"
	// CredentialsKey is the key under which the Secret that gkeConnect names holds a service account key.
	CredentialsKey = "key.json"
	// ControllerUser is the user as which the controller reaches the admin cluster; only it may touch keys.
	ControllerUser = "system:serviceaccount:keyturn-system:keyturn-controller"
	// SystemNamespace is the namespace of the controller and, by default, of UserClusters.
	SystemNamespace = "keyturn-system"
)

// CredentialsSecretName names the Secret in which gkectl keeps the service account key that registers a cluster.
func CredentialsSecretName(cluster string) string { return cluster + "-gke-connect" }
