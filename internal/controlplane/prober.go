package controlplane

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/webhooks"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// Canary is the ServiceAccount that canary tokens are for. It has no permissions.
var Canary = types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: v1alpha1.CanaryAccount}

// canaryLifetime is how long a canary token could be used, in seconds: the least that the TokenRequest API grants.
const canaryLifetime int64 = 600

// proofTimeout bounds the proof of one API server.
const proofTimeout = 5 * time.Second

// issuerClaim is the claim of a token that names its issuer.
const issuerClaim = "iss"

// maxDocument bounds what is read of a JWKS or discovery document.
const maxDocument = 1 << 20

// Question is what one API server is to prove.
type Question struct {
	// Cluster is the UID of the UserCluster that it belongs to.
	Cluster types.UID
	// Config reaches it, and never goes through a load balancer.
	Config *rest.Config
	// Keys are the key versions of which is asked whether it accepts them.
	Keys []keystore.KeyPair
	// External means that it gets its keys from a signer, which it is to ask again first.
	External bool
	// Settled means that Keys is one key, that the last proof showed that the API server signs with it and accepts no
	// other, and that nothing has happened since. Then the API server is asked for less: see Prove. Nothing may be
	// written on the strength of such a proof.
	Settled bool
}

// Proof is what one API server has shown of itself.
type Proof struct {
	// Accepts and Refuses are the key versions whose canary tokens it accepted and refused, ascending.
	Accepts, Refuses []int
	// Signs is the key version of a token that it issued; 0 if the key is none of the versions asked about.
	Signs int
	// SigningKeyID is the kid of that token in any case, and IssuedAt its iat: the time by the API server's own clock.
	SigningKeyID string
	IssuedAt     time.Time
	// Foreign are the kids in its JWKS, and the one it signs with, that are of none of the versions asked about: each
	// once, ascending. They are as the API server gave them.
	Foreign []string
}

// Prover asks API servers which keys they sign with and accept. Its zero value is ready for use.
type Prover struct {
	// Clients are those that it asks with, and whose connections it keeps.
	Clients Clients
	// issuers spare the discovery document, which is needed for no more than the issuer.
	issuers issuers
}

// issuers are the issuers of API servers, by cluster and host.
type issuers struct {
	mu sync.Mutex
	of map[types.UID]map[string]string
}

func (i *issuers) get(cluster types.UID, host string) (issuer string, known bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	issuer, known = i.of[cluster][host]
	return issuer, known
}

func (i *issuers) set(cluster types.UID, host, issuer string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.of == nil {
		i.of = map[types.UID]map[string]string{}
	}
	if i.of[cluster] == nil {
		i.of[cluster] = map[string]string{}
	}
	i.of[cluster][host] = issuer
}

func (i *issuers) forget(cluster types.UID) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.of, cluster)
}

// Prove asks one API server.
//
// It lets the API server issue a fresh token for an account without permissions and signs that token's very
// claims again with each key: the canary tokens differ from an accepted one in nothing but the key, so that a
// refusal can only be about the key. A version counts as accepted only if the served JWKS has its key too, and
// as refused only if the JWKS does not. Every token is new, so kube-apiserver's cache of accepted tokens has no say.
//
// An API server whose keys are external first gets a token with a kid that nobody has, which makes it ask its signer
// for the keys: what it then accepts is what the signer serves now, and not what it served at the end of the last
// refresh hint. That comes before the token that it is to issue: a signer signs with no key that its API server has not
// asked for.
//
// In a settled cluster no canary token is reviewed. The key counts as accepted if the API server has just signed a
// token with it, and serves it in its JWKS, which it reads from the keys that it verifies tokens with. That finds a key
// that is lost, a foreign one, and another signing key. Only a canary token shows an API server that has the key and
// refuses its tokens.
//
// A proof that takes too long is cut off. Its error tells that this is no refusal; it is a *webhooks.Error if webhooks
// may be to blame.
func (p *Prover) Prove(ctx context.Context, q Question) (Proof, error) {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	client, err := p.Clients.asker(q.Cluster, q.Config)
	if err != nil {
		return Proof{}, err
	}
	proof, err := p.prove(ctx, client, q)
	if err == nil {
		return proof, nil
	}
	whole, clientErr := p.Clients.Get(q.Cluster, q.Config)
	if clientErr != nil {
		return Proof{}, err
	}
	return Proof{}, webhooks.Explain(ctx, whole, err, webhooks.Proof...)
}

