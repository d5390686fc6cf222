package controller

import (
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
	of map[types.UID]map[refusal]time.Time
}

// refusal is of one key by one API server.
type refusal struct{ server, kid string }

// forgets returns from when on an API server that refuses these keys, and no other, accepts no token of them for having accepted it
// before.
func (m *refusalMemory) forgets(uc *v1alpha1.UserCluster, server string, refused []keystore.KeyPair, now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	since := map[refusal]time.Time{}
	var latest time.Time
	for _, k := range refused {
		r := refusal{server, k.KeyID}
		at, known := m.of[uc.UID][r]
		if !known {
			at = now
		}
		since[r] = at
		if sure := at.Add(acceptedFor); sure.After(latest) {
			latest = sure
		}
	}
	for r, at := range m.of[uc.UID] {
		if r.server != server {
			since[r] = at
		}
	}
	if m.of == nil {
		m.of = map[types.UID]map[refusal]time.Time{}
	}
	m.of[uc.UID] = since
	return latest
}

func (m *refusalMemory) forget(uc *v1alpha1.UserCluster) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.of, uc.UID)
}
