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
}

// revision is one state of one Secret.
type revision struct {
	uid             types.UID
	resourceVersion string
}

func revisionOf(o metav1.Object) revision { return revision{o.GetUID(), o.GetResourceVersion()} }

func (m *memory) get(c Cluster) map[revision]KeyPair {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.of[types.NamespacedName{Namespace: c.Namespace, Name: c.Name}]
}

// set replaces all that is known of a cluster; with nothing, it forgets the cluster.
func (m *memory) set(c Cluster, keys map[revision]KeyPair) {
	m.mu.Lock()
	defer m.mu.Unlock()
	name := types.NamespacedName{Namespace: c.Namespace, Name: c.Name}
	if len(keys) == 0 {
		delete(m.of, name)
		return
	}
	if m.of == nil {
		m.of = map[types.NamespacedName]map[revision]KeyPair{}
	}
	m.of[name] = keys
}
