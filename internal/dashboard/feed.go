package dashboard

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// feed has the latest state of each cluster, and gives each reader what is newer than its last update. It has no queue,
// so a slow reader costs nothing and skips outdated states.
type feed struct {
	mu sync.Mutex
	// version counts changes.
	version  uint64
	clusters map[types.NamespacedName]entry
	// gone are clusters that were removed, with the version of the removal.
	gone map[types.NamespacedName]uint64
	// complete is the oldest version after which every removal is in gone.
	complete uint64
	// listed means that the clusters were read at least once.
	listed bool
	// problem is why they cannot be read now; empty if they can.
	problem string
	// changed is closed when the version changes.
	changed chan struct{}
}

type entry struct {
	version uint64
	row     json.RawMessage
	cluster *v1alpha1.UserCluster
}

// update is what a reader gets: rows that are new to it, and clusters that are gone, as NAMESPACE/NAME.
type update struct {
	// Full means that the update has all rows.
	Full bool              `json:"full,omitempty"`
	Rows []json.RawMessage `json:"rows,omitempty"`
	Gone []string          `json:"gone,omitempty"`
	// Problem is why the clusters cannot be read now; empty if they can.
	Problem string `json:"problem"`
}

// maxGone is how many removals are remembered. A reader that lacks older ones gets everything again.
const maxGone = 1000

func newFeed() *feed {
	return &feed{
		clusters: map[types.NamespacedName]entry{}, gone: map[types.NamespacedName]uint64{}, changed: make(chan struct{}),
	}
}

// since returns what is newer than a version, the resulting version, and a channel that is closed when there is more. A
// version of 0 gets everything, once that has been read.
func (f *feed) since(version uint64) (u update, now uint64, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	u.Problem = f.problem
	if !f.listed {
		return u, 0, f.changed
	}
	u.Full = version == 0 || version < f.complete || version > f.version
	if u.Full {
		version = 0
	}
	for _, key := range slices.SortedFunc(maps.Keys(f.clusters), byName) {
		if e := f.clusters[key]; e.version > version {
			u.Rows = append(u.Rows, e.row)
		}
	}
	for key, at := range f.gone {
		if !u.Full && at > version {
			u.Gone = append(u.Gone, key.String())
		}
	}
	slices.Sort(u.Gone)
	return u, f.version, f.changed
}

func byName(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Namespace, b.Namespace))
}

// keyOf returns what identifies a cluster.
func keyOf(uc *v1alpha1.UserCluster) types.NamespacedName {
	return types.NamespacedName{Namespace: uc.Namespace, Name: uc.Name}
}

// cluster returns the latest state of a cluster, which must not be changed.
func (f *feed) cluster(key types.NamespacedName) (*v1alpha1.UserCluster, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e, ok := f.clusters[key]
	return e.cluster, ok
}

// replace replaces all clusters.
func (f *feed) replace(clusters []v1alpha1.UserCluster, row func(*v1alpha1.UserCluster) Row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.listed = true
	f.change()
	found := map[types.NamespacedName]bool{}
	for i := range clusters {
		found[keyOf(&clusters[i])] = true
		f.put(&clusters[i], row)
	}
	for key := range f.clusters {
		if !found[key] {
			f.remove(key)
		}
	}
}

// set adds a cluster, or replaces it.
func (f *feed) set(uc *v1alpha1.UserCluster, row func(*v1alpha1.UserCluster) Row) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change()
	f.put(uc, row)
}

// drop removes a cluster.
func (f *feed) drop(key types.NamespacedName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.change()
	f.remove(key)
}

// setProblem records why the clusters cannot be read now; empty if they can.
func (f *feed) setProblem(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.problem != text {
		f.problem = text
		f.change()
	}
}

// change begins the next version. The caller must hold the lock.
func (f *feed) change() {
	f.version++
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *feed) put(uc *v1alpha1.UserCluster, row func(*v1alpha1.UserCluster) Row) {
	key := keyOf(uc)
	was, ok := f.clusters[key]
	if ok && was.cluster.UID == uc.UID && was.cluster.ResourceVersion == uc.ResourceVersion {
		return
	}
	encoded, err := json.Marshal(row(uc))
	if err != nil {
		panic(err) // a Row always encodes
	}
	delete(f.gone, key)
	f.clusters[key] = entry{f.version, encoded, uc}
}

func (f *feed) remove(key types.NamespacedName) {
	if _, ok := f.clusters[key]; !ok {
		return
	}
	delete(f.clusters, key)
	f.gone[key] = f.version
	if len(f.gone) > maxGone {
		clear(f.gone)
		f.complete = f.version
	}
}
