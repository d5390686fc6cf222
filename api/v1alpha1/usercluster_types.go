package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// UserCluster is one cluster whose service account signing keys Keyturn manages.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=uc
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.spec.infrastructure.local.kubernetesVersion`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Key",type=integer,JSONPath=`.spec.ksaSigningKey.version`
// +kubebuilder:printcolumn:name="Rotated",type=string,JSONPath=`.status.conditions[?(@.type=="KSASigningKeyRotation")].status`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.status.ksaSigningKey.step`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
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

// UserClusterSpec is what is wanted of a user cluster.
//
// +kubebuilder:validation:XValidation:rule="has(self.infrastructure.local) || !has(self.ksaSigningKey.nodeRefresh) || self.ksaSigningKey.nodeRefresh in ['Evict', 'Wait'] || has(self.infrastructure.clusterAPI) && self.ksaSigningKey.nodeRefresh == 'Replace'",message="ksaSigningKey.nodeRefresh must be Evict or Wait, or Replace where Cluster API makes the nodes: Keyturn does not make the nodes of this cluster"
// +kubebuilder:validation:XValidation:rule="has(self.infrastructure.local) || has(self.ksaSigningKey.source) || !has(self.ksaSigningKey.retire) || self.ksaSigningKey.retire != 'WhenUnused'",message="ksaSigningKey.retire WhenUnused needs source external: without a signer nobody knows which tokens live"
type UserClusterSpec struct {
	// Infrastructure is what runs the cluster. Exactly one of its members must be set, and the choice cannot be changed.
	Infrastructure Infrastructure `json:"infrastructure"`

	// EnableAdvancedCluster marks an advanced cluster, whose keys cannot be rotated.
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="enableAdvancedCluster cannot be changed"
	// +kubebuilder:default=false
	EnableAdvancedCluster bool `json:"enableAdvancedCluster"`

	// KSASigningKey says which key version is wanted.
	// +kubebuilder:default={version: 1, algorithm: "RS256"}
	// +optional
	KSASigningKey KSASigningKey `json:"ksaSigningKey"`

	// GKEConnect names the fleet that the cluster is registered with. Without it there is none.
	// +optional
	GKEConnect *GKEConnect `json:"gkeConnect,omitempty"`
}

// NodeRefresh returns how a rotation replaces the tokens of running pods: as the key wants it, or else as the
// infrastructure allows.
func (s UserClusterSpec) NodeRefresh() NodeRefresh {
	if s.KSASigningKey.NodeRefresh != "" {
		return s.KSASigningKey.NodeRefresh
	}
	return s.Infrastructure.defaultNodeRefresh()
}

// KeySource returns how API servers get their keys: as the key wants it, or else as the infrastructure does it.
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
	// KeySourceExternal hands keys over to a signer beside each API server (ExternalJWTSigner, KEP-740), which
	// changes them while it runs.
	KeySourceExternal KeySource = "external"
	// KeySourceFiles hands keys over as files that an API server reads when it starts.
	KeySourceFiles KeySource = "files"
)

// NodeRefresh names how the tokens of running pods are replaced in a rotation.
// +kubebuilder:validation:Enum=Replace;InPlace;Wait;Evict
type NodeRefresh string

const (
	// NodeRefreshReplace replaces the nodes: every pod starts anew, with tokens of the new key.
	NodeRefreshReplace NodeRefresh = "Replace"
	// NodeRefreshInPlace makes every kubelet fetch tokens of the new key for the pods that run.
	NodeRefreshInPlace NodeRefresh = "InPlace"
	// NodeRefreshWait waits until the kubelets have replaced every token of the old key by themselves.
	NodeRefreshWait NodeRefresh = "Wait"
	// NodeRefreshEvict evicts every pod that holds a token of the old key, by the API alone.
	NodeRefreshEvict NodeRefresh = "Evict"
)

// KeepsPods reports whether a rotation keeps the nodes and the pods on them.
func (r NodeRefresh) KeepsPods() bool { return r == NodeRefreshInPlace || r == NodeRefreshWait }

// KeepsNodes reports whether a rotation keeps the nodes.
func (r NodeRefresh) KeepsNodes() bool { return r.KeepsPods() || r == NodeRefreshEvict }

// RetirePolicy names when a rotation takes the old key away.
// +kubebuilder:validation:Enum=AfterRefresh;WhenUnused
type RetirePolicy string

const (
	// RetireAfterRefresh takes the old key away once every token that a rotation replaces is replaced.
	RetireAfterRefresh RetirePolicy = "AfterRefresh"
	// RetireWhenUnused waits besides until the others have expired: third-party tokens, and those that somebody asked for.
	RetireWhenUnused RetirePolicy = "WhenUnused"
)

