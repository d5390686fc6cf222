package controller_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
)

// TestHealthEndpoints asks for the health of a manager over HTTP, while a round of its controller does not return and
// afterwards: Kubernetes takes it from /readyz whether the controller works, and from /healthz whether to restart it.
func TestHealthEndpoints(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	var ahead atomic.Int64
	w.reconciler.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	var released atomic.Bool
	g := w.gate(func(*v1alpha1.UserCluster) bool { return !released.Load() })
	address := freeAddress(t)
	defer w.manageAt(address)()
	within(t, "a round of "+blue.String()+" begins", g.entered)
	wantHealth := func(when string, status int) {
		t.Helper()
		for _, path := range []string{"/readyz", "/healthz"} {
			err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, electionPatience, true,
				func(ctx context.Context) (bool, error) { return statusOf(ctx, "http://"+address+path) == status, nil })
			if err != nil {
				t.Errorf("%s, %s never answers %d", when, path, status)
			}
		}
	}
	wantHealth("while a round runs", http.StatusOK)
	ahead.Store(int64(4 * controller.DefaultRoundTimeout))
	wantHealth("after four timeouts", http.StatusInternalServerError)
	released.Store(true)
	close(g.release)
	wantHealth("after it returned", http.StatusOK)
}

// statusOf returns the status of an answer; 0 if there is none.
func statusOf(ctx context.Context, url string) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return fmt.Sprint(l.Addr())
}
