package controlplane

import (
	"errors"
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
	authenticationv1client "k8s.io/client-go/kubernetes/typed/authentication/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/kubeconfig"
)

const (
	// keepFor is how long an unused connection pool is kept. Making one takes a fraction of a millisecond; keeping a
	// thousand from one proof of a settled cluster to the next takes 9 MiB.
	keepFor = 2 * time.Minute
	// idleFor is how long an unused connection is kept. A new one takes two milliseconds; one that is kept is checked
	// every 30 s, by both ends.
	idleFor = 30 * time.Second
	// dialTimeout and handshakeTimeout limit connecting to an API server, whose packets may get lost.
	dialTimeout      = 3 * time.Second
	handshakeTimeout = 3 * time.Second
)

// Clients keeps the connections to user clusters: one pool for each cluster and credentials, which its API servers and
// load balancer share. No answer is longer than kubeconfig.MaxAnswer. The clients themselves are made when they are
// needed: a thousand clusters' worth of them would take more memory than everything else. The zero value is ready for
// use.
type Clients struct {
	mu sync.Mutex
	of map[types.UID]map[credentials]*kept
	// swept is when unused pools were last dropped.
	swept time.Time
	// now is the clock; nil: time.Now.
	now func() time.Time
}

// credentials identify what a connection is made with.
type credentials struct {
	name, bearer  string
	ca, cert, key string
}

type kept struct {
	client      *http.Client
	connections *http.Transport
	used        time.Time
}

// Get returns a client of a cluster that uses protobuf and has no client-side rate limit, since API servers have their
// own.
func (c *Clients) Get(cluster types.UID, cfg *rest.Config) (kubernetes.Interface, error) {
	cfg = Unlimited(cfg)
	connections, err := c.connections(cluster, cfg)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfigAndClient(cfg, connections)
	if err != nil {
		return nil, fmt.Errorf("making a client for %s: %w", cfg.Host, err)
	}
	return client, nil
}

// asker is the part of a client that a proof needs; making it takes a twentieth of the time.
type asker struct {
	cluster        types.UID
	core           corev1client.CoreV1Interface
	authentication authenticationv1client.AuthenticationV1Interface
}

func (c *Clients) asker(cluster types.UID, cfg *rest.Config) (a asker, err error) {
	cfg = Unlimited(cfg)
	connections, err := c.connections(cluster, cfg)
	if err != nil {
		return a, err
	}
	var authErr error
	a.cluster = cluster
	a.core, err = corev1client.NewForConfigAndClient(cfg, connections)
	a.authentication, authErr = authenticationv1client.NewForConfigAndClient(cfg, connections)
	if err = errors.Join(err, authErr); err != nil {
		return a, fmt.Errorf("making a client for %s: %w", cfg.Host, err)
	}
	return a, nil
}

// connections returns the connections of a cluster. A config that dials in its own way or gets its credentials
// elsewhere gets new ones each time.
func (c *Clients) connections(cluster types.UID, cfg *rest.Config) (*http.Client, error) {
	if !plain(cfg) {
		transport, err := rest.TransportFor(cfg)
		if err != nil {
			return nil, err
		}
		return &http.Client{Transport: kubeconfig.Bound(transport), Timeout: cfg.Timeout}, nil
	}
	by := credentials{
		name: cfg.ServerName, bearer: cfg.BearerToken,
		ca: string(cfg.CAData), cert: string(cfg.CertData), key: string(cfg.KeyData),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.clock()
	k, ok := c.of[cluster][by]
	if !ok {
		var err error
		if k, err = connect(cfg); err != nil {
			return nil, fmt.Errorf("connecting to %s: %w", cfg.Host, err)
		}
		c.keep(cluster, by, k)
	}
	k.used = now
	c.sweep(now)
	return k.client, nil
}

// keep keeps a new pool. The caller must hold mu.
func (c *Clients) keep(cluster types.UID, by credentials, k *kept) {
	if c.of == nil {
		c.of = map[types.UID]map[credentials]*kept{}
	}
	if c.of[cluster] == nil {
		c.of[cluster] = map[credentials]*kept{}
	}
	c.of[cluster][by] = k
}

func (c *Clients) clock() time.Time {
	if c.now == nil {
		return time.Now()
	}
	return c.now()
}

// sweep drops all pools that have not been used for a while. The caller must hold mu.
func (c *Clients) sweep(now time.Time) {
	if now.Sub(c.swept) < keepFor {
		return
	}
	c.swept = now
	for cluster, pools := range c.of {
		maps.DeleteFunc(pools, func(_ credentials, k *kept) bool { return now.Sub(k.used) > keepFor && k.close() })
		if len(pools) == 0 {
			delete(c.of, cluster)
		}
	}
}

// Forget drops the connections of a cluster, and closes them when they are no longer used.
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

// connect makes separate connections: client-go shares its connections between all clients with the same credentials,
// and nobody can close them.
func connect(cfg *rest.Config) (*kept, error) {
	tls, err := rest.TLSConfigFor(cfg)
	if err != nil {
		return nil, err
	}
	connections := utilnet.SetTransportDefaults(&http.Transport{
		TLSClientConfig: tls, TLSHandshakeTimeout: handshakeTimeout, DialContext: dialer.DialContext,
		MaxIdleConnsPerHost: 25, IdleConnTimeout: idleFor, DisableCompression: cfg.DisableCompression,
	})
	wrapped, err := rest.HTTPWrappersForConfig(cfg, connections)
	if err != nil {
		return nil, err
	}
	return &kept{client: &http.Client{Transport: kubeconfig.Bound(wrapped)}, connections: connections}, nil
}

// Unlimited returns a copy of a configuration for protobuf without client-side limits, so that only the API server's
// CPU limits it.
func Unlimited(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = -1, 0
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return cfg
}

var dialer = &net.Dialer{Timeout: dialTimeout, KeepAlive: idleFor}

// plain reports whether the credentials in the configuration are complete, so that connections can be shared by them.
func plain(cfg *rest.Config) bool {
	elsewhere := cfg.CAFile + cfg.CertFile + cfg.KeyFile + cfg.BearerTokenFile + cfg.Username + cfg.Impersonate.UserName
	return elsewhere == "" && !cfg.Insecure && cfg.ExecProvider == nil && cfg.AuthProvider == nil &&
		cfg.Transport == nil && cfg.WrapTransport == nil && cfg.Dial == nil && cfg.Proxy == nil
}
