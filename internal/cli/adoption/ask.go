package adoption

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

const (
	// askTimeout limits the requests to one API server.
	askTimeout = 15 * time.Second
	// audience is the audience of the tokens that API servers issue here. No API server accepts it for a request.
	audience = "keyturn.dev/adopt"
	// lifetime is the shortest life of a token that API servers grant, in seconds.
	lifetime int64 = 600
	// maxDocument is the most bytes of a document that are read.
	maxDocument = 1 << 20
)

// account is the account of the tokens, which every cluster has. The tokens are useless, since they have only our
// audience.
const account = "default"

// answer is the answer of one API server.
type answer struct {
	client  kubernetes.Interface
	version string
	issuer  string
	// keys are the keys in its JWKS that Keyturn can use, and others is the number of other keys.
	keys   jwks.Set
	others int
	// issued is a token that it issued, and kid the key that signed it.
	issued, kid string
	// refuses are the nodes of the API servers whose tokens it refuses.
	refuses []string
	// err is why there is no answer.
	err error
}

// errLeaving is why an API server is not asked whose node is being deleted.
var errLeaving = errors.New("its node is being deleted")

// askAll asks each API server, and then asks each to verify the tokens of all.
func askAll(ctx context.Context, config *rest.Config, servers []kubeadm.Server) []answer {
	answers := make([]answer, len(servers))
	for i, s := range servers {
		switch {
		case s.Waiting != "":
			answers[i].err = errors.New(s.Waiting)
		case s.Leaving:
			answers[i].err = errLeaving
		default:
			answers[i] = ask(ctx, config, s)
		}
	}
	for i := range answers {
		if answers[i].err == nil {
			answers[i].refuses, answers[i].err = answers[i].review(ctx, servers, answers)
		}
	}
	return answers
}

// ask asks one API server directly.
func ask(ctx context.Context, config *rest.Config, s kubeadm.Server) (a answer) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	own, err := kubeadm.Config(config, s)
	if err == nil {
		a.client, err = kubernetes.NewForConfig(own)
	}
	if err != nil {
		return answer{err: err}
	}
	a.err = a.read(ctx)
	return a
}

func (a *answer) read(ctx context.Context) error {
	var of version.Info
	data, err := a.document(ctx, "/version")
	if err == nil {
		err = json.Unmarshal(data, &of)
	}
	if err != nil {
		return fmt.Errorf("reading its version: %w", err)
	}
	a.version = of.GitVersion
	var discovery jwks.Discovery
	if data, err = a.document(ctx, jwks.DiscoveryPath); err == nil {
		discovery, err = jwks.ParseDiscovery(data)
	}
	if err != nil {
		return fmt.Errorf("reading its issuer: %w", err)
	}
	a.issuer = discovery.Issuer
	if data, err = a.document(ctx, jwks.Path); err == nil {
		a.keys, a.others, err = jwks.ParseUsable(data)
	}
	if err != nil {
		return fmt.Errorf("reading its keys: %w", err)
	}
	if a.issued, err = a.issue(ctx); err != nil {
		return fmt.Errorf("requesting a token: %w", err)
	}
	a.kid, err = token.KeyID(a.issued)
	return err
}

// document reads a document that the API server serves.
func (a *answer) document(ctx context.Context, path string) ([]byte, error) {
	get := a.client.Discovery().RESTClient().Get().AbsPath(path).SetHeader("Accept", "*/*")
	body, err := get.Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(io.LimitReader(body, maxDocument))
}

func (a *answer) issue(ctx context.Context) (string, error) {
	seconds := lifetime
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		Audiences: []string{audience}, ExpirationSeconds: &seconds,
	}}
	made, err := a.client.CoreV1().ServiceAccounts(metav1.NamespaceSystem).CreateToken(ctx, account, request,
		metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return made.Status.Token, nil
}

// review asks the API server to verify the tokens of all, and returns the nodes of those that it refuses.
func (a *answer) review(ctx context.Context, servers []kubeadm.Server, all []answer) (refuses []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for i, other := range all {
		if other.err != nil {
			continue
		}
		review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{
			Token: other.issued, Audiences: []string{audience},
		}}
		done, err := a.client.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return nil, fmt.Errorf("reviewing a token: %w", err)
		}
		if !done.Status.Authenticated {
			refuses = append(refuses, servers[i].Node)
		}
	}
	return refuses, nil
}
