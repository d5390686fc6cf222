package legacytoken

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/token"
)

// maxKeyIDs bounds how many kids a Census tells apart: Secrets may hold anything.
const maxKeyIDs = 100

// Census is what a Scan counted.
type Census struct {
	// Total is the number of Secrets for legacy tokens, and Empty how many of them hold none yet.
	Total, Empty int
	// ByKeyID counts the tokens by their kid. Under "" are those without one, those that are no tokens at
	// all, and those of more than 100 different kids.
	ByKeyID map[string]int
	// Immutable is how many Secrets are immutable, so that their tokens cannot be re-signed; Blocked names at most
	// MaxNamed of them.
	Immutable int
	Blocked   []Problem
	// Mounting is how many running pods, counted once for each Secret, have a token projected by their kubelet.
	Mounting int
	// Copied is how many running pods hold a copy of a token that only a restart refreshes, counted once for
	// each Secret; Copies names at most MaxNamed of them.
	Copied int
	Copies []Copy
}

// Stale is how many Secrets hold a token that is not of this key.
func (c Census) Stale(kid string) int { return c.Total - c.Empty - c.ByKeyID[kid] }

// Scan counts the legacy tokens of the cluster and changes nothing. Like Pass it reads page by page.
func (r *Refresher) Scan(ctx context.Context) (Census, error) {
	for {
		c, err := r.scan(ctx)
		if !errors.Is(err, errRestart) {
			return c, err
		}
	}
}

func (r *Refresher) scan(ctx context.Context) (Census, error) {
	census := Census{ByKeyID: map[string]int{}}
	secrets, uses := newSecrets(r.Client, r.pageSize()), newUses(r.Client, r.pageSize())
	defer func() {
		secrets.settle()
		uses.pages.settle()
	}()
	for !secrets.end() {
		items, err := secrets.read(ctx)
		if err != nil {
			return Census{}, fmt.Errorf("counting legacy tokens: %w", err)
		}
		for i := range items {
			around, err := uses.in(ctx, items[i].Namespace)
			if err != nil {
				return Census{}, fmt.Errorf("counting legacy tokens: %w", err)
			}
			census.add(&items[i], around[items[i].Name])
		}
	}
	return census, nil
}

func (c *Census) add(s *corev1.Secret, uses []use) {
	c.Total++
	if held := s.Data[corev1.ServiceAccountTokenKey]; len(held) == 0 {
		c.Empty++
	} else {
		c.ByKeyID[c.group(string(held))]++
	}
	if isImmutable(s) {
		c.Immutable++
		c.Blocked = named(c.Blocked, *problemOf(s, Immutable, ""))
	}
	for _, u := range uses {
		if u.mounted {
			c.Mounting++
		}
		if u.copied != "" {
			c.Copied++
			c.Copies = named(c.Copies, Copy{Namespace: s.Namespace, Pod: u.pod, Secret: s.Name, By: u.copied})
		}
	}
}

func (c *Census) group(held string) string {
	kid, err := token.KeyID(held)
	if _, known := c.ByKeyID[kid]; err != nil || !known && len(c.ByKeyID) >= maxKeyIDs {
		return ""
	}
	return kid
}
