package token

import (
	"encoding/json"
	"time"
)

// LegacyIssuer is the issuer of every legacy token, in any cluster.
const LegacyIssuer = "kubernetes/serviceaccount"

// Claims is what a service account token says. In JSON it is byte for byte what kube-apiserver makes of the same
// claims.
type Claims struct {
	Issuer    string
	Subject   string
	Audience  []string
	Expiry    NumericDate
	NotBefore NumericDate
	IssuedAt  NumericDate
	// ID is the claim jti, by which audit logs know the token.
	ID string
	// Kubernetes is there in bound tokens only.
	Kubernetes *Kubernetes
	// Legacy is there in legacy tokens only.
	Legacy *Legacy
}

// Kubernetes is the claim kubernetes.io of a bound token: its service account, and the object whose end is the token's
// end.
type Kubernetes struct {
	Namespace string `json:"namespace,omitempty"`
	// Node is the node of the pod, or, without a pod, what the token is bound to.
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

// Legacy is the claims that only a legacy token has. kube-apiserver accepts one only while a Secret of that name holds
// it.
type Legacy struct {
	Namespace          string `json:"kubernetes.io/serviceaccount/namespace"`
	SecretName         string `json:"kubernetes.io/serviceaccount/secret.name"`
	ServiceAccountName string `json:"kubernetes.io/serviceaccount/service-account.name"`
	ServiceAccountUID  string `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

// NumericDate is a time in seconds since 1970 (RFC 7519, section 2). Zero is no time: the claim is not there.
type NumericDate int64

// NewNumericDate returns a time, its fraction of a second cut off.
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

// NewBoundClaims returns the claims of a token that is valid from now on for a time. Its ID is left to the caller.
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

// wireClaims is the payload of a token, its members sorted by name as kube-apiserver sorts them. Those of Legacy come
// where it is embedded, and not at all when it is nil.
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
