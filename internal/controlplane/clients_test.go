package controlplane

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/transport"

	"github.com/keyturn/keyturn/internal/kubeconfig"
)

// mustGet returns what the clients of a configuration share.
func (c *Clients) mustGet(t *testing.T, cfg rest.Config) *http.Client {
	t.Helper()
	connections, err := c.connections("cluster", &cfg)
	if err != nil {
		t.Fatal(err)
	}
	return connections
}

func TestClientsAreKept(t *testing.T) {
	var c Clients
	old, renewed, key := certificates(t)
	plain := rest.Config{
		Host: "https://one.test", BearerToken: "a",
		TLSClientConfig: rest.TLSClientConfig{CAData: old, CertData: old, KeyData: key},
	}
	first := c.mustGet(t, plain)
	elsewhere := plain
	elsewhere.Host = "https://two.test"
	if c.mustGet(t, plain) != first || c.mustGet(t, elsewhere) != first {
		t.Error("the same credentials got other connections")
	}
	for name, change := range map[string]func(*rest.Config){
		"name":  func(cfg *rest.Config) { cfg.ServerName = "two" },
		"token": func(cfg *rest.Config) { cfg.BearerToken = "b" },
		"CA":    func(cfg *rest.Config) { cfg.CAData = renewed },
		"cert":  func(cfg *rest.Config) { cfg.CertData = renewed },
	} {
		other := plain
		change(&other)
		if client := c.mustGet(t, other); client == first || c.mustGet(t, other) != client {
			t.Errorf("another %s: got the connections of other credentials, or ones that are not kept", name)
		}
	}
	if c.mustGet(t, plain) != first {
		t.Error("connections in use were dropped")
	}
	if other, err := c.connections("another", &plain); err != nil || other == first {
		t.Errorf("another cluster got the connections of this one, or an error: %v", err)
	}
	for what, bad := range map[string]*rest.Config{
		"a host": {Host: "://"},
		"a CA":   {Host: "https://one.test", TLSClientConfig: rest.TLSClientConfig{CAData: []byte("none")}},
	} {
		client, getErr := c.Get("cluster", bad)
		_, askErr := c.asker("cluster", bad)
		if getErr == nil || askErr == nil || client != nil || !strings.Contains(getErr.Error(), bad.Host) {
			t.Errorf("%s that is none: %v, %v, %v", what, client, getErr, askErr)
		}
	}
}

// TestAnswersAreBounded has a way that is kept and one that is not.
func TestAnswersAreBounded(t *testing.T) {
	var c Clients
	for what, cfg := range map[string]rest.Config{
		"kept":     {Host: "https://one.test"},
		"not kept": {Host: "https://one.test", TLSClientConfig: rest.TLSClientConfig{Insecure: true}},
	} {
		transport := c.mustGet(t, cfg).Transport
		if reflect.TypeOf(transport) != reflect.TypeOf(kubeconfig.Bound(nil)) {
			t.Errorf("%s: the transport is a %T", what, transport)
		}
	}
}

// TestNewClientIsKept gets another client right after one that was used once.
func TestNewClientIsKept(t *testing.T) {
	var c Clients
	one := rest.Config{Host: "https://one.test"}
	client := c.mustGet(t, one)
	c.mustGet(t, rest.Config{Host: "https://one.test", BearerToken: "another"})
	if c.mustGet(t, one) != client {
		t.Error("a new client was dropped")
	}
}

// certificates returns two certificates of one key, as a renewal makes them, and the key.
func certificates(t *testing.T) (old, renewed, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	sign := func(serial int64) []byte {
		of := &x509.Certificate{SerialNumber: big.NewInt(serial)}
		der, err := x509.CreateCertificate(rand.Reader, of, of, private.Public(), private)
		return encode("CERTIFICATE", der, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	return sign(1), sign(2), encode("PRIVATE KEY", der, err)
}

// TestClientsNotKept has ways to an API server that cannot be compared.
func TestClientsNotKept(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*rest.Config){
		"dial": func(cfg *rest.Config) {
			cfg.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("unused") }
		},
		"transport": func(cfg *rest.Config) { cfg.Transport = http.DefaultTransport },
		"wrapped": func(cfg *rest.Config) {
			cfg.WrapTransport = transport.WrapperFunc(func(r http.RoundTripper) http.RoundTripper { return r })
		},
		"proxy":      func(cfg *rest.Config) { cfg.Proxy = http.ProxyFromEnvironment },
		"user":       func(cfg *rest.Config) { cfg.Username = "a" },
		"as":         func(cfg *rest.Config) { cfg.Impersonate.UserName = "a" },
		"insecure":   func(cfg *rest.Config) { cfg.Insecure = true },
		"token file": func(cfg *rest.Config) { cfg.BearerTokenFile = file },
		"plugin": func(cfg *rest.Config) {
			cfg.ExecProvider = &clientcmdapi.ExecConfig{
				Command: "true", APIVersion: "client.authentication.k8s.io/v1", InteractiveMode: "Never",
			}
		},
	} {
		var c Clients
		cfg := rest.Config{Host: "https://one.test"}
		change(&cfg)
		if c.mustGet(t, cfg); len(c.of) > 0 {
			t.Errorf("%s: its connections are kept", name)
		}
	}
	if plain(&rest.Config{AuthProvider: &clientcmdapi.AuthProviderConfig{Name: "none"}}) {
		t.Error("an auth provider: its client is kept")
	}
}

