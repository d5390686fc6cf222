package controller

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/internal/webhooks"
)

// memory is everything that the controller remembers about clusters, by UID. It is empty after a restart, which only
// costs time. The zero value is ready for use.
type memory struct {
	mu sync.Mutex
	of map[types.UID]*remembered
	// last is the cluster that last had a name: of a cluster that is gone, only the name is known.
	last map[types.NamespacedName]keystore.Cluster
}

// get returns what is remembered about a cluster. was is the cluster that had its name before, if that is another one.
func (m *memory) get(c keystore.Cluster) (seen *remembered, was keystore.Cluster, another bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.of == nil {
		m.of, m.last = map[types.UID]*remembered{}, map[types.NamespacedName]keystore.Cluster{}
	}
	name := types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
	was, known := m.last[name]
	m.last[name] = c
	if m.of[types.UID(c.UID)] == nil {
		m.of[types.UID(c.UID)] = &remembered{}
	}
	return m.of[types.UID(c.UID)], was, known && was.UID != c.UID
}

// named returns the cluster that last had a name; false if there is none.
func (m *memory) named(name types.NamespacedName) (keystore.Cluster, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.last[name]
	return c, ok
}

// forget drops a cluster, and its name unless another cluster has it now.
func (m *memory) forget(c keystore.Cluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, types.UID(c.UID))
	if name := (types.NamespacedName{Namespace: c.Namespace, Name: c.Name}); m.last[name] == c {
		delete(m.last, name)
	}
}

// remember returns what is remembered about a cluster. A different cluster that had its name is gone, and is forgotten.
func (r *Reconciler) remember(uc *v1alpha1.UserCluster) *remembered {
	seen, was, another := r.memory.get(keystore.ClusterOf(uc))
	if another {
		r.forget(was)
	}
	return seen
}

// forgetName drops everything about the cluster that last had a name, whoever removed it.
func (r *Reconciler) forgetName(name types.NamespacedName) {
	if c, ok := r.memory.named(name); ok {
		r.forget(c)
	}
}

// forget drops everything that this controller and its parts remember about a cluster that is gone.
func (r *Reconciler) forget(c keystore.Cluster) {
	r.memory.forget(c)
	r.Keys.Forget(c)
	r.Tokens.Forget(types.UID(c.UID))
	name := types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
	if r.Publishers != nil {
		r.Publishers.Forget(name)
	}
	if r.Forgotten != nil {
		r.Forgotten(c)
	}
	forgetMetrics(name)
}

// remembered is what is remembered about one cluster.
type remembered struct {
	mu sync.Mutex
	// legacy is the result of the last walk over legacy tokens.
	legacy legacyResult
	// publications are the last answers of the destinations.
	publications []publication
	// withdrawn is when the controller last tried to remove keys from destinations that the spec no longer names.
	withdrawn time.Time
	// refusals are since when each API server has been seen to refuse a key, by API server and then by kid.
	refusals map[string]map[string]time.Time
	// processes are the processes of the API servers, by API server.
	processes map[string]process
	// alive describes the valid tokens, as last observed; nil if never.
	alive *tokensSeen
	// slow reports whether the last round was slow.
	slow bool
	// replaced is the resource version that the last write of this controller replaced.
	replaced string
	// obstructed is how many rounds in a row were obstructed by webhooks.
	obstructed int
	// asSettled is the state of the cluster when the last round found nothing to do; nil if it found something.
	asSettled *settled
}

// wrote records that a UserCluster was written that had the resource version before.
func (m *remembered) wrote(before string, uc *v1alpha1.UserCluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if uc.ResourceVersion != before {
		m.replaced = before
	}
}

// isStale reports whether a UserCluster was read as it was before this controller last wrote it, because the cache
// lags.
func (m *remembered) isStale(uc *v1alpha1.UserCluster) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.replaced != "" && m.replaced == uc.ResourceVersion
}

func (m *remembered) settled() *settled {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asSettled
}

// setSettled replaces the last settled state; nil makes the next round ask for everything.
func (m *remembered) setSettled(is *settled) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asSettled = is
}

// obstructedRounds is the number of obstructed rounds after which somebody must act.
const obstructedRounds = 3

// isObstructed reports whether an error is caused by webhooks.
func isObstructed(err error) bool {
	_, ok := errors.AsType[*webhooks.Error](err)
	return ok
}

// obstruct records whether webhooks obstructed a round, and reports whether that has lasted for some rounds.
func (m *remembered) obstruct(is bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !is {
		m.obstructed = 0
		return false
	}
	m.obstructed++
	return m.obstructed >= obstructedRounds
}

func (m *remembered) isSlow() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.slow
}

func (m *remembered) setSlow(slow bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.slow = slow
}

func (m *remembered) tokens() *tokensSeen {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.alive
}

func (m *remembered) setTokens(seen *tokensSeen) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.alive = seen
}

// legacyResult is the result of a walk over legacy tokens.
type legacyResult struct {
	version int
	legacy  rotation.Legacy
	count   v1alpha1.LegacyTokenStatus
}

// legacyTokens returns the result of the last walk for a key version; false if there was none.
func (m *remembered) legacyTokens(version int) (legacyResult, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.legacy, m.legacy.version == version
}

func (m *remembered) setLegacyTokens(seen legacyResult) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.legacy = seen
}

// mayWithdraw reports whether it is time for another attempt, and records it.
func (m *remembered) mayWithdraw(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.withdrawn.IsZero() && now.Sub(m.withdrawn) < believeGood {
		return false
	}
	m.withdrawn = now
	return true
}

// recall returns these destinations with what is remembered about each.
func (m *remembered) recall(publishers []fleet.Publisher) []publication {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []publication
	for _, p := range publishers {
		of := publication{publisher: p}
		if i := slices.IndexFunc(m.publications, func(q publication) bool { return q.publisher.Name() == p.Name() }); i >= 0 {
			of = m.publications[i]
			of.publisher = p
		}
		all = append(all, of)
	}
	return all
}

// setPublications replaces the answers of the destinations; nil drops them, so that each is asked again.
func (m *remembered) setPublications(all []publication) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.publications = all
}

// acceptedFor is how long an API server may accept a token from its cache: the TokenSuccessCacheTTL of
// pkg/kubeapiserver/options/authentication.go, which no flag changes, plus a second for requests that were being
// authenticated when the key was removed.
const acceptedFor = 10*time.Second + time.Second

// forgets returns when the token cache of an API server that refuses exactly these keys has expired for all of them;
// the zero time for no keys.
func (m *remembered) forgets(server string, refused []keystore.KeyPair, now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	since := map[string]time.Time{}
	var latest time.Time
	for _, k := range refused {
		at, known := m.refusals[server][k.KeyID]
		if !known {
			at = now
		}
		since[k.KeyID] = at
		if certain := at.Add(acceptedFor); certain.After(latest) {
			latest = certain
		}
	}
	if m.refusals == nil {
		m.refusals = map[string]map[string]time.Time{}
	}
	m.refusals[server] = since
	return latest
}

// keepServers forgets API servers that are not among these.
func (m *remembered) keepServers(all []rotation.Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gone := func(name string) bool {
		return !slices.ContainsFunc(all, func(s rotation.Server) bool { return s.Name == name })
	}
	maps.DeleteFunc(m.refusals, func(name string, _ map[string]time.Time) bool { return gone(name) })
	maps.DeleteFunc(m.processes, func(name string, _ process) bool { return gone(name) })
}
