package remote_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/remote"
	"github.com/keyturn/keyturn/internal/remote/remotetest"
)

// listening starts a server of an authority and returns its URL.
func listening(t *testing.T, a remotetest.Authority, s *remote.Server) string {
	t.Helper()
	s.Credentials = a.Server()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remotetest.Start(t, s, l))
	return "https://" + l.Addr().String()
}

func observing() *remote.Server {
	return serving(plane{observe: func(context.Context) (state controlplane.State, err error) { return state, nil }})
}

func TestWhoMayCall(t *testing.T) {
	ours, theirs := remotetest.NewAuthority(t), remotetest.NewAuthority(t)
	at := listening(t, ours, observing())
	mixed := func(own, trusted remote.Credentials) remote.Credentials {
		own.CA = trusted.CA
		return own
	}
	for name, c := range map[string]struct {
		credentials remote.Credentials
		ok          bool
	}{
		"ours":                               {ours.Client(), true},
		"a client of another authority":      {mixed(theirs.Client(), ours.Client()), false},
		"a client that trusts another one":   {mixed(ours.Client(), theirs.Client()), false},
		"the certificate of a server":        {ours.Server(), false},
		"a client of another that trusts it": {theirs.Client(), false},
	} {
		t.Run(name, func(t *testing.T) {
			client, err := remote.NewClient(at, c.credentials)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := client.ControlPlane(cluster()).Observe(t.Context()); (err == nil) != c.ok {
				t.Errorf("got %v", err)
			}
		})
	}
}

// plainClient is a client of the server's authority, made of nothing but the standard library.
func plainClient(t *testing.T, c remote.Credentials, certificates ...tls.Certificate) *http.Client {
	t.Helper()
	raw, err := os.ReadFile(c.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(raw)
	return &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: pool, Certificates: certificates,
	}}}
}

func TestNoClientCertificate(t *testing.T) {
	a := remotetest.NewAuthority(t)
	at := listening(t, a, observing())
	for _, path := range []string{"/healthz", "/v1/wakes", "/v1/controlplane/observe"} {
		resp, err := plainClient(t, a.Client()).Get(at + path)
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s answers with %s", path, resp.Status)
		}
	}
}

func TestOldTLS(t *testing.T) {
	a := remotetest.NewAuthority(t)
	at := listening(t, a, observing())
	conn, err := tls.Dial("tcp", strings.TrimPrefix(at, "https://"), &tls.Config{
		MaxVersion: tls.VersionTLS12, InsecureSkipVerify: true,
	})
	if err == nil {
		conn.Close()
		t.Error("TLS 1.2 is spoken")
	}
}

// TestRequestsThatAreNone sends requests that no client of ours sends.
func TestRequestsThatAreNone(t *testing.T) {
	a := remotetest.NewAuthority(t)
	at := listening(t, a, observing())
	credentials := a.Client()
	pair, err := tls.LoadX509KeyPair(credentials.Cert, credentials.Key)
	if err != nil {
		t.Fatal(err)
	}
	client := plainClient(t, credentials, pair)
	const named = `{"cluster":{"metadata":{"namespace":"a","name":"b","uid":"c"}},"args":{}}`
	for name, c := range map[string]struct {
		method, path string
		body         io.Reader
		status       int
	}{
		"good":           {"POST", "observe", strings.NewReader(named), 200},
		"unknown method": {"POST", "destroy", strings.NewReader(named), 404},
		"other verb":     {"GET", "observe", nil, 405},
		"nothing":        {"POST", "observe", strings.NewReader(""), 400},
		"no cluster":     {"POST", "observe", strings.NewReader(`{"args":{}}`), 400},
		"no JSON":        {"POST", "observe", strings.NewReader("cluster"), 400},
		"unknown field":  {"POST", "observe", strings.NewReader(`{"force":true,` + named[1:]), 400},
		"unknown in spec": {
			"POST", "observe", strings.NewReader(strings.Replace(named, "}},", `},"spec":{"a":1}},`, 1)), 400,
		},
		"twice a field":   {"POST", "observe", strings.NewReader(`{"args":{},` + named[1:]), 400},
		"in other case":   {"POST", "observe", strings.NewReader(strings.Replace(named, "cluster", "Cluster", 1)), 400},
		"something after": {"POST", "observe", strings.NewReader(named + "{}"), 400},
		"too long":        {"POST", "observe", strings.NewReader(strings.Repeat(" ", 4<<20) + named), 413},
		"of no length":    {"POST", "observe", io.MultiReader(strings.NewReader(named)), 411},
	} {
		t.Run(name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, at+"/v1/controlplane/"+c.path, c.body)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != c.status {
				body, _ := io.ReadAll(resp.Body)
				t.Errorf("status %d, want %d: %s", resp.StatusCode, c.status, body)
			}
		})
	}
}

