package v1alpha1

import (
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// UserCluster is one cluster whose service account signing keys Keyturn manages.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=uc
// +kubebuilder:metadata:labels="clusterctl.cluster.x-k8s.io="
// +kubebuilder:printcolumn:name="Infrastructure",type=string,JSONPath=`.status.infrastructure.type`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Key",type=integer,JSONPath=`.spec.ksaSigningKey.version`
// +kubebuilder:printcolumn:name="Rotated",type=string,JSONPath=`.status.conditions[?(@.type=="KSASigningKeyRotation")].status`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.status.ksaSigningKey.step`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.spec.infrastructure.local.kubernetesVersion`,priority=1
// +kubebuilder:printcolumn:name="Waiting for",type=string,JSONPath=`.status.ksaSigningKey.waitingFor`,priority=1
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$')",message="name must be a DNS label of at most 40 characters that begins with a letter"
type UserCluster struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   UserClusterSpec   `json:"spec"`
	Status UserClusterStatus `json:"status,omitempty"`
}

// UserClusterList is a list of UserClusters.
//
// +kubebuilder:object:root=true
type UserClusterList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []UserCluster `json:"items"`
}

// UserClusterSpec is the desired state of a user cluster.
//
// +kubebuilder:validation:XValidation:rule="has(self.infrastructure.local) || !has(self.ksaSigningKey.nodeRefresh) || self.ksaSigningKey.nodeRefresh in ['Evict', 'Wait'] || has(self.infrastructure.clusterAPI) && self.ksaSigningKey.nodeRefresh == 'Replace'",message="ksaSigningKey.nodeRefresh must be Evict or Wait, or Replace where Cluster API makes the nodes: Keyturn does not make the nodes of this cluster"
// +kubebuilder:validation:XValidation:rule="has(self.infrastructure.local) || has(self.ksaSigningKey.source) || !has(self.ksaSigningKey.retire) || self.ksaSigningKey.retire != 'WhenUnused'",message="ksaSigningKey.retire WhenUnused needs source external: without a signer nobody knows which tokens live"
// +kubebuilder:validation:XValidation:rule="!has(self.infrastructure.clusterAPI) || !has(self.infrastructure.clusterAPI.method) || self.infrastructure.clusterAPI.method != 'Rollout' || !has(self.ksaSigningKey.source) || self.ksaSigningKey.source == 'files'",message="ksaSigningKey.source must be files with infrastructure.clusterAPI.method Rollout: a signer would run on the machines"
type UserClusterSpec struct {
	// Infrastructure is what runs the cluster. Exactly one of its members must be set, and the choice cannot be changed.
	Infrastructure Infrastructure `json:"infrastructure"`

	// EnableAdvancedCluster marks an advanced cluster, whose keys cannot be rotated.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="enableAdvancedCluster cannot be changed"
	// +kubebuilder:default=false
	EnableAdvancedCluster bool `json:"enableAdvancedCluster"`

	// KSASigningKey describes the desired key version.
	// +kubebuilder:default={version: 1, algorithm: "RS256"}
	// +optional
	KSASigningKey KSASigningKey `json:"ksaSigningKey"`

	// GKEConnect names the fleet that the cluster is registered with. If unset, the cluster is not registered.
	// +optional
	GKEConnect *GKEConnect `json:"gkeConnect,omitempty"`
}

// Identity identifies the cluster in everything that Keyturn marks as its own. It is the UID of the UserCluster, and
// stays the same when clusterctl moves that to another admin cluster, where it gets another UID.
func (uc *UserCluster) Identity() string {
	if first, ok := strings.CutPrefix(uc.Annotations[AnnotationIdentity], uc.identityPrefix()); ok && first != "" {
		return first
	}
	return string(uc.UID)
}

func (uc *UserCluster) identityPrefix() string { return uc.Namespace + "/" + uc.Name + "/" }

