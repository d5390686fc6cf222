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

// The defaults of a Refresher.
const (
	DefaultWorkers  = 64
	DefaultPageSize = 500
)

// Target is the key version that all legacy tokens should be of.
type Target struct {
	Version int
	// KeyID is the kid that Signer puts into tokens.
	KeyID  string
	Signer *token.Signer
}

// NewTarget returns the target of a key pair.
func NewTarget(k keystore.KeyPair) (Target, error) {
	signer, err := token.NewSigner(k.Signer, k.Algorithm, k.KeyID)
	if err != nil {
		return Target{}, fmt.Errorf("signing with key version %d: %w", k.Version, err)
	}
	return Target{Version: k.Version, KeyID: k.KeyID, Signer: signer}, nil
}

// Refresher signs the legacy tokens of one cluster again. It remembers the position of its walk. It is safe for
// concurrent use.
type Refresher struct {
	// Client reaches the cluster. Best is one without client-side limits and with protobuf, as controlplane.Clients
	// makes it, since the API server's CPU is the bottleneck of a refresh.
	Client kubernetes.Interface
	// Workers is how many Secrets are written at once. Zero means DefaultWorkers.
	Workers int
	// PageSize is how many Secrets, ServiceAccounts or pods are read at once. Two pages of each are held at a time.
	// Zero means DefaultPageSize.
	PageSize int64
	// Budget is how long a Pass continues before it returns with its walk incomplete. Zero means to the end.
	Budget time.Duration
	// Guard, if set, is asked before writes, if its last answer is a second old. After an error, nothing is written. It
	// keeps a process that was paused from signing with a key that was retired meanwhile.
	Guard func(ctx context.Context, target Target) error

	mu   sync.Mutex
	walk *walk
	// settled is the kid for which the last complete walk had nothing to write, including pods.
	settled string
	history history
}

// Pass continues the walk of the last Pass with the same target, or begins one. It returns what the walk has seen and
// done so far. Call it only while every signer of the cluster signs with the target's key: other tokens that are
// created behind the walk would escape the proof.
//
// An error means that the API server could not be read or that ctx ended. The next Pass continues at the same position.
// If single Secrets cannot be written, this is not an error: they are Stale, and named in Blocked.
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

// finish ends a complete walk.
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
