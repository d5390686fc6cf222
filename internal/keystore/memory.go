package keystore

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// memory holds the key pairs of clusters as List has read them last, by the name of the cluster: a cluster that is made
// again under the same name replaces what was known of the one before. The maps in it do not change.
type memory struct {
	mu sync.Mutex
	of map[types.NamespacedName]map[revision]KeyPair
	// doubted are clusters that have a Secret which List may not have found.
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

// get returns what is known of a cluster. whole reports whether all of its keys are known.
func (m *memory) get(c Cluster) (known map[revision]KeyPair, whole bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	known = m.of[nameOf(c)]
	return known, len(known) > 0 && !m.doubted[nameOf(c)]
}

// doubt notes that a cluster may have keys that are not known, until set is called.
func (m *memory) doubt(c Cluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doubted == nil {
		m.doubted = map[types.NamespacedName]bool{}
	}
	m.doubted[nameOf(c)] = true
}

// set replaces all that is known of a cluster; with nothing, it forgets the cluster.
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