// ReleasedForeignKeys returns the kids in AnnotationReleaseForeignKeys.
func (uc *UserCluster) ReleasedForeignKeys() []string {
	between := func(r rune) bool { return r == ',' || r == ' ' }
	return strings.FieldsFunc(uc.Annotations[AnnotationReleaseForeignKeys], between)
}

// MarkForMove sets what `clusterctl move` needs on a UserCluster that Moves, and reports whether that changed
// something.
func (uc *UserCluster) MarkForMove() (changed bool) {
	identity := uc.identityPrefix() + uc.Identity()
	_, marked := uc.Labels[LabelMove]
	if !uc.Moves() || marked && uc.Annotations[AnnotationIdentity] == identity {
		return false
	}
	metav1.SetMetaDataLabel(&uc.ObjectMeta, LabelMove, "")
	metav1.SetMetaDataAnnotation(&uc.ObjectMeta, AnnotationIdentity, identity)
	return true
}

// Moves reports whether `clusterctl move` takes the UserCluster and its keys along with its Cluster.
func (uc *UserCluster) Moves() bool { return uc.Spec.Infrastructure.ClusterAPI != nil }

// IsMoved reports whether `clusterctl move` is about to delete the UserCluster, which exists in another admin cluster.
func (uc *UserCluster) IsMoved() bool {
	_, moved := uc.Annotations[AnnotationDeleteForMove]
	return moved && uc.Moves()
}

// NodeRefresh returns how a rotation replaces the tokens of running pods: as set in ksaSigningKey, or else the default
// of the infrastructure.
func (s UserClusterSpec) NodeRefresh() NodeRefresh {
	if s.KSASigningKey.NodeRefresh != "" {
		return s.KSASigningKey.NodeRefresh
	}
	return s.Infrastructure.defaultNodeRefresh()
}

// KeySource returns how API servers get their keys: as set in ksaSigningKey, or else the default of the infrastructure.
func (s UserClusterSpec) KeySource() KeySource {
	if s.KSASigningKey.Source != "" {
		return s.KSASigningKey.Source
	}
	return s.Infrastructure.defaultSource()
}

// KeySource names how an API server gets its keys.
// +kubebuilder:validation:Enum=external;files
type KeySource string

const (
	// KeySourceExternal gives keys to a signer next to each API server (ExternalJWTSigner, KEP-740). Keys change
	// without a restart.
	KeySourceExternal KeySource = "external"
	// KeySourceFiles gives keys as files, which an API server reads when it starts.
	KeySourceFiles KeySource = "files"
)

// NodeRefresh names how the tokens of running pods are replaced in a rotation.
// +kubebuilder:validation:Enum=Replace;InPlace;Wait;Evict
type NodeRefresh string

const (
	// NodeRefreshReplace replaces the nodes. Every pod starts again, with tokens of the new key.
	NodeRefreshReplace NodeRefresh = "Replace"
	// NodeRefreshInPlace makes every kubelet fetch tokens of the new key for its running pods.
	NodeRefreshInPlace NodeRefresh = "InPlace"
	// NodeRefreshWait waits until the kubelets have renewed every token of the old key on their own schedule.
	NodeRefreshWait NodeRefresh = "Wait"
	// NodeRefreshEvict evicts every pod that holds a token of the old key, using only the API.
	NodeRefreshEvict NodeRefresh = "Evict"
)

// KeepsPods reports whether a rotation keeps the nodes and the pods on them.
func (r NodeRefresh) KeepsPods() bool { return r == NodeRefreshInPlace || r == NodeRefreshWait }

// KeepsNodes reports whether a rotation keeps the nodes.
func (r NodeRefresh) KeepsNodes() bool { return r.KeepsPods() || r == NodeRefreshEvict }

// RetirePolicy names when a rotation retires the old key.
// +kubebuilder:validation:Enum=AfterRefresh;WhenUnused
type RetirePolicy string

