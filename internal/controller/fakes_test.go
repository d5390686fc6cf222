package controller_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"sync"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/signer/ledger"
)

var (
	errInjected = errors.New("injected failure")
	errHidden   = errors.New("the control plane cannot be read")
)

// site is where the user clusters of a test are, in memory. Its adapters do what the contracts of their ports
// allow and no more: each write does the next small step, and what it leads to is for the next observation.
type site struct {
	t *testing.T
	// fault says how the next write of an adapter fails.
	fault func() faults.Fault

	mu sync.Mutex
	of map[client.ObjectKey]*userCluster
}

// The adapters of a site.
type (
	// plane is the control plane of one user cluster.
	plane struct {
		*site
		client.ObjectKey
		replicas int
	}
	pools struct {
		*site
		uc *v1alpha1.UserCluster
	}
	legacyTokens struct{ *site }
)

var (
	_ controlplane.Adapter = plane{}
	_ nodes.Adapter        = pools{}
	_ controller.Tokens    = legacyTokens{}
)

// userCluster is the truth about one user cluster.
type userCluster struct {
	servers []server
	manager controlplane.ControllerManager
	// disk holds the key versions that the control plane has files of.
	disk map[int]keystore.KeyPair
	// hoards means that no file is deleted.
	hoards bool
	// hidden means that the control plane cannot be read now.
	hidden bool
	// vague means that nobody can tell whether all API servers were seen.
	vague bool
	// kubeconfig is the administrator's.
	kubeconfig string

	nodes []nodes.Node
	made  int // nodes so far
	// guarded means that a PodDisruptionBudget lets no pod go.
	guarded bool
	// unseen means that the nodes cannot be read now.
	unseen bool

	// tokens are the key versions of the legacy tokens.
	tokens []int
}

type server struct {
	controlplane.Server
	draining bool
	// accepts and signs are kids: what the process read when it started, regardless of what the versions are called.
	accepts []string
	signs   string
	// starts counts how often it was started.
	starts int
	// deaf means that its signer takes no new keys.
	deaf bool
	// broken means that it does not start.
	broken bool
	// ledger is what its signer knows, if it has one.
	ledger ledger.Report
}

func newSite(t *testing.T) *site {
	return &site{t: t, fault: noFault, of: map[client.ObjectKey]*userCluster{}}
}

func noFault() faults.Fault { return faults.None }

// with calls do with the cluster of that name, and with nobody else at it.
func (s *site) with(key client.ObjectKey, do func(*userCluster)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of[key] == nil {
		s.of[key] = &userCluster{kubeconfig: "the first of " + key.String(), tokens: []int{1, 1}}
	}
	do(s.of[key])
}

// open opens the control plane of a user cluster.
func (s *site) open(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
	return plane{s, client.ObjectKeyFromObject(uc), int(uc.Spec.Infrastructure.Local.ControlPlane.Replicas)}, nil
}

// write does a write of an adapter, or fails it before or after it took effect.
func (s *site) write(key client.ObjectKey, do func(*userCluster)) error {
	fault := s.fault()
	if fault == faults.Failed {
		return errInjected
	}
	s.with(key, do)
	if fault == faults.FailedButPersisted {
		return errInjected
	}
	return nil
}

func (p plane) Observe(context.Context) (state controlplane.State, err error) {
	p.with(p.ObjectKey, func(c *userCluster) {
		if c.hidden {
			err = errHidden
			return
		}
		if c.vague {
			return
		}
		if len(c.servers) == 0 {
			state.Presence = rotation.PresenceAbsent
			return
		}
		state.Presence = rotation.PresencePresent
		state.Held = slices.Sorted(maps.Keys(c.disk))
		for _, s := range c.servers {
			state.Servers = append(state.Servers, s.Server)
		}
		state.ControllerManagers = []controlplane.ControllerManager{c.manager}
		state.Endpoint, state.Home = "https://"+p.Name+".test", "host-1"
	})
	return state, err
}

func (p plane) Converge(_ context.Context, target controlplane.Target, keys []keystore.KeyPair) (err error) {
	failed := p.write(p.ObjectKey, func(c *userCluster) {
		if err = c.refuse(target); err != nil {
			return
		}
		if wrong := c.converge(target, keys, p.replicas); wrong != nil {
			p.t.Errorf("%s: %v", p.Name, wrong)
		}
	})
	return errors.Join(err, failed)
}

