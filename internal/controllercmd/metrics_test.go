package controllercmd

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestSecureMetrics wants /metrics to be for those only whom the admin cluster allows to get it.
func TestSecureMetrics(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	address := freeAddress(t)
	f, err := parse([]string{"--metrics-secure", "--leader-elect=false"}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := controller.NewManager(config, f.manager.managerOptions(address, ""))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- m.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})

	reader, stranger := kubetest.MetricsReader(t, config)
	for what, want := range map[string]struct {
		token  string
		status int
	}{
		"nobody": {"", http.StatusUnauthorized}, "a stranger": {stranger, http.StatusForbidden},
		"a reader": {reader, http.StatusOK},
	} {
		// A role may take a moment to be in force.
		last := 0
		err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 5*time.Minute, true,
			func(ctx context.Context) (bool, error) {
				last = getMetrics(ctx, address, want.token)
				return last == want.status, nil
			})
		if err != nil {
			t.Errorf("%s gets status %d, want %d", what, last, want.status)
		}
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

// getMetrics returns the status of the answer; 0 if there is none.
func getMetrics(ctx context.Context, address, token string) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/metrics", nil)
	if err != nil {
		return 0
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // nobody has signed its certificate
		DisableKeepAlives: true,
	}}
	response, err := client.Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}
