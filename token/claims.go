package token

import (
	"encoding/json"
	"time"
)

// LegacyIssuer is the issuer of every legacy token, in any cluster.
const LegacyIssuer = "kubernetes/serviceaccount"

// Claims are the claims of a service account token. Their JSON is byte for byte what kube-apiserver encodes for the
// same claims.
type Claims struct {
	Issuer    string
	Subject   string
	Audience  []string
	Expiry    NumericDate
	NotBefore NumericDate
	IssuedAt  NumericDate
	// ID is the claim jti, by which audit logs identify the token.
	ID string
	// Kubernetes is set in bound tokens only.
	Kubernetes *Kubernetes
	// Legacy is set in legacy tokens only.
	Legacy *Legacy
}

// Kubernetes is the claim kubernetes.io of a bound token: its service account, and the object that it is bound to. The
// token ends with that object.
type Kubernetes struct {
	Namespace string `json:"namespace,omitempty"`
	// Node is the node of the pod. In a token without a pod, it is the object that the token is bound to.
	Node           *Ref `json:"node,omitempty"`
	Pod            *Ref `json:"pod,omitempty"`
	Secret         *Ref `json:"secret,omitempty"`
	ServiceAccount Ref  `json:"serviceaccount"`
	// WarnAfter is when the API server starts to count uses of the token as stale.
	WarnAfter NumericDate `json:"warnafter,omitempty"`
}

// Ref names an object and its UID.
type Ref struct {
	Name string `json:"name,omitempty"`
	UID  string `json:"uid,omitempty"`
}

// Legacy holds the claims that only legacy tokens have. kube-apiserver accepts such a token only while a Secret of that
// name holds it.
type Legacy struct {
	Namespace          string `json:"kubernetes.io/serviceaccount/namespace"`
	SecretName         string `json:"kubernetes.io/serviceaccount/secret.name"`
	ServiceAccountName string `json:"kubernetes.io/serviceaccount/service-account.name"`
	ServiceAccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

// NumericDate is a time in seconds since 1970 (RFC 7519, section 2). Zero means that the claim is absent.
type NumericDate int64

// NewNumericDate returns t, truncated to seconds.
func NewNumericDate(t time.Time) NumericDate { return NumericDate(t.Unix()) }

// Time returns the date as a time in UTC.
func (n NumericDate) Time() time.Time { return time.Unix(int64(n), 0).UTC() }

// Subject returns the subject of a service account's tokens, which is also its user name.
func Subject(namespace, name string) string {
	return "system:serviceaccount:" + namespace + ":" + name
}

// NewLegacyClaims returns all claims of a legacy token, as kube-controller-manager sets them.
func NewLegacyClaims(l Legacy) Claims {
	return Claims{Issuer: LegacyIssuer, Subject: Subject(l.Namespace, l.ServiceAccountName), Legacy: &l}
}

// NewBoundClaims returns the claims of a token that is valid from now for the given life. The caller sets its ID.
func NewBoundClaims(issuer string, audience []string, k Kubernetes, now time.Time, life time.Duration) Claims {
	return Claims{
		Issuer:     issuer,
		Subject:    Subject(k.Namespace, k.ServiceAccount.Name),
		Audience:   audience,
		Expiry:     NewNumericDate(now.Add(life)),
		NotBefore:  NewNumericDate(now),
		IssuedAt:   NewNumericDate(now),
		Kubernetes: &k,
	}
}

// IsLegacy reports whether these are the claims of a legacy token.
func (c Claims) IsLegacy() bool { return c.Issuer == LegacyIssuer && c.Legacy != nil }

// wireClaims is the payload of a token. Its members are sorted by name, as kube-apiserver sorts them. Legacy is
// embedded where its members belong, and they are omitted when it is nil.
type wireClaims struct {
	Audience   []string    `json:"aud,omitempty"`
	Expiry     NumericDate `json:"exp,omitempty"`
	IssuedAt   NumericDate `json:"iat,omitempty"`
	Issuer     string      `json:"iss,omitempty"`
	ID         string      `json:"jti,omitempty"`
	Kubernetes *Kubernetes `json:"kubernetes.io,omitempty"`
	*Legacy
	NotBefore NumericDate `json:"nbf,omitempty"`
	Subject   string      `json:"sub,omitempty"`
}

// MarshalJSON returns the payload of a token.
func (c Claims) MarshalJSON() ([]byte, error) {
	return json.Marshal(wireClaims{
		Audience:   c.Audience,
		Expiry:     c.Expiry,
		IssuedAt:   c.IssuedAt,
		Issuer:     c.Issuer,
		ID:         c.ID,
		Kubernetes: c.Kubernetes,
		Legacy:     c.Legacy,
		NotBefore:  c.NotBefore,
		Subject:    c.Subject,
	})
}