const (
	// RetireAfterRefresh retires the old key once every token that a rotation replaces is replaced.
	RetireAfterRefresh RetirePolicy = "AfterRefresh"
	// RetireWhenUnused also waits until all other tokens have expired: third-party tokens, and those that somebody
	// requested.
	RetireWhenUnused RetirePolicy = "WhenUnused"
)

// Algorithm is a JWS algorithm that tokens are signed with (RFC 7518, section 3.1).
type Algorithm string

// The algorithms of signing keys: RSA, for which Keyturn makes 2048-bit keys, and ECDSA on P-256 and on P-384. Keyturn
// makes no P-384 keys, but a cluster that it adopts may have one.
const (
	RS256 Algorithm = "RS256"
	ES256 Algorithm = "ES256"
	ES384 Algorithm = "ES384"
)

// KSASigningKey describes the desired key version.
//
// +kubebuilder:validation:XValidation:rule="!has(self.publish) || self.publish.size() == 0 || self.issuer != 'https://kubernetes.default.svc.cluster.local'",message="ksaSigningKey.publish needs an issuer: nobody outside the cluster can fetch documents from the default one"
// +kubebuilder:validation:XValidation:rule="!has(self.retire) || self.retire != 'WhenUnused' || !has(self.source) || self.source == 'external'",message="ksaSigningKey.retire WhenUnused needs source external: without a signer nobody knows which tokens live"
type KSASigningKey struct {
	// Version is the desired key version. Raising it by one starts a rotation; no other change is allowed.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:default=1
	// Policy keyturn-valid-specs requires version 1 for a new cluster.
	Version int32 `json:"version"`
	// Source is how API servers get their keys. Changing it restarts each API server once. It can be changed back at any
	// time, except while a key is rotated. It defaults to external if Keyturn makes the cluster, and to files otherwise.
	// +optional
	Source KeySource `json:"source,omitempty"`
	// NodeRefresh is how a rotation replaces the tokens of running pods. It defaults to Replace if Keyturn makes the
	// nodes or clusterAPI.method is Rollout, and to Evict otherwise. Until the step Retire of a rotation, it can be
	// changed, but not to InPlace.
	// +optional
	NodeRefresh NodeRefresh `json:"nodeRefresh,omitempty"`
	// TokenReloadSeconds is how long an application may keep using a token after its file holds a new one. With
	// nodeRefresh InPlace and Wait, the old key is accepted for that long after every file has a token of the new key.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +kubebuilder:default=300
	// +optional
	TokenReloadSeconds int32 `json:"tokenReloadSeconds,omitempty"`
	// Retire is when a rotation retires the old key. WhenUnused requires source external, whose signers keep ledgers of
	// the tokens that they sign. It can be changed while a rotation runs.
	// +kubebuilder:default=AfterRefresh
	// +optional
	Retire RetirePolicy `json:"retire,omitempty"`
	// RetireTimeoutSeconds is the longest time that Retire waits for tokens to expire with WhenUnused. After that, it
	// retires the old key even if tokens of it are still valid, and condition KSATokensExpired names them.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31536000
	// +kubebuilder:default=86400
	// +optional
	RetireTimeoutSeconds int32 `json:"retireTimeoutSeconds,omitempty"`
	// Algorithm is the algorithm of the next key version that is generated.
	// +kubebuilder:validation:Enum=RS256;ES256
	// +kubebuilder:default=RS256
	Algorithm Algorithm `json:"algorithm"`
	// Issuer is the issuer of all tokens, an https URL. Rotations do not change it, since verifiers identify tokens by
	// it.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/([-A-Za-z0-9._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)*$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="ksaSigningKey.issuer cannot be changed"
	// +kubebuilder:default="https://kubernetes.default.svc.cluster.local"
	// +optional
	Issuer string `json:"issuer,omitempty"`
	// Publish are the URLs of buckets or directories (file://, s3://, gs://, azblob://) in which Keyturn publishes the
	// discovery document and the JWKS of the issuer. A URL can be removed at any time; keys are then no longer
	// published there. Policy keyturn-valid-specs validates the URLs.
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=set
	// +optional
	Publish []string `json:"publish,omitempty"`
	// PublishMaxAgeSeconds is how long verifiers may cache a published document. No API server signs with a key until
	// it has been published for that long.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=604800
	// +kubebuilder:default=60
	// +optional
	PublishMaxAgeSeconds int32 `json:"publishMaxAgeSeconds,omitempty"`
}

