package v1alpha1

// Condition types of a UserCluster.
const (
	// ConditionReady is True when the cluster is as its spec wants it.
	ConditionReady = "Ready"
	// ConditionKSASigningKeyRotation is False while a rotation runs and True when it is complete.
	ConditionKSASigningKeyRotation = "KSASigningKeyRotation"
	// ConditionKubeconfig is True when Secret NAME-kubeconfig holds the administrator's kubeconfig of the cluster.
	ConditionKubeconfig = "Kubeconfig"
	// ConditionKSATokensExpired is False while Retire waits for tokens of the old key to expire, and True once they have.
	// It tells of the latest rotation that waited for any.
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
	// ReasonRetiredInUse: the old key was taken away although tokens of it may have lived, since the limit had passed, or
	// since the spec no longer wanted to wait for them.
	ReasonRetiredInUse = "RetiredInUse"
)

// Names that Keyturn puts on objects.
const (
	// Finalizer keeps a UserCluster until its infrastructure and keys are gone.
	Finalizer = "keyturn.dev/cluster"
	// LabelCluster names the UserCluster that a Secret belongs to.
	LabelCluster = "keyturn.dev/cluster"
	// LabelClusterUID is the UID of the UserCluster that a Secret belongs to: another cluster may get the same name later.
	LabelClusterUID = "keyturn.dev/cluster-uid"
	// LabelKeyVersion is the key version of a key Secret, and that from whose time a node is.
	LabelKeyVersion = "keyturn.dev/ksa-signing-key-version"
	// LabelNodePool names the pool of a node.
	LabelNodePool = "keyturn.dev/node-pool"
	// AnnotationTokenRefreshed is put on a pod to make its kubelet project a re-signed legacy token at once.
	AnnotationTokenRefreshed = "keyturn.dev/legacy-token-refreshed"
	// SecretTypeSigningKey is the type of the Secrets that hold key versions.
	SecretTypeSigningKey = "keyturn.dev/ksa-signing-key"
	// SecretTypeKubeconfig is the type of the Secrets that hold the administrator's kubeconfig of a user cluster.
	SecretTypeKubeconfig = "keyturn.dev/kubeconfig"
	// KubeconfigKey is the key under which such a Secret holds the file.
	KubeconfigKey = "value"
	// CredentialsKey is the key under which the Secret that gkeConnect names holds a service account key.
	CredentialsKey = "key.json"
	// AnnotationBreakGlass is put on a UserCluster or a Secret, with a reason as its value, by an administrator who is
	// about to do what otherwise only the controller does.
	AnnotationBreakGlass = "keyturn.dev/break-glass"
	// AnnotationLeavePublished is put on a UserCluster that is being deleted, with a reason as its value, to delete it
	// although what is published about it cannot be removed.
	AnnotationLeavePublished = "keyturn.dev/leave-published"
	// AnnotationEvict is put on a pod that no controller would make again, with the value "true", to have a
	// rotation with nodeRefresh Evict evict it like all others.
	AnnotationEvict = "keyturn.dev/evict"
	// AnnotationReleaseForeignKeys is put on a UserCluster with kids, separated by commas, of keys that API servers accept
	// and Keyturn did not make: a rotation may take them away.
	AnnotationReleaseForeignKeys = "keyturn.dev/release-foreign-keys"
	// AnnotationRetryChange is put on a UserCluster, with a new value each time, to have a change of a control-plane node
	// tried again that was undone, because kube-apiserver did not become ready with it.
	AnnotationRetryChange = "keyturn.dev/retry-change"
	// AnnotationLeaveCluster is put on a UserCluster that is being deleted, with a reason as its value, to delete it
	// although its cluster cannot be released: nobody reaches that any more.
	AnnotationLeaveCluster = "keyturn.dev/leave-cluster"
	// AnnotationShowTokens is put on a UserCluster, with a new value each time, to have the tokens that live shown in
	// status.ksaSigningKey.tokens.
	AnnotationShowTokens = "keyturn.dev/show-tokens"
	// VerbBreakGlass is the RBAC verb on userclusters that such an administrator needs.
	VerbBreakGlass = "breakglass"
	// ControllerUser is the user as which the controller reaches the admin cluster; only it may touch keys.
	ControllerUser = "system:serviceaccount:keyturn-system:keyturn-controller"
	// CanaryAccount is the ServiceAccount in kube-system that canary tokens name. It has no permissions.
	CanaryAccount = "keyturn-canary"
	// SystemNamespace is the namespace of the controller and, by default, of UserClusters.
	SystemNamespace = "keyturn-system"
)

// KubeconfigSecretName names the Secret that holds the administrator's kubeconfig of a user cluster.
func KubeconfigSecretName(cluster string) string { return cluster + "-kubeconfig" }

// AdoptedKubeconfigSecretName names the Secret in which gkectl keeps the kubeconfig by which the controller reaches an
// adopted cluster.
func AdoptedKubeconfigSecretName(cluster string) string { return cluster + "-adopted-kubeconfig" }

// CredentialsSecretName names the Secret in which gkectl keeps the service account key that registers a cluster.
func CredentialsSecretName(cluster string) string { return cluster + "-gke-connect" }