// Served is what an API server shows of its keys without a question about any of them.
type Served struct {
	// Keys are those in its JWKS.
	Keys jwks.Set
	// SigningKeyID is the kid of a token that it issued, and IssuedAt the time of that by its own clock.
	SigningKeyID string
	IssuedAt     time.Time
	// External means that a signer signed that token. Kubernetes demands a typ of the headers that signers make, and
	// kube-apiserver itself writes none.
	External bool
}

// Served asks one API server which keys it has. If it has a signer, it asks that first, as in Prove.
func (p *Prover) Served(ctx context.Context, cluster types.UID, cfg *rest.Config) (s Served, err error) {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	client, err := p.Clients.asker(cluster, cfg)
	if err != nil {
		return s, err
	}
	q := Question{Cluster: cluster, Config: cfg}
	issuer, err := p.fetch(ctx, client, q)
	if err != nil {
		return s, fmt.Errorf("making %s ask its signer: %w", cfg.Host, err)
	}
	issued, err := issue(ctx, client)
	if err != nil {
		return s, fmt.Errorf("requesting a token from %s: %w", cfg.Host, err)
	}
	if err := p.checkIssuer(q, issuer, issued); err != nil {
		return s, fmt.Errorf("making %s ask its signer: %w", cfg.Host, err)
	}
	header, _, err := token.ParseUnverified(issued)
	if err != nil {
		return s, fmt.Errorf("reading the token that %s issued: %w", cfg.Host, err)
	}
	if _, s.IssuedAt, err = claimsOf(issued); err != nil {
		return s, fmt.Errorf("reading the token that %s issued: %w", cfg.Host, err)
	}
	s.SigningKeyID, s.External = header.KeyID, header.Type != ""
	if s.Keys, err = servedKeys(ctx, client); err != nil {
		return s, fmt.Errorf("reading the JWKS of %s: %w", cfg.Host, err)
	}
	return s, nil
}

func (p *Prover) prove(ctx context.Context, client asker, q Question) (proof Proof, err error) {
	host, issuer := q.Config.Host, ""
	if q.External {
		if issuer, err = p.fetch(ctx, client, q); err != nil {
			return Proof{}, fmt.Errorf("making %s ask its signer: %w", host, err)
		}
	}
	issued, err := issue(ctx, client)
	if err != nil {
		return Proof{}, fmt.Errorf("requesting a token from %s: %w", host, err)
	}
	if q.External {
		if err := p.checkIssuer(q, issuer, issued); err != nil {
			return Proof{}, fmt.Errorf("making %s ask its signer: %w", host, err)
		}
	}
	kid, err := token.KeyID(issued)
	if err != nil {
		return Proof{}, fmt.Errorf("reading the token that %s issued: %w", host, err)
	}
	claims, at, err := claimsOf(issued)
	if err != nil {
		return Proof{}, fmt.Errorf("reading the token that %s issued: %w", host, err)
	}
	var accepted []bool
	if !q.Settled {
		if accepted, err = reviewAll(ctx, client, claims, q.Keys); err != nil {
			return Proof{}, fmt.Errorf("reviewing a canary token at %s: %w", host, err)
		}
	}
	served, err := servedKeys(ctx, client)
	if err != nil {
		return Proof{}, fmt.Errorf("reading the JWKS of %s: %w", host, err)
	}
	if q.Settled {
		accepted = verifyAll(issued, served, q.Keys)
	}
	proof = conclude(q.Keys, kid, accepted, served)
	proof.IssuedAt = at
	if q.Settled {
		proof.Refuses = nil // it was shown no token that it could refuse
	}
	return proof, nil
}