// DefaultIssuer is the issuer of clusters that name no other. kubeadm and others use it too.
const DefaultIssuer = "https://kubernetes.default.svc.cluster.local"

// GKEConnect names a fleet, by project and location, and how to reach it. The membership has the cluster's name. Once
// registered, a cluster stays registered until it is deleted: the fleet and its endpoints cannot be changed.
type GKEConnect struct {
	// ProjectID is the ID of the fleet's project.
	// +kubebuilder:validation:Pattern=`^[a-z][-a-z0-9.:]{4,61}[a-z0-9]$`
	ProjectID string `json:"projectID"`
	// Location is the location of the membership, such as us-central1 or global.
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`
	Location string `json:"location"`
	// CredentialsSecret names a Secret in the namespace of the cluster. Its key "key.json" is a service account key
	// that may register the cluster. If empty, the controller uses its application default credentials.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$`
	// +optional
	CredentialsSecret string `json:"credentialsSecret,omitempty"`
	// Endpoint is the URL of the memberships API. If empty, the URL of GKE Hub is used.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^(https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/([-A-Za-z0-9._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)*)?$`
	// +kubebuilder:default=""
	Endpoint string `json:"endpoint"`
	// STSEndpoint is the URL of the security token service. If empty, the URL of Google Cloud is used.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^(https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/([-A-Za-z0-9._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)*)?$`
	// +kubebuilder:default=""
	STSEndpoint string `json:"stsEndpoint"`
	// CABundle holds the PEM certificates that the certificates of both endpoints are verified with. If empty, the
	// controller's system roots are used.
	// +kubebuilder:validation:MaxLength=524288
	// +optional
	CABundle string `json:"caBundle,omitempty"`
	// PropagationSeconds is how long some verifier may not yet know a key after it was published. No API server signs
	// with the key before that time has passed, even if other proofs succeed.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=604800
	// +optional
	PropagationSeconds int32 `json:"propagationSeconds,omitempty"`
}

// UserClusterStatus is the observed state of a user cluster.
type UserClusterStatus struct {
	// ObservedGeneration is the generation of the spec that this status describes.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions are Ready, KSASigningKeyRotation, Kubeconfig and, after a rotation has waited for tokens to expire,
	// KSATokensExpired.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// KSASigningKey is the observed state of the keys.
	// +optional
	KSASigningKey KSASigningKeyStatus `json:"ksaSigningKey,omitempty"`

	// Endpoint is the URL that clients reach the API servers at.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`

	// Infrastructure is the observed state of the infrastructure that spec.infrastructure names.
	// +optional
	Infrastructure InfrastructureStatus `json:"infrastructure,omitempty"`

	// APIServers are the API servers, each observed directly.
	// +listType=map
	// +listMapKey=name
	// +optional
	APIServers []APIServerStatus `json:"apiServers,omitempty"`

	// Publications are the destinations outside the cluster that the public keys are published to.
	// +listType=map
	// +listMapKey=name
	// +optional
	Publications []PublicationStatus `json:"publications,omitempty"`

	// NodePools counts the nodes of each pool.
	// +listType=map
	// +listMapKey=name
	// +optional
	NodePools []NodePoolStatus `json:"nodePools,omitempty"`
}