// refuse returns why nothing may be done for a target.
func (c *userCluster) refuse(target controlplane.Target) error {
	stale := c.manager.Configured > target.ControllerManagerSign || slices.ContainsFunc(c.servers, func(s server) bool {
		return s.Configured.Stage() > target.Keys.Stage()
	})
	switch {
	case c.hidden:
		return errHidden
	case stale:
		return controlplane.ErrStale
	}
	return nil
}

// converge does the next small step to each process.
func (c *userCluster) converge(target controlplane.Target, keys []keystore.KeyPair, replicas int) error {
	if err := c.keep(keys); err != nil {
		return err
	}
	if len(c.servers) == 0 {
		c.makeControlPlane(replicas, target)
		return nil
	}
	for i := range c.servers {
		if err := c.servers[i].converge(target, c.disk, c.mayTakeOut(i, target)); err != nil {
			return err
		}
	}
	c.convergeManager(target.ControllerManagerSign)
	return nil
}

// mayTakeOut reports whether the i-th API server may be taken out now.
func (c *userCluster) mayTakeOut(i int, target controlplane.Target) bool {
	for j, s := range c.servers {
		if j != i && !s.Ready && slices.Contains(c.servers[i].Running.Verify, target.Keys.Sign) {
			return false
		}
	}
	return c.servers[i].Name == target.Next
}

// keep writes keys to the disk, and deletes those that are not given any more and not in use.
func (c *userCluster) keep(keys []keystore.KeyPair) error {
	kept := map[int]keystore.KeyPair{}
	for _, k := range keys {
		if was, ok := c.disk[k.Version]; ok && was.KeyID != k.KeyID {
			return fmt.Errorf("key version %d became another key", k.Version)
		}
		kept[k.Version] = k
	}
	for version, k := range c.disk {
		if c.uses(version) || c.hoards {
			kept[version] = k
		}
	}
	c.disk = kept
	return nil
}

func (c *userCluster) uses(version int) bool {
	return c.manager.Configured == version || c.manager.Running == version ||
		slices.ContainsFunc(c.servers, func(s server) bool {
			return slices.Contains(s.Configured.Verify, version) || slices.Contains(s.Running.Verify, version)
		})
}

func (c *userCluster) makeControlPlane(replicas int, target controlplane.Target) {
	for i := range replicas {
		name := fmt.Sprintf("cp-%d", i)
		c.servers = append(c.servers, server{Server: controlplane.Server{
			Name: name, Endpoint: "https://" + name + ".test", Configured: target.Keys, Waiting: "to be started",
		}})
	}
	c.manager = controlplane.ControllerManager{Name: "kcm-0", Configured: target.ControllerManagerSign}
}

// converge does the next step: an API server is configured, drained, stopped, started and ready, one by one.
func (s *server) converge(target controlplane.Target, disk map[int]keystore.KeyPair, mayGo bool) error {
	switch {
	case s.broken:
	case s.Running.IsZero():
		return s.start(disk)
	case !s.Ready && !s.draining:
		s.Ready, s.Waiting = true, ""
	case target.Live && s.Configured.External && !s.Configured.Equal(target.Keys):
		s.Configured, s.Running = target.Keys, target.Keys
		if s.deaf {
			return nil
		}
		return s.load(disk)
	case s.Name != target.Next:
	case !s.Configured.Equal(target.Keys):
		s.Configured = target.Keys
	case s.Running.Equal(s.Configured), !mayGo && !s.draining:
	case !s.draining:
		s.draining, s.Ready, s.Waiting = true, false, "draining"
	default:
		s.stop()
	}
	return nil
}

func (s *server) stop() {
	s.draining, s.Ready, s.Running, s.Waiting = false, false, controlplane.Keys{}, "stopped"
}

func (s *server) start(disk map[int]keystore.KeyPair) error {
	s.starts++
	s.Running, s.Waiting = s.Configured, "starting"
	return s.load(disk)
}

// load reads the keys that it is configured with.
func (s *server) load(disk map[int]keystore.KeyPair) error {
	s.accepts = nil
	for _, version := range s.Configured.Verify {
		k, ok := disk[version]
		if !ok {
			return fmt.Errorf("API server %s is to start with key version %d, which it was not given", s.Name, version)
		}
		s.accepts = append(s.accepts, k.KeyID)
	}
	s.signs = disk[s.Configured.Sign].KeyID
	return nil
}

