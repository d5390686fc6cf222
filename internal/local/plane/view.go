package plane

import (
	"github.com/keyturn/keyturn/internal/hint"

	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/local/components"
)

// HealthTimeout limits one check of one process.
const HealthTimeout = 700 * time.Millisecond

// view is one observation of a control plane.
type view struct {
	servers  []serverView
	managers []managerView
	// balancing means that the load balancer answers.
	balancing bool
	// waiting names what else does not run.
	waiting []string
}

type serverView struct {
	controlplane.Server
	life
	// healthy means that /readyz is ok, and balanced that the load balancer sends it new connections.
	healthy, balanced bool
	// signerDown means that its signer does not run: it still accepts tokens, but issues none.
	signerDown bool
	// held are the key versions whose private key is on its disk.
	held []int
	// unrecorded means that its configured.json is missing while it runs: Configured is what it was started with.
	unrecorded bool
}

type managerView struct {
	controlplane.ControllerManager
	life
	held []int
	// unrecorded is as in serverView.
	unrecorded bool
}

// anyHealthy reports whether some API server is usable.
func (v view) anyHealthy() bool {
	for _, s := range v.servers {
		if s.healthy && !s.stopping {
			return true
		}
	}
	return false
}

// look observes the whole control plane, each process separately.
func (p *Plane) look(ctx context.Context) (view, error) {
	var v view
	balanced, balancer := p.lb.serverStates(ctx)
	v.balancing = balancer == nil
	for i := range p.Replicas {
		s, err := p.lookAtServer(i)
		if err != nil {
			return view{}, err
		}
		s.balanced = balanced[s.Name]
		v.servers = append(v.servers, s)
	}
	for i := range p.Secondaries() {
		m, err := p.lookAtManager(i)
		if err != nil {
			return view{}, err
		}
		v.managers = append(v.managers, m)
	}
	if err := p.checkRecords(v); err != nil {
		return view{}, err
	}
	v.waiting = p.others(balancer)
	return v, p.lookAtHealth(ctx, &v)
}

// checkRecords refuses a view of API servers that have run if none of them has its configured.json or runs: the
// progress of the cluster's rotations is then unknown.
func (p *Plane) checkRecords(v view) error {
	if slices.ContainsFunc(v.servers, func(s serverView) bool { return !s.Configured.IsZero() }) {
		return nil
	}
	begun, err := p.begun()
	if err != nil || !begun {
		return err
	}
	return hint.Errorf("restore it",
		"API servers have run, and configured.json is missing from %s", p.APIServerKeys(0).Dir)
}

// refuseStale compares a target with the state of the control plane.
func (v view) refuseStale(t controlplane.Target) error {
	for _, s := range v.servers {
		if t.Keys.Stage() < s.Configured.Stage() {
			return fmt.Errorf("%w: API server %s is to accept key versions %v and sign with %d, and the target is %v and %d",
				controlplane.ErrStale, s.Name, s.Configured.Verify, s.Configured.Sign, t.Keys.Verify, t.Keys.Sign)
		}
	}
	for _, m := range v.managers {
		if t.ControllerManagerSign < m.Configured {
			return fmt.Errorf("%w: kube-controller-manager %s is to sign with key version %d, and the target is %d",
				controlplane.ErrStale, m.Name, m.Configured, t.ControllerManagerSign)
		}
	}
	return nil
}

// othersServe reports whether all API servers except the i-th serve.
func (v view) othersServe(i int) bool {
	for j, s := range v.servers {
		if j != i && !s.Ready {
			return false
		}
	}
	return true
}

func (p *Plane) lookAtServer(i int) (serverView, error) {
	name := components.APIServerName(i)
	s := serverView{Server: controlplane.Server{Name: name, Endpoint: p.APIServerURL(i)}}
	var err error
	keys := p.APIServerKeys(i)
	if s.Configured, err = keys.Configured(); err != nil {
		return s, err
	}
	if s.held, err = keys.Held(); err != nil {
		return s, err
	}
	st, err := p.Processes.Observe(name)
	if err != nil {
		return s, err
	}
	s.life = lifeOf(st)
	if s.Running, err = p.RunningKeys(i, st.Stamp, s.Configured); err != nil {
		return s, err
	}
	if s.Configured.IsZero() {
		s.Configured, s.unrecorded = s.Running, !s.Running.IsZero()
	}
	if !signedBy(s.Configured, s.Running) {
		return s, nil
	}
	st, err = p.Processes.Observe(components.SignerName(i))
	s.signerDown = !st.Running
	return s, err
}

