package keystore

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// memory caches the key pairs of clusters as List last read them, by cluster name: a cluster that is created again with
// the same name replaces the earlier one. The maps in it are immutable.
type memory struct {
	mu sync.Mutex
	of map[types.NamespacedName]map[revision]KeyPair
	// doubted are clusters that have a Secret that List may not have found.
	doubted map[types.NamespacedName]bool
}

// revision is one state of one Secret.
type revision struct {
	uid             types.UID
	resourceVersion string
}

func revisionOf(o metav1.Object) revision { return revision{o.GetUID(), o.GetResourceVersion()} }

func nameOf(c Cluster) types.NamespacedName {
	return types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
}

// get returns the cached keys of a cluster. whole reports whether these are all of its keys.
func (m *memory) get(c Cluster) (known map[revision]KeyPair, whole bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known = m.of[nameOf(c)]
	return known, len(known) > 0 && !m.doubted[nameOf(c)]
}

// doubt records that a cluster may have keys that are not cached, until set is called.
func (m *memory) doubt(c Cluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doubted == nil {
		m.doubted = map[types.NamespacedName]bool{}
	}
	m.doubted[nameOf(c)] = true
}

// set replaces the cached keys of a cluster; without keys, it forgets the cluster.
func (m *memory) set(c Cluster, keys map[revision]KeyPair) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := nameOf(c)
	delete(m.doubted, name)
	if len(keys) == 0 {
		delete(m.of, name)
		return
	}
	if m.of == nil {
		m.of = map[types.NamespacedName]map[revision]KeyPair{}
	}
	m.of[name] = keys
}