func TestClientsThatNobodyUsesAreDropped(t *testing.T) {
	var c Clients
	by := func(bearer string) rest.Config { return rest.Config{Host: "https://one.test", BearerToken: bearer} }
	c.mustGet(t, by("old"))
	c.mustGet(t, by("used"))
	c.now = func() time.Time { return time.Now().Add(keepFor + time.Minute) }
	used := c.mustGet(t, by("used"))
	c.mustGet(t, by("new"))
	if len(c.of["cluster"]) != 2 || c.mustGet(t, by("used")) != used {
		t.Errorf("%d clients are kept, want that in use and the new one", len(c.of["cluster"]))
	}
}

// TestUnusedPoolsAreDropped has two clusters, of which one is used again and again. The other's connections are not
// kept.
func TestUnusedPoolsAreDropped(t *testing.T) {
	now := time.Now()
	c := &Clients{now: func() time.Time { return now }}
	use := func(cluster types.UID) any {
		t.Helper()
		client, err := c.connections(cluster, &rest.Config{Host: "https://127.0.0.1:1"})
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	busy := use("busy")
	use("settled")
	for range 4 {
		now = now.Add(keepFor * 3 / 4)
		if use("busy") != busy {
			t.Fatal("connections that are used are made again")
		}
	}
	if _, kept := c.of["settled"]; kept {
		t.Errorf("connections are kept that nobody has used for %s", 3*keepFor)
	}
}

// serve starts a server that sends its name to closed each time that a connection to it ends, and returns how to reach
// it.
func serve(t *testing.T, name string, closed chan<- string) *rest.Config {
	t.Helper()
	server := httptest.NewUnstartedServer(http.NotFoundHandler())
	server.EnableHTTP2 = true
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- name
		}
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	return &rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{CAData: ca}}
}

// use gets a client of a cluster and asks with it.
func (c *Clients) use(t *testing.T, cluster types.UID, cfg *rest.Config) {
	t.Helper()
	client, err := c.Get(cluster, cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range c.of[cluster] {
		k.connections.IdleConnTimeout = 0 // so that nothing else closes them
	}
	if _, err := client.Discovery().ServerVersion(); !apierrors.IsNotFound(err) {
		t.Fatalf("asking the server: %v", err)
	}
}

// TestForget wants a cluster that is gone to leave no connection behind, and the others to keep theirs.
func TestForget(t *testing.T) {
	closed := make(chan string, 10)
	var p Prover
	c := &p.Clients
	c.use(t, "stays", serve(t, "stays", closed))
	c.use(t, "goes", serve(t, "goes", closed))
	p.Forget("goes")
	if len(c.of) != 1 {
		t.Fatalf("clients of %d clusters are kept", len(c.of))
	}
	if cluster := <-closed; cluster != "goes" {
		t.Errorf("a connection of %q was closed", cluster)
	}
	p.Forget("never known")
}

// TestDroppedClientLeavesNoConnection has a client that nobody has used for long, in a cluster that others are used of.
func TestDroppedClientLeavesNoConnection(t *testing.T) {
	closed := make(chan string, 10)
	var c Clients
	c.use(t, "cluster", serve(t, "old", closed))
	c.now = func() time.Time { return time.Now().Add(keepFor + time.Minute) }
	other := serve(t, "new", closed)
	other.BearerToken = "another"
	c.use(t, "cluster", other)
	if name := <-closed; name != "old" {
		t.Errorf("a connection of the %s client was closed", name)
	}
}

func TestUnlimited(t *testing.T) {
	cfg := &rest.Config{Host: "https://one.test", QPS: 5, Burst: 10}
	got := Unlimited(cfg)
	protobuf := strings.Contains(got.ContentType, "protobuf") &&
		strings.HasPrefix(got.AcceptContentTypes, got.ContentType+",")
	if got.QPS != -1 || got.Burst != 0 || got.Host != cfg.Host || !protobuf {
		t.Errorf("got %+v", got)
	}
	if cfg.QPS != 5 || cfg.Burst != 10 || cfg.ContentType != "" {
		t.Errorf("the original was changed: %+v", cfg)
	}
}