// Algorithm is a JWS algorithm by which tokens are signed (RFC 7518, section 3.1).
type Algorithm string

// The algorithms of signing keys: RSA, which Keyturn makes with 2048 bits, and ECDSA on P-256 and on P-384. Keyturn
// makes no keys of the last; a cluster that it adopts may have one.
const (
	RS256 Algorithm = "RS256"
	ES256 Algorithm = "ES256"
	ES384 Algorithm = "ES384"
)

// KSASigningKey says which key version is wanted.
//
// +kubebuilder:validation:XValidation:rule="!has(self.publish) || self.publish.size() == 0 || self.issuer != 'https://kubernetes.default.svc.cluster.local'",message="ksaSigningKey.publish needs an issuer: nobody outside the cluster can fetch documents from the default one"
// +kubebuilder:validation:XValidation:rule="!has(self.retire) || self.retire != 'WhenUnused' || !has(self.source) || self.source == 'external'",message="ksaSigningKey.retire WhenUnused needs source external: without a signer nobody knows which tokens live"
type KSASigningKey struct {
	// Version is the wanted key version. Raising it by one starts a rotation; it cannot be changed otherwise.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:default=1
	// +kubebuilder:validation:XValidation:rule="oldSelf.hasValue() || self == 1",optionalOldSelf=true,message="ksaSigningKey.version of a new cluster must be 1"
	Version int32 `json:"version"`
	// Source is how API servers get their keys. A change restarts each API server once. Empty is external where Keyturn
	// makes the cluster, and files elsewhere.
	// +optional
	Source KeySource `json:"source,omitempty"`
	// NodeRefresh is how a rotation replaces the tokens of running pods. Empty is Replace where Keyturn makes the
	// nodes, and Evict elsewhere.
	// +optional
	NodeRefresh NodeRefresh `json:"nodeRefresh,omitempty"`
	// TokenReloadSeconds is how long an application may use a token after the file that it read it from holds a new
	// one. With nodeRefresh InPlace and Wait, the old key is accepted for that long after every file has a token of
	// the new one.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +kubebuilder:default=300
	// +optional
	TokenReloadSeconds int32 `json:"tokenReloadSeconds,omitempty"`
	// Retire is when a rotation takes the old key away. WhenUnused needs source external, whose signers keep ledgers of
	// the tokens that they sign. It can be changed while a rotation runs.
	// +kubebuilder:default=AfterRefresh
	// +optional
	Retire RetirePolicy `json:"retire,omitempty"`
	// RetireTimeoutSeconds is how long Retire waits at most for tokens to expire, with WhenUnused. After that it takes the
	// old key away from those that still live, and condition KSATokensExpired names them.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31536000
	// +kubebuilder:default=86400
	// +optional
	RetireTimeoutSeconds int32 `json:"retireTimeoutSeconds,omitempty"`
	// Algorithm is that of the next key version that is generated.
	// +kubebuilder:validation:Enum=RS256;ES256
	// +kubebuilder:default=RS256
	Algorithm Algorithm `json:"algorithm"`
	// Issuer is the issuer of all tokens, an https URL. Rotations do not change it, since verifiers know tokens by it.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/([-A-Za-z0-9._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)*$`
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="ksaSigningKey.issuer cannot be changed"
	// +kubebuilder:default="https://kubernetes.default.svc.cluster.local"
	// +optional
	Issuer string `json:"issuer,omitempty"`
	// Publish are the URLs of buckets or directories (file://, s3://, gs://, azblob://) that get the discovery document
	// and the JWKS of the issuer. One can be removed at any time, and no key is published there any more. Policy
	// keyturn-valid-specs checks them.
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=512
	// +listType=set
	// +optional
	Publish []string `json:"publish,omitempty"`
	// PublishMaxAgeSeconds is how long verifiers may keep a published document. No API server signs with a key before
	// it has been published for that long.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=604800
	// +kubebuilder:default=60
	// +optional
	PublishMaxAgeSeconds int32 `json:"publishMaxAgeSeconds,omitempty"`
}

// DefaultIssuer is the issuer of clusters that name no other; kubeadm and others use it too.
const DefaultIssuer = "https://kubernetes.default.svc.cluster.local"

