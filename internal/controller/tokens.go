package controller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/legacytoken"
	"github.com/keyturn/keyturn/internal/rotation"
)

const (
	// refreshBudget is how long one round may sign legacy tokens.
	refreshBudget = 5 * time.Second
	// refreshGrace is how much longer a write may take that has begun. A webhook may delay it by half a minute.
	refreshGrace = 2 * time.Second
)

// LegacyTokens refreshes legacy tokens through the API servers of their cluster. It remembers the progress of the walk
// over each cluster's Secrets.
type LegacyTokens struct {
	client func(context.Context, *v1alpha1.UserCluster) (kubernetes.Interface, error)

	mu sync.Mutex
	of map[types.UID]*legacytoken.Refresher
}

// NewLegacyTokens returns LegacyTokens that reach user clusters through client.
func NewLegacyTokens(client func(context.Context, *v1alpha1.UserCluster) (kubernetes.Interface, error)) *LegacyTokens {
	return &LegacyTokens{client: client, of: map[types.UID]*legacytoken.Refresher{}}
}

// Refresh implements Tokens.
func (l *LegacyTokens) Refresh(
	ctx context.Context, uc *v1alpha1.UserCluster, k keystore.KeyPair,
) (rotation.Legacy, v1alpha1.LegacyTokenStatus, error) {
	count := uc.Status.KSASigningKey.LegacyTokens
	refresher, err := l.refresher(ctx, uc)
	if err != nil {
		return rotation.Legacy{}, count, err
	}
	target, err := legacytoken.NewTarget(k)
	if err != nil {
		return rotation.Legacy{}, count, err
	}
	ctx, cancel := context.WithTimeout(ctx, refreshBudget+refreshGrace)
	defer cancel()
	result, err := refresher.Pass(ctx, target)
	if errors.Is(err, context.DeadlineExceeded) && len(result.Blocked) > 0 {
		err = nil // the result contains what took so long
	}
	if err != nil {
		return rotation.Legacy{}, count, err
	}
	if result.Proven() {
		l.Forget(uc.UID) // the walk of the next rotation begins at the first Secret
	}
	return verdict(result, k.Version), tally(result, count), nil
}

// Forget implements Tokens.
func (l *LegacyTokens) Forget(cluster types.UID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.of, cluster)
}

func (l *LegacyTokens) refresher(ctx context.Context, uc *v1alpha1.UserCluster) (*legacytoken.Refresher, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r, ok := l.of[uc.UID]; ok {
		return r, nil
	}
	client, err := l.client(ctx, uc)
	if err != nil {
		return nil, err
	}
	r := &legacytoken.Refresher{Client: client, Budget: refreshBudget, Guard: legacytoken.Served(client)}
	l.of[uc.UID] = r
	return r, nil
}

// verdict converts the result of a walk for the planner.
func verdict(r legacytoken.Result, version int) rotation.Legacy {
	if r.Proven() {
		return rotation.Legacy{Proven: version}
	}
	legacy := rotation.Legacy{}
	if !r.Complete {
		legacy.Waiting = fmt.Sprintf("legacy tokens to be re-signed: %d of %d seen so far", r.Resigned, r.Total)
	}
	for _, p := range r.Blocked {
		legacy.Waiting = p.String()
		if legacy.Blocked = p.NeedsAction(); legacy.Blocked {
			break
		}
	}
	return legacy
}

// tally returns the counts of a walk for the status. Until the walk is complete, it cannot report more Secrets than the
// last.
func tally(r legacytoken.Result, last v1alpha1.LegacyTokenStatus) v1alpha1.LegacyTokenStatus {
	if r.Complete {
		return v1alpha1.LegacyTokenStatus{Total: int64(r.Total), Stale: int64(r.Stale)}
	}
	total := max(last.Total, int64(r.Total))
	return v1alpha1.LegacyTokenStatus{Total: total, Stale: max(0, total-int64(r.Total)+int64(r.Stale))}
}
