package controlplane

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
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

// Canary is the ServiceAccount that canary tokens are issued for. It has no permissions.
var Canary = types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: v1alpha1.CanaryAccount}

// canaryLifetime is how long a canary token is valid, in seconds: the shortest life that the TokenRequest API grants.
const canaryLifetime int64 = 600

// maxCanaryLife is the longest life of a canary token: admission of the cluster may lengthen what was requested.
const maxCanaryLife = time.Hour

// proofTimeout limits the proof of one API server.
const proofTimeout = 5 * time.Second

// issuerClaim is the claim of a token that names its issuer.
const issuerClaim = "iss"

// Question is what one API server should prove.
type Question struct {
	// Cluster is the UID of the UserCluster that it belongs to.
	Cluster types.UID
	// Config reaches it directly, never through a load balancer.
	Config *rest.Config
	// Keys are the key versions to ask about.
	Keys []keystore.KeyPair
	// External means that it gets its keys from a signer, which it should ask again first.
	External bool
	// Settled means that Keys is one key, that the last proof showed that the API server signs with it and accepts no
	// other, and that nothing has happened since. The API server is then asked for less: see Prove. No write may rely
	// on such a proof.
	Settled bool
}

// Proof is what one API server has shown.
type Proof struct {
	// Accepts and Refuses are the key versions whose canary tokens it accepted and refused, ascending.
	Accepts, Refuses []int
	// Signs is the key version of a token that it issued; 0 if the key is none of those asked about.
	Signs int
	// SigningKeyID is the kid of that token in any case, and IssuedAt its iat: the time by the API server's clock.
	SigningKeyID string
	IssuedAt     time.Time
	// Foreign are the kids in its JWKS, and the one that it signs with, that belong to none of the versions asked
	// about: ascending, without duplicates. They are unchecked text from the API server.
	Foreign []string
}