// GKEConnect names a fleet, as a location of a project, and how to reach it. The membership has the cluster's name.
// Once the cluster is registered, it stays so until it is deleted: the fleet and its endpoints cannot be changed.
type GKEConnect struct {
	// ProjectID is that of the fleet's project.
	// +kubebuilder:validation:Pattern=`^[a-z][-a-z0-9.:]{4,61}[a-z0-9]$`
	ProjectID string `json:"projectID"`
	// Location is that of the membership, like us-central1 or global.
	// +kubebuilder:validation:Pattern=`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`
	Location string `json:"location"`
	// CredentialsSecret names the Secret, in the namespace of the cluster, whose key "key.json" is the service account
	// key that may register the cluster. Empty: the application default credentials of the controller.
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$`
	// +optional
	CredentialsSecret string `json:"credentialsSecret,omitempty"`
	// Endpoint is the URL of the memberships API; empty: that of GKE Hub.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^(https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/([-A-Za-z0-9._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)*)?$`
	// +kubebuilder:default=""
	Endpoint string `json:"endpoint"`
	// STSEndpoint is the URL of the security token service; empty: that of Google Cloud.
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^(https://([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/([-A-Za-z0-9._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2})+)*)?$`
	// +kubebuilder:default=""
	STSEndpoint string `json:"stsEndpoint"`
	// CABundle holds the PEM certificates by which both endpoints are known; empty: those that the controller's
	// machine trusts.
	// +kubebuilder:validation:MaxLength=524288
	// +optional
	CABundle string `json:"caBundle,omitempty"`
	// PropagationSeconds is how long after a key was published some verifier may not know it yet. No API server
	// signs with the key before that, whatever was proven.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=604800
	// +optional
	PropagationSeconds int32 `json:"propagationSeconds,omitempty"`
}

// UserClusterStatus is what was observed of a user cluster.
type UserClusterStatus struct {
	// ObservedGeneration is the generation of the spec that the rest of the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`

	// Conditions are Ready, KSASigningKeyRotation, Kubeconfig and, once a rotation has waited for tokens to expire,
	// KSATokensExpired.
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// KSASigningKey is what was observed of the keys.
	// +optional
	KSASigningKey KSASigningKeyStatus `json:"ksaSigningKey,omitempty"`

	// Endpoint is the URL at which clients reach the API servers.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`

	// Infrastructure is what was observed of the infrastructure that spec.infrastructure names.
	// +optional
	Infrastructure InfrastructureStatus `json:"infrastructure,omitempty"`

	// APIServers are the API servers, each observed by itself.
	// +listType=map
	// +listMapKey=name
	// +optional
	APIServers []APIServerStatus `json:"apiServers,omitempty"`

	// Publications are the places where the public keys are published for verifiers outside the cluster.
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

// KSASigningKeyStatus is what was observed of the keys. The first three fields are the message that
// `gkectl update credentials ksa-signing-key status` prints.
type KSASigningKeyStatus struct {
	// TokenVersion is the oldest key version that some token may still be signed with.
	// +optional
	TokenVersion int32 `json:"tokenVersion,omitempty"`
	// PrivateKeyVersion is the oldest key version that some API server still signs with.
	// +optional
	PrivateKeyVersion int32 `json:"privateKeyVersion,omitempty"`
	// PublicKeyVersions are the key versions that are accepted.
	// +listType=atomic
	// +optional
	PublicKeyVersions []int32 `json:"publicKeyVersions,omitempty"`

	// Step is the step of the rotation: Generate, Publish, Switch, Refresh or Retire; empty when none runs.
	// +optional
	Step string `json:"step,omitempty"`
	// StepSince is when the step began.
	// +optional
	StepSince *metav1.Time `json:"stepSince,omitempty"`
	// WaitingFor says in words what the step waits for, naming the object.
	// +optional
	WaitingFor string `json:"waitingFor,omitempty"`
	// StartedAt is when the latest rotation was seen to start.
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// CompletedAt is when the latest rotation was seen to be complete.
	// +optional
	CompletedAt *metav1.Time `json:"completedAt,omitempty"`

	// LegacyTokens counts the legacy tokens at the last look.
	// +optional
	LegacyTokens LegacyTokenStatus `json:"legacyTokens,omitempty"`
	// Tokens is what is known of the tokens that live, while a rotation runs and for some minutes after somebody asked.
	// +optional
	Tokens *TokensStatus `json:"tokens,omitempty"`
	// OldTokens are the running pods that keep a token of an older key version and get no other until they, or some
	// of their containers, start again. They are looked for at the end of the step Refresh, and from then on for as
	// long as there are any.
	// +optional
	OldTokens *OldTokenStatus `json:"oldTokens,omitempty"`
	// Keys are the key versions that are stored.
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
	// Stale is how many of them hold a token that is not of the wanted key version.
	// +optional
	Stale int64 `json:"stale,omitempty"`
}

// TokenKind is a kind of token: Bound, ThirdParty, Legacy, Requested or Unknown.
type TokenKind string

// TokensStatus is what signers, pods and Secrets show of the tokens that live.
type TokensStatus struct {
	// ObservedAt is when they were asked.
	// +optional
	ObservedAt *metav1.Time `json:"observedAt,omitempty"`
	// Request is the value of the annotation keyturn.dev/show-tokens that was answered last.
	// +optional
	Request string `json:"request,omitempty"`
	// Unknown is in words what is not known; empty when everything is.
	// +listType=atomic
	// +optional
	Unknown []string `json:"unknown,omitempty"`
	// CertainAt is from when on no token of the old key version can live, while a rotation runs; none when not known.
	// +optional
	CertainAt *metav1.Time `json:"certainAt,omitempty"`
	// Old counts the tokens of the old key version that live, while a rotation runs.
	// +listType=map
	// +listMapKey=kind
	// +optional
	Old []TokenCount `json:"old,omitempty"`
	// Workloads are who holds the tokens, if that was asked for. The least urgent of them are added up where they are too
	// many.
	// +listType=atomic
	// +optional
	Workloads []WorkloadTokens `json:"workloads,omitempty"`
}

// TokenCount counts tokens of one kind.
type TokenCount struct {
	Kind TokenKind `json:"kind"`
	// Count is how many there are. A ledger counts all tokens of one account, set of audiences and object as one.
	Count int64 `json:"count"`
	// ExpiresAt is when the last of them expires; none when not known, or never.
	// +optional
	ExpiresAt *metav1.Time `json:"expiresAt,omitempty"`
}

// WorkloadTokens are the tokens of one sort that a workload holds.
type WorkloadTokens struct {
	// Namespace and ServiceAccount are the account of the tokens; empty for several.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// +optional
	ServiceAccount string `json:"serviceAccount,omitempty"`
	// Workload is like Deployment/web, or the Secret of a legacy token that no pod holds; empty when no living pod holds
	// the tokens.
	// +optional
	Workload   string `json:"workload,omitempty"`
	TokenCount `json:",inline"`
	// Audience is who the tokens are for; empty for the API server.
	// +optional
	Audience string `json:"audience,omitempty"`
	// KeyVersion is that of the key that signed them; 0 when not known.
	// +optional
	KeyVersion int32 `json:"keyVersion,omitempty"`
	// Refresh is what gives the holder a token of the next key: Kubelet, Container, Pod, Secret, Replaced (it has one
	// already) or Never (it has the token until that expires).
	// +optional
	Refresh string `json:"refresh,omitempty"`
	// LastUsed is the day on which a legacy token that no pod holds was used last, in UTC.
	// +optional
	LastUsed string `json:"lastUsed,omitempty"`
}

// OldTokenStatus names pods that keep a token of an older key version.
type OldTokenStatus struct {
	// Total is how many there are.
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
	// Holds says in words which tokens, and how.
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

// APIServerStatus is one API server, observed by itself.
type APIServerStatus struct {
	Name string `json:"name"`
	// Endpoint is its own URL, which no load balancer is behind.
	Endpoint string `json:"endpoint"`
	Ready    bool   `json:"ready"`
	// SigningVersion is the key version of a fresh token of it; 0 when unknown.
	// +optional
	SigningVersion int32 `json:"signingVersion,omitempty"`
	// AcceptedVersions are the key versions whose canary tokens it accepts.
	// +listType=atomic
	// +optional
	AcceptedVersions []int32 `json:"acceptedVersions,omitempty"`
	// ForeignKeyIDs are the kids of keys that it accepts and that are no key version of the cluster's. They keep the step
	// Retire waiting until the annotation keyturn.dev/release-foreign-keys names them.
	// +listType=atomic
	// +optional
	ForeignKeyIDs []string `json:"foreignKeyIDs,omitempty"`
}

// PublicationStatus is one place where the public keys are published for verifiers outside the cluster.
type PublicationStatus struct {
	// Name is like "fleet membership projects/p/locations/l/memberships/m", or the URL of a bucket.
	Name string `json:"name"`
	// AcceptedVersions are the key versions that were proven to be accepted there.
	// +listType=atomic
	// +optional
	AcceptedVersions []int32 `json:"acceptedVersions,omitempty"`
	// PublishedAt is when what is published was last changed.
	// +optional
	PublishedAt *metav1.Time `json:"publishedAt,omitempty"`
	// WaitingFor says in words what keeps it from being as wanted; empty when nothing does.
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
