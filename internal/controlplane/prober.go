package controlplane

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// The ServiceAccount that canary tokens are for. It has no permissions.
const (
	canaryNamespace = metav1.NamespaceSystem
	canaryAccount   = "keyturn-canary"
)

// canaryLifetime is how long a canary token could be used, in seconds: the least that the TokenRequest API grants.
const canaryLifetime int64 = 600

// proofTimeout bounds the proof of one API server.
const proofTimeout = 5 * time.Second

// Proof is what one API server has shown of itself.
type Proof struct {
	// Accepts and Refuses are the key versions whose canary tokens it accepted and refused, ascending.
	Accepts, Refuses []int
	// Signs is the key version of a token that it issued.
	Signs int
}

// Prove asks one API server, reached by cfg and never through a load balancer, with which key it signs and which
// it accepts.
//
// It lets the API server issue a fresh token for an account without permissions and signs that token's very
// claims again with each key: the canary tokens differ from an accepted one in nothing but the key, so that a
// refusal can only be about the key. A version counts as accepted only if the served JWKS has its key too, and
// as refused only if the JWKS does not. Every token is new, so kube-apiserver's cache of accepted tokens has no say.
//
// An API server whose keys are external first gets a token with a kid that nobody has, which makes it ask its signer for the keys:
// what it then accepts is what the signer serves now, and not what it served at the end of the last refresh hint. That comes before
// the token that it is to issue: a signer signs with no key that its API server has not asked for.
func Prove(ctx context.Context, cfg *rest.Config, keys []keystore.KeyPair, external bool) (Proof, error) {
	ctx, cancel := context.WithTimeout(ctx, proofTimeout)
	defer cancel()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return Proof{}, fmt.Errorf("making a client for %s: %w", cfg.Host, err)
	}
	if external {
		if err := fetch(ctx, client); err != nil {
			return Proof{}, fmt.Errorf("making %s ask its signer: %w", cfg.Host, err)
		}
	}
	issued, err := issue(ctx, client)
	if err != nil {
		return Proof{}, fmt.Errorf("requesting a token from %s: %w", cfg.Host, err)
	}
	accepted, err := reviewAll(ctx, client, issued, keys)
	if err != nil {
		return Proof{}, fmt.Errorf("reviewing a canary token at %s: %w", cfg.Host, err)
	}
	served, err := servedKeys(ctx, client)
	if err != nil {
		return Proof{}, fmt.Errorf("reading the JWKS of %s: %w", cfg.Host, err)
	}
	proof := Proof{}
	if proof.Signs, err = versionOf(issued, keys); err != nil {
		return Proof{}, fmt.Errorf("reading the token that %s issued: %w", cfg.Host, err)
	}
	for i, k := range keys {
		_, listed := served.Lookup(k.KeyID)
		switch {
		case accepted[i] && listed:
			proof.Accepts = append(proof.Accepts, k.Version)
		case !accepted[i] && !listed:
			proof.Refuses = append(proof.Refuses, k.Version)
		}
	}
	slices.Sort(proof.Accepts)
	slices.Sort(proof.Refuses)
	return proof, nil
}

// issue requests a fresh token for the canary account and makes the account on first use.
func issue(ctx context.Context, client kubernetes.Interface) (string, error) {
	lifetime := canaryLifetime
	request := func() (*authenticationv1.TokenRequest, error) {
		return client.CoreV1().ServiceAccounts(canaryNamespace).CreateToken(ctx, canaryAccount,
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &lifetime}}, metav1.CreateOptions{})
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

func createCanaryAccount(ctx context.Context, client kubernetes.Interface) error {
	no := false
	account := &corev1.ServiceAccount{
		ObjectMeta:                   metav1.ObjectMeta{Namespace: canaryNamespace, Name: canaryAccount},
		AutomountServiceAccountToken: &no,
	}
	_, err := client.CoreV1().ServiceAccounts(canaryNamespace).Create(ctx, account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("creating ServiceAccount %s/%s: %w", canaryNamespace, canaryAccount, err)
	}
	return nil
}

func servedKeys(ctx context.Context, client kubernetes.Interface) (jwks.Set, error) {
	body, err := client.CoreV1().RESTClient().Get().AbsPath(jwks.Path).DoRaw(ctx)
	if err != nil {
		return jwks.Set{}, err
	}
	return jwks.Parse(body)
}

// versionOf tells by which of the keys a token is signed; 0 when by none of them.
func versionOf(issued string, keys []keystore.KeyPair) (int, error) {
	kid, err := token.KeyID(issued)
	if err != nil {
		return 0, err
	}
	for _, k := range keys {
		if k.KeyID == kid {
			return k.Version, nil
		}
	}
	return 0, nil
}

// fetch has the API server review a token of its own issuer with a kid that no signer has, and so ask its own again.
func fetch(ctx context.Context, client kubernetes.Interface) error {
	nobody, err := keystore.Generate(rand.Reader, 1, "ES256")
	if err != nil {
		return err
	}
	body, err := client.CoreV1().RESTClient().Get().AbsPath(jwks.DiscoveryPath).DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("reading its discovery document: %w", err)
	}
	document, err := jwks.ParseDiscovery(body)
	if err != nil {
		return fmt.Errorf("reading its discovery document: %w", err)
	}
	accepted, err := review(ctx, client, map[string]string{"iss": document.Issuer}, nobody)
	if err == nil && accepted {
		err = errors.New("it accepted a token of a key that nobody has")
	}
	return err
}

// reviewAll says of each key whether a canary token of it is accepted.
func reviewAll(ctx context.Context, client kubernetes.Interface, issued string, keys []keystore.KeyPair) ([]bool, error) {
	claims, err := claimsOf(issued)
	if err != nil {
		return nil, err
	}
	accepted := make([]bool, len(keys))
	for i, k := range keys {
		if accepted[i], err = review(ctx, client, claims, k); err != nil {
			return nil, fmt.Errorf("key version %d: %w", k.Version, err)
		}
	}
	return accepted, nil
}

// review signs claims with k and lets the API server review the result.
func review(ctx context.Context, client kubernetes.Interface, claims any, k keystore.KeyPair) (accepted bool, err error) {
	canary, err := token.Sign(rand.Reader, k.Signer, k.Algorithm, k.KeyID, claims)
	if err != nil {
		return false, err
	}
	answer, err := client.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: canary}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return answer.Status.Authenticated, nil
}

func claimsOf(issued string) (json.RawMessage, error) {
	parts := strings.Split(issued, ".")
	if len(parts) != 3 {
		return nil, fmt.Errorf("issued token has %d parts, not 3", len(parts))
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil, fmt.Errorf("decoding the claims of an issued token: %w", err)
	}
	return claims, nil
}
