package gkehub

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	hub "google.golang.org/api/gkehub/v1"

	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

// Observe implements fleet.Publisher: it reads the membership and exchanges a canary token of each key. A membership of
// another cluster, or with another issuer, is an error: it says nothing about the keys.
func (m *Membership) Observe(ctx context.Context, keys []keystore.KeyPair) (fleet.Observation, error) {
	ctx, cancel := context.WithTimeout(ctx, m.o.Timeout)
	defer cancel()
	seen, err := m.observe(ctx, keys)
	if err != nil {
		return fleet.Observation{}, m.failed("observing", err)
	}
	return seen, nil
}

func (m *Membership) observe(ctx context.Context, keys []keystore.KeyPair) (fleet.Observation, error) {
	ours, err := publicKeys(keys)
	if err != nil {
		return fleet.Observation{}, err
	}
	found, err := m.get(ctx)
	if err != nil {
		return fleet.Observation{}, err
	}
	if found != nil {
		if err := m.check(found); err != nil {
			return fleet.Observation{}, err
		}
	}
	is := read(found)
	verdicts, err := m.tradeAll(ctx, is, keys)
	if err != nil {
		return fleet.Observation{}, err
	}
	o := judge(keys, ours, is, verdicts, found == nil)
	o.Waiting = m.waiting(found, is, ours)
	if !is.some {
		return o, nil
	}
	if o.PublishedAt, err = time.Parse(time.RFC3339Nano, found.UpdateTime); err != nil {
		return fleet.Observation{}, &failure{why: "GKE Hub does not say when it was last updated"}
	}
	o.CertainAt = o.PublishedAt.Add(m.o.Propagation)
	return o, nil
}

func publicKeys(keys []keystore.KeyPair) (jwks.Set, error) {
	if len(keys) == 0 {
		return jwks.Set{}, nil
	}
	return setOf(keys)
}

// tradeAll asks about all keys at once. Their canaries have the same claims except for the token ID.
func (m *Membership) tradeAll(ctx context.Context, is contents, keys []keystore.KeyPair) ([]verdict, error) {
	verdicts := make([]verdict, len(keys))
	errs := make([]error, len(keys))
	now := m.o.Now()
	var wg sync.WaitGroup
	for i, k := range keys {
		wg.Go(func() { verdicts[i], errs[i] = m.trade(ctx, is, k, now) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("trading a canary token of key version %d: %w", keys[i].Version, err)
		}
	}
	return verdicts, nil
}

// judge combines the answers of the STS and the keys that the membership lists.
func judge(keys []keystore.KeyPair, ours jwks.Set, is contents, verdicts []verdict, absent bool) fleet.Observation {
	var o fleet.Observation
	var refused []int
	listedAny := false
	for i, k := range keys {
		key, _ := ours.Lookup(k.KeyID)
		listed := has(is.keys, key)
		listedAny = listedAny || listed
		switch {
		case verdicts[i] == accepted && listed:
			o.Accepts = append(o.Accepts, k.Version)
		case verdicts[i] == refusal && !listed, verdicts[i] == noProvider && absent:
			refused = append(refused, k.Version)
		}
	}
	// A refusal is about the key only if an accepted canary differed only in the key, or if there is no key to compare
	// with.
	if is.readable && (len(o.Accepts) > 0 || !listedAny) {
		o.Refuses = refused
	}
	slices.Sort(o.Accepts)
	slices.Sort(o.Refuses)
	return o
}

// waiting returns what else differs from what Publish leaves.
func (m *Membership) waiting(found *hub.Membership, is contents, ours jwks.Set) string {
	switch {
	case found == nil:
		return "the membership to be registered"
	case stateOf(found) == deleting:
		return "the membership to be gone and registered again"
	case stateOf(found).busy():
		return fmt.Sprintf("an operation on the membership to end (%s)", stateOf(found))
	case is.issuer == "":
		return "the issuer of the membership to be set"
	case !is.readable:
		return "the JWKS of the membership, which cannot be read, to be replaced"
	}
	if foreign := foreignKeys(is, ours); foreign != "" {
		return "keys that the cluster does not have to be removed from the membership manually: kid " + foreign
	}
	return ""
}

// foreignKeys returns the kids of keys in the membership that the cluster does not have.
func foreignKeys(is contents, ours jwks.Set) string {
	var foreign []string
	for _, k := range is.keys.Keys() {
		if !has(ours, k) {
			foreign = append(foreign, fmt.Sprintf("%.64q", k.KeyID))
		}
	}
	return said(strings.Join(foreign, ", "))
}
