package localcmd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/cert"

	"github.com/keyturn/keyturn/internal/kubetest"
)

func TestMetricsFlags(t *testing.T) {
	for args, says := range map[string]string{
		"--metrics-bind-address=127.0.0.1:8080":                                      "",
		"--metrics-bind-address=[::1]:8080":                                          "",
		"--metrics-bind-address=10.0.0.1:8080 --metrics-secure":                      "",
		"--metrics-bind-address=10.0.0.1:8080 --metrics-secure --metrics-cert-dir=d": "",
		"--metrics-bind-address=10.0.0.1:8080":                                       "needs --metrics-secure",
		"--metrics-bind-address=:8080":                                               "is not an address with a port",
		"--metrics-bind-address=127.0.0.1:8080 --metrics-cert-dir=d":                 "-cert-dir needs",
	} {
		_, err := parse(append([]string{"--data-dir=d"}, strings.Fields(args)...), &bytes.Buffer{})
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want %q", args, err, says)
		}
	}
}

// serving has metrics served, and returns the address.
func serving(t *testing.T, s metricsServer) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.registry, s.log = newRegistry(), slog.New(slog.DiscardHandler)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// get returns the status and the body of an answer.
func get(ctx context.Context, url, token string, trusted *tls.Config) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/metrics", nil)
	if err != nil {
		return 0, "", err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusted, DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

func TestMetricsOnLoopback(t *testing.T) {
	status, body, err := get(t.Context(), "http://"+serving(t, metricsServer{}), "", nil)
	for _, name := range []string{"\ngo_goroutines ", "\nprocess_resident_memory_bytes "} {
		if err != nil || status != http.StatusOK || !strings.Contains(body, name) {
			t.Errorf("no metric %q: status %d, %v:\n%s", name, status, err, body)
		}
	}
}

// TestSecureMetrics wants metrics that are served by TLS to be for those only whom the admin cluster allows to get
// them.
func TestSecureMetrics(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	certs, trusted := certificates(t)
	known := metricsServer{
		metricsFlags: metricsFlags{secure: true, certs: certs}, admin: func() (*rest.Config, error) { return config, nil },
	}
	missing := known
	missing.admin = func() (*rest.Config, error) { return nil, errors.New("there is no admin cluster yet") }
	reader, stranger := kubetest.MetricsReader(t, config)
	at, without := serving(t, known), serving(t, missing)
	for what, c := range map[string]struct {
		address, token string
		status         int
	}{
		"nobody":                   {at, "", http.StatusUnauthorized},
		"a forged token":           {at, "e30.e30.e30", http.StatusUnauthorized},
		"a stranger":               {at, stranger, http.StatusForbidden},
		"a reader":                 {at, reader, http.StatusOK},
		"without an admin cluster": {without, reader, http.StatusServiceUnavailable},
	} {
		// A role may take a moment to be in force.
		var last int
		err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 5*time.Minute, true,
			func(ctx context.Context) (_ bool, err error) {
				last, _, err = get(ctx, "https://"+c.address, c.token, trusted)
				return last == c.status, err
			})
		if err != nil {
			t.Errorf("%s gets status %d, want %d: %v", what, last, c.status, err)
		}
	}
}

// certificates returns a directory with a certificate, and what trusts it.
func certificates(t *testing.T) (dir string, trusted *tls.Config) {
	t.Helper()
	crt, key, err := cert.GenerateSelfSignedCertKey("127.0.0.1", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	for name, data := range map[string][]byte{"tls.crt": crt, "tls.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trusted = &tls.Config{RootCAs: x509.NewCertPool()}
	trusted.RootCAs.AppendCertsFromPEM(crt)
	return dir, trusted
}

// TestMetricsWaitForTheirAddress has another program listen where metrics are to be served. They are served once it
// ends.
func TestMetricsWaitForTheirAddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := make(chan struct{}, 1)
	s := metricsServer{
		metricsFlags: metricsFlags{address: taken.Addr().String()}, registry: newRegistry(),
		log: slog.New(slog.NewTextHandler(signalling{refused}, nil)),
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); s.keep(ctx) }()
	defer func() { cancel(); <-ended }()
	select {
	case <-refused:
	case <-time.After(5 * time.Minute):
		t.Fatal("nobody is told that the address is taken")
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	err = wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, 5*time.Minute, true,
		func(ctx context.Context) (bool, error) {
			status, _, _ := get(ctx, "http://"+s.address, "", nil)
			return status == http.StatusOK, nil
		})
	if err != nil {
		t.Error("metrics are not served once their address is free")
	}
}

// signalling is a log that signals each line.
type signalling struct{ line chan<- struct{} }

func (s signalling) Write(p []byte) (int, error) {
	select {
	case s.line <- struct{}{}:
	default:
	}
	return len(p), nil
}