func (c *userCluster) convergeManager(sign int) {
	switch m := &c.manager; {
	case m.Configured != sign:
		m.Configured = sign
	case m.Running == 0:
		m.Running, m.Ready = m.Configured, true
	case m.Running != m.Configured:
		m.Running, m.Ready = 0, false
	}
}

// Config has no more in it than prove needs.
func (p plane) Config(_ context.Context, name string) (cfg *rest.Config, err error) {
	p.with(p.ObjectKey, func(c *userCluster) {
		if len(c.servers) == 0 || name != "" && !slices.ContainsFunc(c.servers, func(s server) bool {
			return s.Name == name
		}) {
			err = fmt.Errorf("%s has no API server %q", p.Name, name)
			return
		}
		cfg = &rest.Config{Host: path.Join(p.Namespace, p.Name, name)}
	})
	return cfg, err
}

// prove does what controlplane.Prover does with canary tokens.
func (s *site) prove(_ context.Context, q controlplane.Question) (proof controlplane.Proof, err error) {
	cluster, name := path.Split(q.Config.Host)
	namespace, of := path.Split(path.Clean(cluster))
	s.with(client.ObjectKey{Namespace: path.Clean(namespace), Name: of}, func(c *userCluster) {
		i := slices.IndexFunc(c.servers, func(s server) bool { return s.Name == name && s.Ready })
		if i < 0 {
			err = fmt.Errorf("%s does not answer", q.Config.Host)
			return
		}
		if q.External != c.servers[i].Running.External {
			s.t.Errorf("%s is asked as if it had another source of keys", q.Config.Host)
		}
		for _, k := range q.Keys {
			if slices.Contains(c.servers[i].accepts, k.KeyID) {
				proof.Accepts = append(proof.Accepts, k.Version)
			} else {
				proof.Refuses = append(proof.Refuses, k.Version)
			}
			if c.servers[i].signs == k.KeyID {
				proof.Signs = k.Version
			}
		}
	})
	return proof, err
}

func (p plane) Ledger(_ context.Context, name string) (r ledger.Report, err error) {
	p.with(p.ObjectKey, func(c *userCluster) {
		i := slices.IndexFunc(c.servers, func(s server) bool { return s.Name == name })
		switch {
		case c.hidden:
			err = errHidden
		case i < 0:
			err = fmt.Errorf("%s has no API server %q", p.Name, name)
		case !c.servers[i].Configured.External && !c.servers[i].Running.External:
			err = controlplane.ErrNoLedger
		default:
			r = c.servers[i].ledger
		}
	})
	return r, err
}

func (p plane) AdminKubeconfig(context.Context) (file []byte, _ error) {
	p.with(p.ObjectKey, func(c *userCluster) { file = []byte(c.kubeconfig) })
	return file, nil
}

func (p plane) Delete(context.Context) (gone bool, err error) {
	err = p.write(p.ObjectKey, func(c *userCluster) {
		if len(c.nodes) > 0 {
			p.t.Errorf("the control plane of %s is deleted before its nodes", p.Name)
		}
		gone = len(c.servers) == 0
		c.servers, c.manager = nil, controlplane.ControllerManager{}
		if gone {
			c.disk = nil
		}
	})
	return gone && err == nil, err
}

// openPools is how the controller opens the nodes of a cluster.
func (s *site) openPools(uc *v1alpha1.UserCluster) (nodes.Adapter, error) { return pools{s, uc}, nil }

func (p pools) Observe(ctx context.Context, keys nodes.Keys) (state nodes.State, err error) {
	p.with(client.ObjectKeyFromObject(p.uc), func(c *userCluster) {
		if err = c.readNodes(ctx); err != nil {
			return
		}
		state.Nodes = slices.Clone(c.nodes)
		for i := range state.Nodes {
			if state.Nodes[i].Pool == "" {
				state.Nodes[i].KeyVersion = keys.Next // it has no pods
			}
		}
		state.Oldest = nodes.Oldest(state.Nodes)
		state.Converged = c.poolsConverged(p.uc.Spec.Infrastructure.Local.NodePools)
		for _, n := range c.nodes {
			if n.Deleting && c.guarded {
				state.Waiting = "pod default/web on node " + n.Name +
					" to be evicted: PodDisruptionBudget default/web allows no disruption"
				state.Blocked = true
			}
		}
		if !state.Converged && state.Waiting == "" {
			state.Waiting = "nodes to come and go"
		}
	})
	return state, err
}

