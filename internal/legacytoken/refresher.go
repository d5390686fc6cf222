package legacytoken

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/token"
)

// What a Refresher does where its fields are zero.
const (
	DefaultWorkers  = 64
	DefaultPageSize = 500
)

// Target is the key version that all legacy tokens are to be of.
type Target struct {
	Version int
	// KeyID is the kid that Signer puts into tokens.
	KeyID  string
	Signer *token.Signer
}

// NewTarget returns the target that a key pair is.
func NewTarget(k keystore.KeyPair) (Target, error) {
	signer, err := token.NewSigner(k.Signer, k.Algorithm, k.KeyID)
	if err != nil {
		return Target{}, fmt.Errorf("signing with key version %d: %w", k.Version, err)
	}
	return Target{Version: k.Version, KeyID: k.KeyID, Signer: signer}, nil
}

// Refresher re-signs the legacy tokens of one cluster. It remembers where its walk is; its methods may be called at
// any time, by several goroutines.
type Refresher struct {
	// Client reaches the cluster. It is best served by one without client limits and in protobuf, as
	// controlplane.Clients makes: the API server's CPU is what a refresh waits for.
	Client kubernetes.Interface
	// Workers is how many Secrets are written at once. Zero means DefaultWorkers.
	Workers int
	// PageSize is how many Secrets, ServiceAccounts or pods are read at once; two pages of each are held at a
	// time. Zero means DefaultPageSize.
	PageSize int64
	// Budget is how long a Pass goes on before it returns with its walk incomplete. Zero means to the end.
	Budget time.Duration
	// Guard, if there is one, is asked before writes, each time that one is a second old: nothing is written after an
	// error. It keeps a process that was paused, and wakes up, from signing with a key that was retired meanwhile.
	Guard func(ctx context.Context, target Target) error

	mu   sync.Mutex
	walk *walk
	// settled is the kid for which the last complete walk had nothing to write, pods included.
	settled string
	history history
}

// Pass carries on with the walk of the last Pass with the same target, or begins one. It returns what the
// walk has seen and done up to now. Call it only while every signer of the cluster signs with the target's
// key: other tokens that are made behind the walk would escape the proof.
//
// An error means that the API server could not be read or that ctx ended. The next Pass carries on at the same place.
// That single Secrets could not be written is no error: they are Stale, and named in Blocked.
func (r *Refresher) Pass(ctx context.Context, target Target) (Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if r.walk == nil || r.walk.target.KeyID != target.KeyID {
			r.history.begin(target.KeyID)
			r.walk = newWalk(r, target)
		}
		w := r.walk
		w.troubled = false
		err := w.run(ctx)
		r.history.passed(w.troubled)
		switch {
		case errors.Is(err, errRestart):
			r.walk = nil
		case err != nil:
			return w.result, fmt.Errorf("re-signing legacy tokens with key version %d: %w", target.Version, err)
		case w.complete():
			r.finish(w)
			return w.result, nil
		default:
			return w.result, nil
		}
	}
}

// finish ends a walk that is complete.
func (r *Refresher) finish(w *walk) {
	w.result.Complete = true
	r.walk, r.settled = nil, ""
	if w.idle() {
		r.settled = w.target.KeyID
	}
}

func (r *Refresher) workers() int {
	if r.Workers > 0 {
		return r.Workers
	}
	return DefaultWorkers
}

func (r *Refresher) pageSize() int64 {
	if r.PageSize > 0 {
		return r.PageSize
	}
	return DefaultPageSize
}
