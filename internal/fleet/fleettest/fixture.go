package fleettest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/token"
)

// fixture is one publisher of one destination, and the key versions 1 and 2.
type fixture struct {
	Destination
	fleet.Publisher
	patience time.Duration
	keys     []keystore.KeyPair
}

// publish publishes these versions, and retries after an error as a controller does.
func (f fixture) publish(t *testing.T, versions ...int) {
	t.Helper()
	f.repeat(t, fmt.Sprintf("publishing %v", versions), func() error { return f.Publish(t.Context(), f.keys, versions) })
}

// refused requires that publishing these versions fails for this reason, or nil for any, without revealing secrets.
func (f fixture) refused(t *testing.T, want error, versions ...int) {
	t.Helper()
	err := f.Publish(t.Context(), f.keys, versions)
	if err == nil || want != nil && !errors.Is(err, want) {
		t.Errorf("publishing %v: %v, want %v", versions, err, want)
		return
	}
	f.secret(t, err)
}

func (f fixture) remove(t *testing.T) {
	t.Helper()
	f.repeat(t, "removing", func() error { return f.Remove(t.Context()) })
}

func (f fixture) writes() int {
	if f.Writes == nil {
		return 0
	}
	return f.Writes()
}

// want waits until exactly these versions are accepted, the others are refused, and nothing else is reported.
func (f fixture) want(t *testing.T, versions ...int) fleet.Observation {
	t.Helper()
	return f.eventually(t, fmt.Sprintf("%v accepted and nothing else", versions), func(o fleet.Observation) bool {
		return f.are(o, versions) && o.Waiting == "" && !o.PublishedAt.IsZero() && !o.CertainAt.Before(o.PublishedAt)
	})
}

// wantNothing waits until every version is refused and nothing is published.
func (f fixture) wantNothing(t *testing.T) {
	t.Helper()
	f.eventually(t, "nothing published", func(o fleet.Observation) bool { return f.are(o, nil) && o.PublishedAt.IsZero() })
}

// are reports whether these versions are accepted and all others refused.
func (f fixture) are(o fleet.Observation, accepted []int) bool {
	var refused []int
	for _, k := range f.keys {
		if !slices.Contains(accepted, k.Version) {
			refused = append(refused, k.Version)
		}
	}
	return slices.Equal(o.Accepts, accepted) && slices.Equal(o.Refuses, refused)
}

// eventually observes until the destination is as it should be. The order of the keys must not matter.
func (f fixture) eventually(t *testing.T, what string, good func(fleet.Observation) bool) fleet.Observation {
	t.Helper()
	backwards := slices.Clone(f.keys)
	slices.Reverse(backwards)
	var seen fleet.Observation
	f.repeat(t, what, func() error {
		var err error
		if seen, err = f.Observe(t.Context(), backwards); err == nil && !good(seen) {
			err = fmt.Errorf("observed %+v", seen)
		}
		return err
	})
	return seen
}

// repeat retries until there is no error. No error on the way may reveal secrets.
func (f fixture) repeat(t *testing.T, what string, do func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), f.patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := do()
		if err == nil {
			return
		}
		f.secret(t, err)
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, f.patience, err)
		case <-tick.C:
		}
	}
}

// secret fails the test if an error contains a token or a private key.
func (f fixture) secret(t *testing.T, err error) {
	t.Helper()
	tells := []string{"eyJ"} // any JSON Web Token begins with this
	for _, k := range f.keys {
		private, err := token.MarshalPrivateKey(k.Signer)
		if err != nil {
			t.Fatal(err)
		}
		tells = append(tells, strings.Split(strings.TrimSpace(string(private)), "\n")...)
	}
	for _, secret := range tells {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("an error holds a token or a private key: %v", err)
		}
	}
}

// testCancelled calls after the end of the context: every call must fail, reveal no secret, and do nothing.
func testCancelled(t *testing.T, f fixture) {
	f.publish(t, 1)
	f.want(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, observed := f.Observe(ctx, f.keys)
	for what, err := range map[string]error{
		"observing":  observed,
		"publishing": f.Publish(ctx, f.keys, []int{1}),
		"removing":   f.Remove(ctx),
	} {
		if err == nil {
			t.Errorf("%s after the end of its context: no error", what)
			continue
		}
		f.secret(t, err)
	}
	f.want(t, 1)
}

func generate(t *testing.T, version int, algorithm string) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