// readNodes fails when nobody waits any more, or the nodes cannot be read.
func (c *userCluster) readNodes(ctx context.Context) error {
	if c.unseen {
		return errHidden
	}
	return ctx.Err()
}

// isOurs reports whether Keyturn made a node.
func isOurs(n nodes.Node) bool { return n.Pool != "" }

// poolsConverged reports whether each pool has its replicas, and there is no other node of ours.
func (c *userCluster) poolsConverged(wanted []v1alpha1.NodePool) bool {
	left := 0
	for _, n := range c.nodes {
		if isOurs(n) {
			left++
		}
	}
	for _, p := range wanted {
		ready := 0
		for _, n := range c.nodes {
			if n.Pool == p.Name && n.Ready && !n.Deleting {
				ready++
			}
		}
		if ready != int(p.Replicas) {
			return false
		}
		left -= ready
	}
	return left == 0
}

func (p pools) Converge(ctx context.Context, keys nodes.Keys) (err error) {
	failed := p.write(client.ObjectKeyFromObject(p.uc), func(c *userCluster) {
		if err = c.readNodes(ctx); err != nil || c.finishNode() {
			return
		}
		for _, pool := range p.uc.Spec.Infrastructure.Local.NodePools {
			if c.replaceNode(pool, keys.Next) {
				return
			}
		}
	})
	return errors.Join(err, failed)
}

// finishNode does the next step of a node that is coming or going, if there is one.
func (c *userCluster) finishNode() bool {
	i := slices.IndexFunc(c.nodes, func(n nodes.Node) bool { return n.Deleting || !n.Ready })
	switch {
	case i < 0:
		return false
	case !c.nodes[i].Deleting:
		c.nodes[i].Ready = true
	case !c.guarded:
		c.nodes = slices.Delete(c.nodes, i, i+1)
	}
	return true
}

// replaceNode makes a new node, one more than wanted at most, or begins to drain one that is too many.
func (c *userCluster) replaceNode(pool v1alpha1.NodePool, version int) bool {
	all, current, drained := 0, 0, -1
	for i, n := range c.nodes {
		if n.Pool != pool.Name {
			continue
		}
		all++
		if n.KeyVersion >= version {
			current++
		}
		if drained < 0 || n.KeyVersion < c.nodes[drained].KeyVersion {
			drained = i
		}
	}
	wanted := int(pool.Replicas)
	switch {
	case current < wanted && all <= wanted:
		c.made++
		c.nodes = append(c.nodes, nodes.Node{Name: fmt.Sprintf("node-%d", c.made), Pool: pool.Name, KeyVersion: version})
	case all > wanted:
		c.nodes[drained].Deleting = true
	default:
		return false
	}
	return true
}

func (p pools) Delete(ctx context.Context) (gone bool, err error) {
	failed := p.write(client.ObjectKeyFromObject(p.uc), func(c *userCluster) {
		if err = c.readNodes(ctx); err != nil {
			return
		}
		i := slices.IndexFunc(c.nodes, isOurs)
		if gone = i < 0; !gone {
			c.nodes = slices.Delete(c.nodes, i, i+1)
		}
	})
	err = errors.Join(err, failed)
	return gone && err == nil, err
}

// Refresh walks all legacy tokens, but has time to re-sign only one of them.
func (l legacyTokens) Refresh(
	_ context.Context, uc *v1alpha1.UserCluster, k keystore.KeyPair,
) (legacy rotation.Legacy, count v1alpha1.LegacyTokenStatus, err error) {
	stale := func(version int) bool { return version != k.Version }
	err = l.write(client.ObjectKeyFromObject(uc), func(c *userCluster) {
		if c.manager.Running != k.Version || slices.ContainsFunc(c.servers, func(s server) bool {
			return s.signs != k.KeyID
		}) {
			l.t.Errorf("legacy tokens of %s are re-signed before every signer is on key version %d", uc.Name, k.Version)
		}
		if i := slices.IndexFunc(c.tokens, stale); i >= 0 {
			c.tokens[i] = k.Version
			legacy.Waiting = "legacy tokens to be re-signed"
		} else {
			legacy.Proven = k.Version
		}
		count.Total = int64(len(c.tokens))
		for _, version := range c.tokens {
			if stale(version) {
				count.Stale++
			}
		}
	})
	if err != nil {
		return rotation.Legacy{}, uc.Status.KSASigningKey.LegacyTokens, err
	}
	return legacy, count, nil
}

func (l legacyTokens) Forget(types.UID) {}