// KSASigningKeyStatus is the observed state of the keys. `gkectl update credentials ksa-signing-key status` prints its
// first three fields.
type KSASigningKeyStatus struct {
	// TokenVersion is the oldest key version that a valid token may be signed with.
	// +optional
	TokenVersion int32 `json:"tokenVersion,omitempty"`
	// PrivateKeyVersion is the oldest key version that some API server still signs with.
	// +optional
	PrivateKeyVersion int32 `json:"privateKeyVersion,omitempty"`
	// PublicKeyVersions are the key versions that API servers accept.
	// +listType=atomic
	// +optional
	PublicKeyVersions []int32 `json:"publicKeyVersions,omitempty"`

	// Step is the current step of the rotation: Generate, Publish, Switch, Refresh or Retire; empty when none runs.
	// +optional
	Step string `json:"step,omitempty"`
	// StepSince is when the step began.
	// +optional
	StepSince *metav1.Time `json:"stepSince,omitempty"`
	// WaitingFor describes what the step waits for, and names the object.
	// +optional
	WaitingFor string `json:"waitingFor,omitempty"`
	// StartedAt is when the controller first saw the latest rotation running.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// CompletedAt is when the controller first saw the latest rotation complete.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`
	// Rotations are the timelines of the latest rotations, the newest last.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=5
	// +optional
	Rotations []RotationStatus `json:"rotations,omitempty"`

	// LegacyTokens counts the legacy tokens, as of the last check.
	// +optional
	LegacyTokens LegacyTokenStatus `json:"legacyTokens,omitempty"`
	// Tokens describes the valid tokens. It is set while a rotation runs, and for some minutes after a request.
	// +optional
	Tokens *TokensStatus `json:"tokens,omitempty"`
	// OldTokens are the running pods that keep a token of an older key version until they, or some of their containers,
	// start again. Keyturn checks for them at the end of the step Refresh, and from then on as long as there are any.
	// +optional
	OldTokens *OldTokenStatus `json:"oldTokens,omitempty"`
	// Keys are the stored key versions.
	// +listType=map
	// +listMapKey=version
	// +optional
	Keys []KeyVersionStatus `json:"keys,omitempty"`
}

// LegacyTokenStatus counts legacy tokens.
type LegacyTokenStatus struct {
	// Total is the number of Secrets that hold a legacy token.
	// +optional
	Total int64 `json:"total,omitempty"`
	// Stale is how many of them hold a token that was not signed with the desired key version.
	// +optional
	Stale int64 `json:"stale,omitempty"`
}

// TokenKind is a kind of token: Bound, ThirdParty, Legacy, Requested or Unknown.
type TokenKind string

// TokensStatus describes the valid tokens, as seen in signers, pods and Secrets.
type TokensStatus struct {
	// ObservedAt is when they were observed.
	// +optional
	ObservedAt *metav1.Time `json:"observedAt,omitempty"`
	// Request is the value of the annotation keyturn.dev/show-tokens that was answered last.
	// +optional
	Request string `json:"request,omitempty"`
	// Unknown describes what is not known; empty if everything is.
	// +listType=atomic
	// +optional
	Unknown []string `json:"unknown,omitempty"`
	// CertainAt is when, at the latest, all tokens of the old key version have expired, while a rotation runs; unset if
	// unknown.
	// +optional
	CertainAt *metav1.Time `json:"certainAt,omitempty"`
	// Old counts the valid tokens of the old key version, while a rotation runs.
	// +listType=map
	// +listMapKey=kind
	// +optional
	Old []TokenCount `json:"old,omitempty"`
	// Workloads are the holders of the tokens, if they were requested. If there are too many, the least urgent ones are
	// added up.
	// +listType=atomic
	// +optional
	Workloads []WorkloadTokens `json:"workloads,omitempty"`
}

// TokenCount counts tokens of one kind.
type TokenCount struct {
	Kind TokenKind `json:"kind"`
	// Count is the number of tokens. A ledger counts all tokens of one account, set of audiences and object as one.
	Count int64 `json:"count"`
	// ExpiresAt is when the last of them expires; unset if unknown or never.
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
}

