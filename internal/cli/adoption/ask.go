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
	// askTimeout bounds what one API server is asked.
	askTimeout = 15 * time.Second
	// audience is for the tokens that API servers issue here. No API server accepts one for a request.
	audience = "keyturn.dev/adopt"
	// lifetime is the shortest that API servers grant, in seconds.
	lifetime int64 = 600
	// maxDocument bounds what is read of a document.
	maxDocument = 1 << 20
)

// account has the tokens: every cluster has it. They are of no use to anybody, since they are for our audience alone.
const account = "default"

// answer is what one API server said.
type answer struct {
	client  kubernetes.Interface
	version string
	issuer  string
	// keys are those in its JWKS that Keyturn can use, and others how many more there are.
	keys   jwks.Set
	others int
	// issued is a token of it, and kid the key that signed that.
	issued, kid string
	// refuses are the nodes of the API servers whose tokens it does not accept.
	refuses []string
	// err is why it said nothing.
	err error
}

// errLeaving is why an API server is not asked whose node goes.
var errLeaving = errors.New("its node is being deleted")

// askAll asks each API server, and then each about the tokens of all.
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

// ask asks one API server alone.
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

// document reads one that the API server serves.
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

// review has the API server verify the tokens of all, and returns the nodes of those that it refuses.
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