// conclude takes together which key a token was signed with, which keys were accepted, and which are served.
func conclude(keys []keystore.KeyPair, signing string, accepted []bool, served jwks.Set) Proof {
	proof := Proof{SigningKeyID: signing, Foreign: foreign(keys, signing, served)}
	for i, k := range keys {
		_, listed := served.Lookup(k.KeyID)
		switch {
		case accepted[i] && listed:
			proof.Accepts = append(proof.Accepts, k.Version)
		case !accepted[i] && !listed:
			proof.Refuses = append(proof.Refuses, k.Version)
		}
		if k.KeyID == signing {
			proof.Signs = k.Version
		}
	}
	slices.Sort(proof.Accepts)
	slices.Sort(proof.Refuses)
	return proof
}

// foreign returns the kids that are of none of the keys.
func foreign(keys []keystore.KeyPair, signing string, served jwks.Set) (kids []string) {
	all := []string{signing}
	for _, k := range served.Keys() {
		all = append(all, k.KeyID)
	}
	for _, kid := range all {
		if !slices.ContainsFunc(keys, func(k keystore.KeyPair) bool { return k.KeyID == kid }) {
			kids = append(kids, kid)
		}
	}
	slices.Sort(kids)
	return slices.Compact(kids)
}

// issue requests a fresh token for the canary account and makes the account on first use.
func issue(ctx context.Context, client asker) (string, error) {
	lifetime := canaryLifetime
	request := func() (*authenticationv1.TokenRequest, error) {
		spec := authenticationv1.TokenRequestSpec{ExpirationSeconds: &lifetime}
		return client.core.ServiceAccounts(Canary.Namespace).CreateToken(
			ctx, Canary.Name, &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	}
	answer, err := request()
	if apierrors.IsNotFound(err) {
		if err := createCanaryAccount(ctx, client); err != nil {
			return "", err
		}
		answer, err = request()
	}
	if err != nil {
		return "", err
	}
	return answer.Status.Token, nil
}

func createCanaryAccount(ctx context.Context, client asker) error {
	no := false
	account := &corev1.ServiceAccount{
		ObjectMeta:                   metav1.ObjectMeta{Namespace: Canary.Namespace, Name: Canary.Name},
		AutomountServiceAccountToken: &no,
	}
	_, err := client.core.ServiceAccounts(Canary.Namespace).Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating ServiceAccount %s/%s: %w", Canary.Namespace, Canary.Name, err)
	}
	return nil
}

func servedKeys(ctx context.Context, client asker) (jwks.Set, error) {
	body, err := document(ctx, client, jwks.Path)
	if err != nil {
		return jwks.Set{}, err
	}
	return jwks.Parse(body)
}

// document reads one that an API server serves.
func document(ctx context.Context, client asker, path string) ([]byte, error) {
	body, err := client.core.RESTClient().Get().AbsPath(path).SetHeader("Accept", "*/*").Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	read, err := io.ReadAll(io.LimitReader(body, maxDocument+1))
	if err != nil {
		return nil, err
	}
	if len(read) > maxDocument {
		return nil, fmt.Errorf("%s is longer than %d bytes", path, maxDocument)
	}
	return read, nil
}

// fetch makes the API server refresh its keys: for a token of its own issuer with a kid that no signer has, it asks its
// signer. It returns that issuer.
func (p *Prover) fetch(ctx context.Context, client asker, q Question) (issuer string, err error) {
	nobody, err := keystore.Generate(rand.Reader, 1, jwks.ES256)
	if err != nil {
		return "", err
	}
	if issuer, err = p.issuer(ctx, client, q); err != nil {
		return "", fmt.Errorf("reading its discovery document: %w", err)
	}
	accepted, err := review(ctx, client, map[string]string{issuerClaim: issuer}, nobody)
	if err == nil && accepted {
		err = errors.New("it accepted a token of a key that nobody has")
	}
	return issuer, err
}

