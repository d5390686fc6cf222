package controlplane

import (
	"fmt"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// keepFor is how long a client is kept that nobody uses.
	keepFor = time.Hour
	// idleFor is how long a connection is kept that nobody uses. A new one takes two milliseconds; one that is kept is
	// checked every 30 s, by both ends.
	idleFor = 30 * time.Second
	// dialTimeout and handshakeTimeout bound the way to an API server, whose packets may get lost.
	dialTimeout      = 3 * time.Second
	handshakeTimeout = 3 * time.Second
)

// Clients keeps the clients of user clusters, with their connections: one for each API server or load balancer of a
// cluster, and credentials for it. Its zero value is ready for use.
type Clients struct {
	mu sync.Mutex
	of map[types.UID]map[access]*kept
}

// access is an API server and the credentials for it.
type access struct {
	host, name, bearer string
	ca, cert, key      string
}

type kept struct {
	client      kubernetes.Interface
	connections *http.Transport
	used        time.Time
}

// Get returns a client of a cluster: in protobuf, and without client-side limits, since API servers have their own. A
// config that dials in its own way or gets its credentials elsewhere gets a new client each time.
func (c *Clients) Get(cluster types.UID, cfg *rest.Config) (kubernetes.Interface, error) {
	if !plain(cfg) {
		return kubernetes.NewForConfig(Unlimited(cfg))
	}
	of := access{
		host: cfg.Host, name: cfg.ServerName, bearer: cfg.BearerToken,
		ca: string(cfg.CAData), cert: string(cfg.CertData), key: string(cfg.KeyData),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if k, ok := c.of[cluster][of]; ok {
		k.used = now
		return k.client, nil
	}
	client, connections, err := connect(Unlimited(cfg))
	if err != nil {
		return nil, fmt.Errorf("making a client for %s: %w", cfg.Host, err)
	}
	maps.DeleteFunc(c.of[cluster], func(_ access, k *kept) bool { return now.Sub(k.used) > keepFor && k.close() })
	if c.of == nil {
		c.of = map[types.UID]map[access]*kept{}
	}
	if c.of[cluster] == nil {
		c.of[cluster] = map[access]*kept{}
	}
	c.of[cluster][of] = &kept{client: client, connections: connections, used: now}
	return client, nil
}

// Forget drops the clients of a cluster, and closes their connections once what uses them has ended.
func (c *Clients) Forget(cluster types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.of[cluster] {
		k.close()
	}
	delete(c.of, cluster)
}

func (k *kept) close() bool {
	k.connections.CloseIdleConnections()
	return true
}

// connect makes a client with connections of its own: those of client-go are shared by all clients of the same
// credentials, and nobody can close them.
func connect(cfg *rest.Config) (kubernetes.Interface, *http.Transport, error) {
	tls, err := rest.TLSConfigFor(cfg)
	if err != nil {
		return nil, nil, err
	}
	connections := utilnet.SetTransportDefaults(&http.Transport{
		TLSClientConfig: tls, TLSHandshakeTimeout: handshakeTimeout, DialContext: dialer.DialContext,
		MaxIdleConnsPerHost: 25, IdleConnTimeout: idleFor, DisableCompression: cfg.DisableCompression,
	})
	wrapped, err := rest.HTTPWrappersForConfig(cfg, connections)
	if err != nil {
		return nil, nil, err
	}
	client, err := kubernetes.NewForConfigAndClient(cfg, &http.Client{Transport: wrapped})
	return client, connections, err
}

// Unlimited returns a copy of a configuration without client limits and in protobuf: what the API server's CPU can
// do is then the only limit.
func Unlimited(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = -1, 0
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return cfg
}

var dialer = &net.Dialer{Timeout: dialTimeout, KeepAlive: idleFor}

// plain reports whether access tells all there is to reaching an API server.
func plain(cfg *rest.Config) bool {
	elsewhere := cfg.CAFile + cfg.CertFile + cfg.KeyFile + cfg.BearerTokenFile + cfg.Username + cfg.Impersonate.UserName
	return elsewhere == "" && !cfg.Insecure && cfg.ExecProvider == nil && cfg.AuthProvider == nil &&
		cfg.Transport == nil && cfg.WrapTransport == nil && cfg.Dial == nil && cfg.Proxy == nil
}
