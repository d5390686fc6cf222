package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/signer/ledger"
)

// pingAfter is how long a connection may be silent before the client pings the server, and how long the answer may
// take.
const pingAfter = 15 * time.Second

// Client reaches the adapters of a Server. It is safe for concurrent use.
type Client struct {
	// endpoint has no slash at its end.
	endpoint string
	http     *http.Client
}

// NewClient returns a client of the server at an https URL. It connects when first needed.
func NewClient(endpoint string, c Credentials) (*Client, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" ||
		u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the endpoint must be a URL like https://10.88.0.6:9443")
	}
	if _, _, err := c.load(); err != nil {
		return nil, err
	}
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	return &Client{endpoint: "https://" + u.Host, http: &http.Client{
		Transport: &http.Transport{
			DialTLSContext: c.dial, Protocols: &protocols, IdleConnTimeout: 5 * time.Minute, DisableCompression: true,
			HTTP2: &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: pingAfter},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// ControlPlane returns the control plane of a cluster.
func (c *Client) ControlPlane(uc *v1alpha1.UserCluster) controlplane.Adapter {
	return controlPlane{c, bare(uc)}
}

// Machines returns the machines of a cluster.
func (c *Client) Machines(uc *v1alpha1.UserCluster) Machines { return machines{c, bare(uc)} }

// Check returns an error if the server cannot be called.
func (c *Client) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := c.get(ctx, healthPath)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// get opens a path, which must answer with 200.
func (c *Client) get(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.endpoint+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("%s%s answers with %s", c.endpoint, path, resp.Status), resp.Body.Close())
	}
	return resp, nil
}

// bare returns the cluster without fields that no adapter needs.
func bare(uc *v1alpha1.UserCluster) *v1alpha1.UserCluster {
	uc = uc.DeepCopy()
	uc.ManagedFields = nil
	return uc
}

// call calls a method for a cluster.
func (m method[A, R]) call(ctx context.Context, c *Client, uc *v1alpha1.UserCluster, args A) (result R, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := json.Marshal(request[A]{Cluster: uc, Args: args})
	if err != nil {
		return result, fmt.Errorf("encoding a call of %s: %w", m, err)
	}
	answer, err := c.post(ctx, m.path(), body, m.maxAnswer())
	if err != nil {
		return result, err
	}
	defer clear(answer)
	var r response[R]
	if err := decode(answer, &r); err != nil {
		return result, fmt.Errorf("reading the answer of %s%s: %w", c.endpoint, m.path(), err)
	}
	return r.Result, nil
}

// post sends a body, which it clears, and returns the answer, of at most limit bytes.
func (c *Client) post(ctx context.Context, path string, body []byte, limit int) ([]byte, error) {
	sent := &sentBody{rest: body, all: body}
	defer sent.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.endpoint+path, sent)
	if err != nil {
		return nil, err
	}
	req.ContentLength = int64(len(body))
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("reading the answer of %s%s: %w", c.endpoint, path, err)
	case len(answer) > limit:
		return nil, fmt.Errorf("reading the answer of %s%s: it is longer than %d bytes", c.endpoint, path, limit)
	case resp.StatusCode == http.StatusOK:
		return answer, nil
	}
	var f failure
	if err := decode(answer, &f); err != nil || f.Message == "" {
		return nil, fmt.Errorf("%s%s answers with %s", c.endpoint, path, resp.Status)
	}
	return nil, f.err()
}

// sentBody is a body that is cleared when it is closed, perhaps by one goroutine while another reads.
type sentBody struct {
	mu        sync.Mutex
	rest, all []byte
}

func (b *sentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := copy(p, b.rest)
	if b.rest = b.rest[n:]; n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (b *sentBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.all)
	b.rest = nil
	return nil
}

// controlPlane implements controlplane.Adapter for one cluster.
type controlPlane struct {
	client  *Client
	cluster *v1alpha1.UserCluster
}

func (p controlPlane) Observe(ctx context.Context) (controlplane.State, error) {
	return observe.call(ctx, p.client, p.cluster, none{})
}

func (p controlPlane) Converge(ctx context.Context, target controlplane.Target, keys []keystore.KeyPair) error {
	list, err := encodeKeys(keys)
	if err != nil {
		return fmt.Errorf("encoding the keys of cluster %s: %w", p.cluster.Name, err)
	}
	defer clearKeys(list)
	_, err = converge.call(ctx, p.client, p.cluster, convergeArgs{Target: target, Keys: list})
	return err
}

func (p controlPlane) Config(ctx context.Context, server string) (*rest.Config, error) {
	a, err := config.call(ctx, p.client, p.cluster, server)
	if err != nil {
		return nil, err
	}
	return a.restConfig(), nil
}

func (p controlPlane) AdminKubeconfig(ctx context.Context) ([]byte, error) {
	return adminKubeconfig.call(ctx, p.client, p.cluster, none{})
}

func (p controlPlane) Delete(ctx context.Context) (gone bool, err error) {
	return deletePlane.call(ctx, p.client, p.cluster, none{})
}

func (p controlPlane) Ledger(ctx context.Context, server string) (ledger.Report, error) {
	return ledgerOf.call(ctx, p.client, p.cluster, server)
}

// machines implements Machines for one cluster.
type machines struct {
	client  *Client
	cluster *v1alpha1.UserCluster
}

func (m machines) List(ctx context.Context) ([]nodes.Machine, error) {
	return listMachines.call(ctx, m.client, m.cluster, none{})
}

func (m machines) Ensure(ctx context.Context, want nodes.Machine, pool v1alpha1.NodePool) error {
	_, err := ensureMachine.call(ctx, m.client, m.cluster, ensureArgs{Machine: want, Pool: pool})
	return err
}

func (m machines) Remove(ctx context.Context, name string) (gone bool, err error) {
	return removeMachine.call(ctx, m.client, m.cluster, name)
}

func (m machines) Remember(ctx context.Context, of nodes.Machine) error {
	_, err := remember.call(ctx, m.client, m.cluster, of)
	return err
}

func (m machines) RestartKubelet(ctx context.Context, name string) error {
	_, err := restartKubelet.call(ctx, m.client, m.cluster, name)
	return err
}

func (m machines) Tokens(ctx context.Context, name string, files []nodes.TokenFile) ([]nodes.Token, error) {
	return readTokens.call(ctx, m.client, m.cluster, tokensArgs{Machine: name, Files: files})
}
