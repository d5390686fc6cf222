package legacytoken

import (
	"context"
	"fmt"
	"sync"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/jwks"
)

// guardFor is how long an answer of a guard is valid.
const guardFor = time.Second

// guard checks whether the target may still be written, and caches a positive answer for a while.
type guard struct {
	ask func(context.Context, Target) error

	mu   sync.Mutex
	good time.Time
}

func (g *guard) check(ctx context.Context, target Target) error {
	if g.ask == nil {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	begin := time.Now()
	if begin.Sub(g.good) < guardFor {
		return nil
	}
	if err := g.ask(ctx, target); err != nil {
		return err
	}
	g.good = begin
	return nil
}

// Served returns a guard that allows writing a target while the API servers of a cluster serve its key in their JWKS.
func Served(client kubernetes.Interface) func(context.Context, Target) error {
	return func(ctx context.Context, target Target) error {
		body, err := client.CoreV1().RESTClient().Get().AbsPath(jwks.Path).
			SetHeader("Accept", "application/jwk-set+json").DoRaw(ctx)
		if err != nil {
			return fmt.Errorf("reading the JWKS of the cluster: %w", err)
		}
		set, _, err := jwks.ParseUsable(body)
		if err != nil {
			return fmt.Errorf("reading the JWKS of the cluster: %w", err)
		}
		if _, ok := set.Lookup(target.KeyID); !ok {
			return fmt.Errorf("API servers do not accept key version %d (%s)", target.Version, target.KeyID)
		}
		return nil
	}
}
