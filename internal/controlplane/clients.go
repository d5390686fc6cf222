package controlplane

import (
	"maps"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// keepFor is how long a client is kept that nobody uses. Settled clusters are proven more often.
const keepFor = time.Hour

// clients keeps one client for each API server and credentials, with its connections.
type clients struct {
	mu sync.Mutex
	of map[access]*kept
}

// access is an API server and the credentials for it.
type access struct {
	host, name, bearer string
	ca, cert, key      string
}

type kept struct {
	client kubernetes.Interface
	used   time.Time
}

// get returns a client for cfg. A cfg that dials in its own way or gets its credentials elsewhere gets a new client.
func (c *clients) get(cfg *rest.Config) (kubernetes.Interface, error) {
	if !plain(cfg) {
		return kubernetes.NewForConfig(cfg)
	}
	of := access{
		host: cfg.Host, name: cfg.ServerName, bearer: cfg.BearerToken,
		ca: string(cfg.CAData), cert: string(cfg.CertData), key: string(cfg.KeyData),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if k, ok := c.of[of]; ok {
		k.used = now
		return k.client, nil
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(c.of, func(_ access, k *kept) bool { return now.Sub(k.used) > keepFor })
	if c.of == nil {
		c.of = map[access]*kept{}
	}
	c.of[of] = &kept{client: client, used: now}
	return client, nil
}

// plain reports whether access tells all there is to reaching an API server.
func plain(cfg *rest.Config) bool {
	elsewhere := cfg.CAFile + cfg.CertFile + cfg.KeyFile + cfg.BearerTokenFile + cfg.Username + cfg.Impersonate.UserName
	return elsewhere == "" && !cfg.Insecure && cfg.ExecProvider == nil && cfg.AuthProvider == nil &&
		cfg.Transport == nil && cfg.WrapTransport == nil && cfg.Dial == nil && cfg.Proxy == nil
}