// Prover asks API servers which keys they sign with and accept. The zero value is ready for use.
type Prover struct {
	// Clients makes its clients, and keeps their connections.
	Clients Clients
	// issuers caches issuers, so that the discovery document is not read each time.
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
// It makes the API server issue a fresh token for an account without permissions, and signs the same claims again with
// each key, if they are of that account. So the canary tokens differ from an accepted token in nothing but the key, and
// a refusal can only be about the key. A version counts as accepted only if the served JWKS also has its key, and as
// refused only if the JWKS does not. Every token is new, so kube-apiserver's cache of accepted tokens cannot matter.
//
// An API server with external keys first gets a token with an unknown kid, which makes it fetch the keys from its
// signer: what it then accepts is what the signer serves now, not what it served at the last refresh. This must come
// before it issues a token, since a signer signs with no key that its API server has not fetched.
//
// In a settled cluster no canary token is reviewed. The key counts as accepted if the API server has just signed a
// token with it, and serves it in its JWKS, which is derived from the keys that it verifies tokens with. This finds a
// lost key, a foreign key, and another signing key. Only a canary token would find an API server that has the key and
// still refuses its tokens.
//
// A proof that takes too long is canceled, with an error that is not a refusal. It is a *webhooks.Error if webhooks may
// be to blame.
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

// Served is what an API server shows of its keys without being asked about any of them.
type Served struct {
	// Keys are the keys in its JWKS.
	Keys jwks.Set
	// SigningKeyID is the kid of a token that it issued, and IssuedAt the time of that by its clock.
	SigningKeyID string
	IssuedAt     time.Time
	// External means that a signer signed that token. Kubernetes requires a typ in the headers that signers make, and
	// kube-apiserver itself writes none.
	External bool
}

// Served asks one API server which keys it has. If it has a signer, the API server fetches its keys first, as in Prove.
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
	header, claims, err := readCanary(issued)
	if err != nil {
		return s, fmt.Errorf("reading the token that %s issued: %w", cfg.Host, err)
	}
	if err := p.checkIssuer(q, issuer, claims); err != nil {
		return s, fmt.Errorf("making %s ask its signer: %w", cfg.Host, err)
	}
	s.SigningKeyID, s.IssuedAt, s.External = header.KeyID, claims.IssuedAt.Time(), header.Type != ""
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
	header, claims, err := readCanary(issued)
	if err != nil {
		return Proof{}, fmt.Errorf("reading the token that %s issued: %w", host, err)
	}
	if q.External {
		if err := p.checkIssuer(q, issuer, claims); err != nil {
			return Proof{}, fmt.Errorf("making %s ask its signer: %w", host, err)
		}
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
	proof = conclude(q.Keys, header.KeyID, accepted, served)
	proof.IssuedAt = claims.IssuedAt.Time()
	if q.Settled {
		proof.Refuses = nil // no token was reviewed that it could refuse
	}
	return proof, nil
}

// conclude combines which key signed a token, which keys were accepted, and which are served.
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

// foreign returns the kids that belong to none of the keys.
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

// issue requests a fresh token for the canary account, and creates the account on first use.
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
		ObjectMeta: metav1.ObjectMeta{
			Namespace: Canary.Namespace, Name: Canary.Name,
			Labels: map[string]string{v1alpha1.LabelClusterUID: string(client.cluster)},
		},
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

// document reads a document that an API server serves.
func document(ctx context.Context, client asker, path string) ([]byte, error) {
	body, err := client.core.RESTClient().Get().AbsPath(path).SetHeader("Accept", "*/*").Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	// Package jwks refuses a longer document, so one byte more is read than it accepts.
	return io.ReadAll(io.LimitReader(body, jwks.MaxSize+1))
}

// fetch makes the API server refresh its keys: a token of its own issuer with an unknown kid makes kube-apiserver call
// FetchKeys. It returns that issuer.
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

// issuer returns the cached issuer of an API server, or else the one in its discovery document.
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

// checkIssuer returns an error if an issued token is not of the issuer that fetch used: for a token of another issuer,
// the API server does not ask its signer. The next proof reads the discovery document.
func (p *Prover) checkIssuer(q Question, asked string, issued token.Claims) error {
	if issued.Issuer != asked {
		p.issuers.forget(q.Cluster)
		return fmt.Errorf("its issuer changed from %q to %q: it will be asked again", asked, issued.Issuer)
	}
	return nil
}

// Forget drops what is cached of a cluster, and closes its connections.
func (p *Prover) Forget(cluster types.UID) {
	p.issuers.forget(cluster)
	p.Clients.Forget(cluster)
}

// reviewAll returns for each key whether a canary token of it is accepted.
func reviewAll(
	ctx context.Context, client asker, claims token.Claims, keys []keystore.KeyPair,
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

// verifyAll returns for each key whether it is among those served, and signed an issued token.
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
	// The API server has just issued it, so only the signature is checked.
	_, err = token.Verify(issued, set, token.Expect{
		Issuer: claims.Issuer, Audience: claims.Audience[0], Now: claims.IssuedAt.Time(),
	})
	return err == nil
}

// review signs claims with k and makes the API server review the token.
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

// readCanary reads a token that an API server issued for the canary account. It refuses any other: its claims are about
// to be signed with each key, and who answers in the place of the API server could choose them.
func readCanary(issued string) (token.Header, token.Claims, error) {
	header, claims, err := token.ParseUnverified(issued)
	if err == nil {
		err = checkCanary(claims)
	}
	return header, claims, err
}

// checkCanary refuses claims that are not those of a token of the canary account alone, with a life as it was requested
// or, at an API server that grants no shorter one, of an hour.
func checkCanary(c token.Claims) error {
	k, life := c.Kubernetes, c.Expiry.Time().Sub(c.IssuedAt.Time())
	switch {
	case c.Subject != token.Subject(Canary.Namespace, Canary.Name), c.Legacy != nil, k == nil,
		k.Namespace != Canary.Namespace, k.ServiceAccount.Name != Canary.Name:
		return fmt.Errorf("it is not a token of ServiceAccount %s, which was requested", Canary)
	case k.Pod != nil, k.Node != nil, k.Secret != nil:
		return errors.New("it is bound to an object, which was not requested")
	case c.IssuedAt <= 0, life <= 0, life > maxCanaryLife:
		return fmt.Errorf("it is not valid for %s at most from the time when it was issued", maxCanaryLife)
	}
	return nil
}