// issuer returns the issuer that an API server had last, or else the one in its discovery document.
func (p *Prover) issuer(ctx context.Context, client asker, q Question) (string, error) {
	if known, ok := p.issuers.get(q.Cluster, q.Config.Host); ok {
		return known, nil
	}
	body, err := document(ctx, client, jwks.DiscoveryPath)
	if err != nil {
		return "", err
	}
	discovery, err := jwks.ParseDiscovery(body)
	if err != nil {
		return "", err
	}
	p.issuers.set(q.Cluster, q.Config.Host, discovery.Issuer)
	return discovery.Issuer, nil
}

// checkIssuer fails if a token that an API server issued is not of the issuer for whose sake it was to ask its signer:
// for a token of another one, it has asked nobody. The next proof reads the discovery document.
func (p *Prover) checkIssuer(q Question, asked, issued string) error {
	claims, _, err := claimsOf(issued)
	if err != nil {
		return err
	}
	var is struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(claims, &is); err != nil {
		return fmt.Errorf("decoding the claims of an issued token: %w", err)
	}
	if is.Issuer != asked {
		p.issuers.forget(q.Cluster)
		return fmt.Errorf("its issuer was %q and is %q now: it is asked again", asked, is.Issuer)
	}
	return nil
}

// Forget drops what is remembered of a cluster, and closes its connections.
func (p *Prover) Forget(cluster types.UID) {
	p.issuers.forget(cluster)
	p.Clients.Forget(cluster)
}

// reviewAll reports of each key whether a canary token of it is accepted.
func reviewAll(
	ctx context.Context, client asker, claims json.RawMessage, keys []keystore.KeyPair,
) ([]bool, error) {
	accepted := make([]bool, len(keys))
	for i, k := range keys {
		var err error
		if accepted[i], err = review(ctx, client, claims, k); err != nil {
			return nil, fmt.Errorf("key version %d: %w", k.Version, err)
		}
	}
	return accepted, nil
}

// verifyAll reports of each key whether it is among those served, and signed an issued token.
func verifyAll(issued string, served jwks.Set, keys []keystore.KeyPair) []bool {
	verified := make([]bool, len(keys))
	for i, k := range keys {
		verified[i] = verify(issued, served, k)
	}
	return verified
}

func verify(issued string, served jwks.Set, k keystore.KeyPair) bool {
	listed, _ := served.Lookup(k.KeyID)
	public, ok := listed.Public.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(k.Signer.Public()) {
		return false
	}
	set, err := jwks.NewSet(listed)
	if err != nil {
		return false
	}
	_, claims, err := token.ParseUnverified(issued)
	if err != nil || len(claims.Audience) == 0 {
		return false
	}
	// The API server has just issued it: only who signed it is in question.
	_, err = token.Verify(issued, set, token.Expect{
		Issuer: claims.Issuer, Audience: claims.Audience[0], Now: claims.IssuedAt.Time(),
	})
	return err == nil
}

// review signs claims with k and lets the API server review the result.
func review(
	ctx context.Context, client asker, claims any, k keystore.KeyPair,
) (accepted bool, err error) {
	canary, err := token.Sign(rand.Reader, k.Signer, k.Algorithm, k.KeyID, claims)
	if err != nil {
		return false, err
	}
	answer, err := client.authentication.TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: canary}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return answer.Status.Authenticated, nil
}

// claimsOf returns the claims of a token, and when it was issued.
func claimsOf(issued string) (json.RawMessage, time.Time, error) {
	parts := strings.Split(issued, ".")
	if len(parts) != 3 {
		return nil, time.Time{}, fmt.Errorf("issued token has %d parts, not 3", len(parts))
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("decoding the claims of an issued token: %w", err)
	}
	var times struct {
		IssuedAt int64 `json:"iat"`
	}
	if err := json.Unmarshal(claims, &times); err != nil || times.IssuedAt <= 0 {
		return nil, time.Time{}, errors.New("the claims of an issued token have no time of issue")
	}
	return claims, time.Unix(times.IssuedAt, 0), nil
}