func (p *Plane) lookAtManager(i int) (managerView, error) {
	m := managerView{ControllerManager: controlplane.ControllerManager{Name: components.ControllerManagerName(i)}}
	var err error
	keys := p.ControllerManagerKeys(i)
	if m.Configured, err = keys.Configured(); err != nil {
		return m, err
	}
	if m.held, err = keys.Held(); err != nil {
		return m, err
	}
	st, err := p.Processes.Observe(m.Name)
	if err != nil || !st.Running {
		return m, err
	}
	m.life = lifeOf(st)
	if m.Running, err = strconv.Atoi(st.Stamp); err != nil {
		return m, fmt.Errorf("reading the stamp of %s: %w", m.Name, err)
	}
	if m.Configured == 0 {
		m.Configured, m.unrecorded = m.Running, true
	}
	return m, nil
}

// lookAtHealth checks all in parallel, since one that hangs must not delay the others.
func (p *Plane) lookAtHealth(ctx context.Context, v *view) error {
	client, err := p.HealthClient()
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	for i := range v.servers {
		all.Go(func() { p.judgeServer(ctx, client, i, &v.servers[i]) })
	}
	for i := range v.managers {
		all.Go(func() { p.judgeManager(ctx, client, i, &v.managers[i]) })
	}
	all.Wait()
	return nil
}

func (p *Plane) judgeServer(ctx context.Context, client *http.Client, i int, s *serverView) {
	path := components.ReadyPath
	if !p.host.hasApplied(p.Site) {
		path = components.FullReadyPath
	}
	var err error
	if s.alive {
		err = Health(ctx, client, s.Endpoint+path)
		s.healthy = err == nil
	}
	switch {
	case !s.alive, s.stopping, err != nil:
		s.Waiting = p.why(s.Name, s.life, err)
	case s.signerDown:
		s.Waiting = "its signer " + p.whyDown(components.SignerName(i))
	case !s.balanced:
		s.Waiting = phaseUnused
	default:
		s.Ready = true
	}
}

func (p *Plane) judgeManager(ctx context.Context, client *http.Client, i int, m *managerView) {
	var err error
	if m.alive {
		err = Health(ctx, client,
			components.HTTPS(p.Local(components.ControllerManagerLocal+byte(i)), components.ControllerManagerPort)+"/healthz")
	}
	if !m.alive || m.stopping || err != nil {
		m.Waiting = p.why(m.Name, m.life, err)
		return
	}
	m.Ready = true
}

// HealthClient makes a new connection each time, since an existing one does not show whether new ones are accepted.
func (p *Plane) HealthClient() (*http.Client, error) {
	cfg, err := p.RESTConfig("")
	if err != nil {
		return nil, err
	}
	tlsConfig, err := rest.TLSConfigFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("reading credentials of cluster %s: %w", p.Name, err)
	}
	tlsConfig.MinVersion = tls.VersionTLS12
	return &http.Client{
		Timeout:   HealthTimeout,
		Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true},
	}, nil
}

// Health returns nil if the URL answers with 200. Otherwise the error lists the failed checks, as Kubernetes reports
// them.
func Health(ctx context.Context, client *http.Client, at string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	return fmt.Errorf("%s %s", resp.Status, failedChecks(string(body)))
}

// failedChecks lists the names after "[-]" in the answer of a health endpoint, at most three.
func failedChecks(body string) string {
	const most = 3
	var failed []string
	for line := range strings.Lines(body) {
		if check, ok := strings.CutPrefix(strings.TrimSpace(line), "[-]"); ok {
			check, _, _ = strings.Cut(check, " ")
			failed = append(failed, check)
		}
	}
	if more := len(failed) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(failed[:most], ", "), more)
	}
	return strings.Join(failed, ", ")
}
