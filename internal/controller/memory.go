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

// memory is all that the controller remembers of clusters, by UID. After a restart it is empty, which costs time and
// nothing else. Its zero value is ready for use.
type memory struct {
	mu sync.Mutex
	of map[types.UID]*remembered
	// last is the cluster that last had a name: of one that is gone, the name is all that is known.
	last map[types.NamespacedName]keystore.Cluster
}

// get returns what is remembered of a cluster. was is the cluster that had its name before, if that is another one.
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

// forget drops a cluster, and its name unless that is another cluster's by now.
func (m *memory) forget(c keystore.Cluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, types.UID(c.UID))
	if name := (types.NamespacedName{Namespace: c.Namespace, Name: c.Name}); m.last[name] == c {
		delete(m.last, name)
	}
}

// remember returns what is remembered of a cluster. One that had its name before is gone, and is forgotten.
func (r *Reconciler) remember(uc *v1alpha1.UserCluster) *remembered {
	seen, was, another := r.memory.get(clusterOf(uc))
	if another {
		r.forget(was)
	}
	return seen
}

// forgetName drops all that is remembered of the cluster that last had a name, whoever removed it.
func (r *Reconciler) forgetName(name types.NamespacedName) {
	if c, ok := r.memory.named(name); ok {
		r.forget(c)
	}
}

// forget drops all that is remembered of a cluster that is gone, by everyone who remembers anything of it.
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

// remembered is what is remembered of one cluster.
type remembered struct {
	mu sync.Mutex
	// legacy is what the last walk over legacy tokens showed.
	legacy legacyResult
	// publications are what the destinations said lately.
	publications []publication
	// withdrawn is when keys were last removed, or were to be, from destinations that the spec does not name any more.
	withdrawn time.Time
	// refusals are since when each API server was seen to refuse a key, by API server and then by kid.
	refusals map[string]map[string]time.Time
	// processes are those of the API servers, by API server.
	processes map[string]process
	// alive is what was last found of the tokens that live; nil if nothing was.
	alive *tokensSeen
	// slow reports whether the last round was slow.
	slow bool
	// replaced is the resource version that the last write of this controller replaced.
	replaced string
	// obstructed is how many rounds in a row webhooks have kept from their work.
	obstructed int
	// asSettled is what the cluster was like when the last round found nothing to do; nil if it found something.
	asSettled *settled
}

// wrote notes that a UserCluster was written, which had the resource version before.
func (m *remembered) wrote(before string, uc *v1alpha1.UserCluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if uc.ResourceVersion != before {
		m.replaced = before
	}
}

// isStale reports whether a UserCluster was read as it was before this controller wrote it last: the cache lags.
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

// setSettled replaces what the cluster was like when it was settled; nil has the next round ask for everything.
func (m *remembered) setSettled(is *settled) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asSettled = is
}

// obstructedRounds is after how many rounds that webhooks keep from their work somebody must act.
const obstructedRounds = 3

// isObstructed reports whether an error is one of webhooks.
func isObstructed(err error) bool {
	_, ok := errors.AsType[*webhooks.Error](err)
	return ok
}

// obstruct notes whether webhooks kept a round from its work, and reports whether that has lasted for some rounds.
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

// legacyResult is what a walk over legacy tokens showed.
type legacyResult struct {
	version int
	legacy  rotation.Legacy
	count   v1alpha1.LegacyTokenStatus
}

// legacyTokens returns what the last walk with a key version showed; false if there was none.
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

// mayWithdraw reports whether it is time for another attempt, and counts it.
func (m *remembered) mayWithdraw(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.withdrawn.IsZero() && now.Sub(m.withdrawn) < believeGood {
		return false
	}
	m.withdrawn = now
	return true
}

// recall returns these destinations with what is remembered of each.
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

// setPublications replaces what the destinations said; nil drops it, so that each is asked again.
func (m *remembered) setPublications(all []publication) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.publications = all
}

// acceptedFor is how long an API server accepts a token without another look for having accepted it before: the
// TokenSuccessCacheTTL of pkg/kubeapiserver/options/authentication.go, which no flag changes, and a second for requests
// that were being authenticated when the key went.
const acceptedFor = 10*time.Second + time.Second

// forgets returns from when on an API server that refuses these keys, and no other, accepts no token of them for having
// accepted it before; the zero time for no keys.
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

// keepServers forgets all about API servers that are not among these.
func (m *remembered) keepServers(all []rotation.Server) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gone := func(name string) bool {
		return !slices.ContainsFunc(all, func(s rotation.Server) bool { return s.Name == name })
	}
	maps.DeleteFunc(m.refusals, func(name string, _ map[string]time.Time) bool { return gone(name) })
	maps.DeleteFunc(m.processes, func(name string, _ process) bool { return gone(name) })
}