func TestBodyTooLong(t *testing.T) {
	c := remotetest.Serve(t, observing())
	uc := cluster()
	uc.Annotations = map[string]string{"example.com/long": strings.Repeat("a", 4<<20)}
	if _, err := c.ControlPlane(uc).Observe(t.Context()); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
	if _, err := c.ControlPlane(cluster()).Observe(t.Context()); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

func TestAnswerTooLong(t *testing.T) {
	c := remotetest.Serve(t, serving(plane{observe: func(context.Context) (controlplane.State, error) {
		return controlplane.State{Waiting: strings.Repeat("a", 4<<20)}, nil
	}}))
	if _, err := c.ControlPlane(cluster()).Observe(t.Context()); err == nil ||
		!strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}

// TestRenewedCertificates replaces the files of a server that runs by those of another authority.
func TestRenewedCertificates(t *testing.T) {
	before, after := remotetest.NewAuthority(t), remotetest.NewAuthority(t)
	s := observing()
	at := listening(t, before, s)
	renewed := after.Server()
	for from, to := range map[string]string{
		renewed.Cert: s.Credentials.Cert, renewed.Key: s.Credentials.Key, renewed.CA: s.Credentials.CA,
	} {
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		of remotetest.Authority
		ok bool
	}{{before, false}, {after, true}} {
		client, err := remote.NewClient(at, c.of.Client())
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Check(t.Context()); (err == nil) != c.ok {
			t.Errorf("a client of the authority in use now: %t: %v", c.ok, err)
		}
	}
}

func TestNewClientRefuses(t *testing.T) {
	good := remotetest.NewAuthority(t).Client()
	for _, at := range []string{
		"", "host", "http://host", "https://", "https://a@host", "https://host/path", "https://host?a=b", "https://host#a",
	} {
		if _, err := remote.NewClient(at, good); err == nil {
			t.Errorf("%q is taken", at)
		}
	}
	missing := good
	missing.Key += ".none"
	empty := good
	empty.CA = os.DevNull
	for _, c := range []remote.Credentials{missing, empty} {
		if _, err := remote.NewClient("https://host", c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

// TestServeEndsWithItsCalls has a call that goes on for a while after it was cancelled.
func TestServeEndsWithItsCalls(t *testing.T) {
	a := remotetest.NewAuthority(t)
	began, cancelled, may := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s := serving(plane{observe: func(ctx context.Context) (state controlplane.State, err error) {
		close(began)
		<-ctx.Done()
		close(cancelled)
		<-may
		return state, ctx.Err()
	}})
	s.Credentials = a.Server()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stop, ended := remotetest.Start(t, s, l), make(chan struct{})
	c, err := remote.NewClient("https://"+l.Addr().String(), a.Client())
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = c.ControlPlane(cluster()).Observe(context.WithoutCancel(t.Context())) }()
	<-began
	go func() {
		stop()
		close(ended)
	}()
	<-cancelled
	select {
	case <-ended:
		t.Error("the server has ended, and a call still runs")
	case <-time.After(200 * time.Millisecond): // a server that ends too early does so at once
	}
	close(may)
	<-ended
}

// TestWakes has a stream that is lost: the client opens another.
func TestWakes(t *testing.T) {
	a := remotetest.NewAuthority(t)
	watches := make(chan func(context.Context, types.NamespacedName), 2)
	lost := make(chan error)
	s := &remote.Server{
		Credentials: a.Server(),
		Watch: func(ctx context.Context, wake func(context.Context, types.NamespacedName)) error {
			watches <- wake
			select {
			case err := <-lost:
				return err
			case <-ctx.Done():
				return nil
			}
		},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(remotetest.Start(t, s, l))
	c, err := remote.NewClient("https://"+l.Addr().String(), a.Client())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	woken, ended := make(chan types.NamespacedName), make(chan struct{})
	go func() {
		defer close(ended)
		c.Wakes(ctx, func(_ context.Context, name types.NamespacedName) { woken <- name })
	}()
	for _, name := range []string{"blue", "green"} {
		wake := <-watches
		want := types.NamespacedName{Namespace: "test", Name: name}
		wake(ctx, want)
		if got := <-woken; got != want {
			t.Errorf("woken for %s, want %s", got, want)
		}
		if name == "blue" {
			lost <- errors.New("lost")
		}
	}
	cancel()
	<-ended
}

// TestCallsAreCounted wants calls by method and status code, and of each method how long they took.
func TestCallsAreCounted(t *testing.T) {
	registry := prometheus.NewRegistry()
	calls := 0
	server := serving(plane{observe: func(context.Context) (state controlplane.State, err error) {
		if calls++; calls > 2 {
			err = errors.New("it cannot be read")
		}
		return state, err
	}})
	server.Metrics = registry
	a := remotetest.NewAuthority(t)
	client, err := remote.NewClient(listening(t, a, server), a.Client())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := client.ControlPlane(cluster()).Observe(t.Context()); (err == nil) != (i < 2) {
			t.Fatal(err)
		}
	}
	want := []string{
		"keyturn_local_request_duration_seconds[controlplane/observe] 3",
		"keyturn_local_requests_total[200 controlplane/observe] 2",
		"keyturn_local_requests_total[422 controlplane/observe] 1",
	}
	// A call is counted once its answer was given.
	var got []string
	err = wait.PollUntilContextTimeout(t.Context(), time.Millisecond, time.Minute, true,
		func(context.Context) (bool, error) {
			got, err = gathered(registry)
			return slices.Equal(got, want), err
		})
	if err != nil {
		t.Errorf("the metrics are %q, want %q: %v", got, want, err)
	}
}

// gathered returns each metric as its name, the values of its labels, and its count.
func gathered(from prometheus.Gatherer) (all []string, err error) {
	families, err := from.Gather()
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetValue())
			}
			count := m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			all = append(all, fmt.Sprint(f.GetName(), labels, count))
		}
	}
	return all, err
}