// WorkloadTokens are the tokens of one kind that a workload holds.
type WorkloadTokens struct {
	// Namespace and ServiceAccount are the account of the tokens; empty if there are several.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// +optional
	ServiceAccount string `json:"serviceAccount,omitempty"`
	// Workload is, for example, Deployment/web, or the Secret of a legacy token that no pod holds. It is empty if no
	// running pod holds the tokens.
	// +optional
	Workload   string `json:"workload,omitempty"`
	TokenCount `json:",inline"`
	// Audience is the audience of the tokens; empty for the API server.
	// +optional
	Audience string `json:"audience,omitempty"`
	// KeyVersion is the version of the key that signed them; 0 if unknown.
	// +optional
	KeyVersion int32 `json:"keyVersion,omitempty"`
	// Refresh is what gives the holder a token of the next key: Kubelet, Container, Pod, Secret, Replaced (it already
	// has one) or Never (it keeps the token until that expires).
	// +optional
	Refresh string `json:"refresh,omitempty"`
	// LastUsed is the day, in UTC, on which a legacy token that no pod holds was last used.
	// +optional
	LastUsed string `json:"lastUsed,omitempty"`
}

// OldTokenStatus names pods that keep a token of an older key version.
type OldTokenStatus struct {
	// Total is the number of these pods.
	Total int64 `json:"total"`
	// Pods are some of them.
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=20
	// +optional
	Pods []OldTokenHolder `json:"pods,omitempty"`
}

// OldTokenHolder is a pod that keeps a token of an older key version.
type OldTokenHolder struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	// Holds describes the tokens and how the pod holds them.
	Holds string `json:"holds"`
}

// KeyVersionStatus is one stored key version.
type KeyVersionStatus struct {
	Version int32 `json:"version"`
	// KeyID is the kid of tokens signed with it.
	KeyID     string      `json:"keyID"`
	Algorithm Algorithm   `json:"algorithm"`
	CreatedAt metav1.Time `json:"createdAt"`
}

// APIServerStatus is the observed state of one API server.
type APIServerStatus struct {
	Name string `json:"name"`
	// Endpoint is its own URL, not that of a load balancer.
	Endpoint string `json:"endpoint"`
	Ready    bool   `json:"ready"`
	// SigningVersion is the key version that signed a fresh token of it; 0 if unknown.
	// +optional
	SigningVersion int32 `json:"signingVersion,omitempty"`
	// AcceptedVersions are the key versions whose canary tokens it accepts.
	// +listType=atomic
	// +optional
	AcceptedVersions []int32 `json:"acceptedVersions,omitempty"`
	// ForeignKeyIDs are the kids of keys that it accepts but that are no key version of the cluster. The step Retire, and
	// a cluster after its first rotation, wait until the annotation keyturn.dev/release-foreign-keys names them.
	// +listType=atomic
	// +optional
	ForeignKeyIDs []string `json:"foreignKeyIDs,omitempty"`
}

// PublicationStatus is the observed state of one destination that the public keys are published to.
type PublicationStatus struct {
	// Name is, for example, "fleet membership projects/p/locations/l/memberships/m", or the URL of a bucket.
	Name string `json:"name"`
	// AcceptedVersions are the key versions that were proven to be accepted there.
	// +listType=atomic
	// +optional
	AcceptedVersions []int32 `json:"acceptedVersions,omitempty"`
	// PublishedAt is when the published keys last changed.
	// +optional
	PublishedAt *metav1.Time `json:"publishedAt,omitempty"`
	// WaitingFor describes why it is not yet as desired; empty if it is.
	// +optional
	WaitingFor string `json:"waitingFor,omitempty"`
}

// NodePoolStatus counts the nodes of a pool.
type NodePoolStatus struct {
	Name string `json:"name"`
	// Replicas is the number of machines, Ready those of them that are ready, and Updated those made
	// since the signing key was switched.
	Replicas int32 `json:"replicas"`
	Ready    int32 `json:"ready"`
	Updated  int32 `json:"updated"`
}
