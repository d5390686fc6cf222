package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// requester requests tokens all the time, from any API server, and uses each of them at once at every API server.
type requester struct {
	any    kubernetes.Interface
	config *rest.Config
	// known are clients of API servers alone, by address: the administrator's.
	known map[string]kubernetes.Interface

	mu                            sync.Mutex
	accepted, refused, unanswered int
}

// startRequesting requests tokens until the function that it returns is called. No API server may refuse one.
func (k *selfManaged) startRequesting() (stop func()) {
	k.t.Helper()
	config, err := k.Config()
	k.Must(err)
	config.Timeout, config.QPS = 2*time.Second, -1
	r := &requester{any: kubernetes.NewForConfigOrDie(config), config: config, known: map[string]kubernetes.Interface{}}
	k.requester = r
	ctx, cancel := context.WithCancel(k.t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		for tick := time.NewTicker(500 * time.Millisecond); ctx.Err() == nil; <-tick.C {
			r.round(ctx)
		}
	})
	return func() {
		k.t.Helper()
		cancel()
		done.Wait()
		r.expectNoRefusals(k.t)
	}
}

// forgive has all refusals so far not count, and shows them.
func (r *requester) forgive(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("%d requested tokens were refused up to now", r.refused)
	r.refused = 0
}

func (r *requester) expectNoRefusals(t *testing.T) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	t.Logf("tokens that were requested: %d uses at single API servers, %d refused, %d unavailable",
		r.accepted+r.refused+r.unanswered, r.refused, r.unanswered)
	if r.refused > 0 || r.accepted == 0 {
		t.Errorf("%d requested tokens were refused, and %d accepted", r.refused, r.accepted)
	}
}

// round requests a token and uses it at each API server that Service kubernetes lists.
func (r *requester) round(ctx context.Context) {
	seconds := int64(600)
	issued, err := r.any.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	}, metav1.CreateOptions{})
	if err != nil {
		return
	}
	var uses sync.WaitGroup
	for _, address := range r.servers(ctx) {
		admin := r.known[address]
		uses.Go(func() { r.use(ctx, admin, r.configOf(address), issued.Status.Token) })
	}
	uses.Wait()
}

// servers returns the addresses of the API servers, and makes clients of those that are new.
func (r *requester) servers(ctx context.Context) (addresses []string) {
	slices, err := r.any.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=kubernetes",
	})
	if err != nil {
		return nil
	}
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			for _, ip := range e.Addresses {
				address := net.JoinHostPort(ip, "6443")
				if r.known[address] == nil {
					r.known[address] = kubernetes.NewForConfigOrDie(r.configOf(address))
				}
				addresses = append(addresses, address)
			}
		}
	}
	return addresses
}

// configOf reaches one API server alone, as the administrator.
func (r *requester) configOf(address string) *rest.Config {
	own := rest.CopyConfig(r.config)
	own.Host = fmt.Sprintf("https://%s", address)
	return own
}

// use uses a token at one API server. One that is not ready may refuse any token, so its word does not count.
func (r *requester) use(ctx context.Context, admin kubernetes.Interface, cfg *rest.Config, token string) {
	bearer := rest.AnonymousClientConfig(cfg)
	bearer.BearerToken = token
	_, err := kubernetes.NewForConfigOrDie(bearer).AuthenticationV1().SelfSubjectReviews().Create(ctx,
		&authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	refused := false
	if apierrors.IsUnauthorized(err) {
		status := 0
		admin.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).StatusCode(&status)
		refused = status == http.StatusOK
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case err == nil, apierrors.IsForbidden(err):
		r.accepted++
	case refused:
		r.refused++
	case ctx.Err() == nil:
		r.unanswered++
	}
}
