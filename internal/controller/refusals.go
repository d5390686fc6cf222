package controller

import (
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
)

// acceptedFor is how long an API server accepts a token without another look for having accepted it before: the
// TokenSuccessCacheTTL of pkg/kubeapiserver/options/authentication.go, which no flag changes, and a second for requests that were
// being authenticated when the key went.
const acceptedFor = 10*time.Second + time.Second

// refusalMemory remembers since when an API server was seen to refuse a key. After a restart of the controller it is empty, and
// the wait begins anew.
type refusalMemory struct {
	mu sync.Mutex
	// of is by API server and then by kid.
	of map[apiServer]map[string]time.Time
}

type apiServer struct {
	cluster types.UID
	name    string
}

// forgets returns from when on an API server that refuses these keys, and no other, accepts no token of them for having accepted it
// before; the zero time for no keys.
func (m *refusalMemory) forgets(uc *v1alpha1.UserCluster, server string, refused []keystore.KeyPair, now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	key := apiServer{uc.UID, server}
	since := map[string]time.Time{}
	var latest time.Time
	for _, k := range refused {
		at, known := m.of[key][k.KeyID]
		if !known {
			at = now
		}
		since[k.KeyID] = at
		if sure := at.Add(acceptedFor); sure.After(latest) {
			latest = sure
		}
	}
	if m.of == nil {
		m.of = map[apiServer]map[string]time.Time{}
	}
	m.of[key] = since
	return latest
}

func (m *refusalMemory) forget(uc *v1alpha1.UserCluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.of, func(s apiServer, _ map[string]time.Time) bool { return s.cluster == uc.UID })
}
