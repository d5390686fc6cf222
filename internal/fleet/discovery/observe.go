package discovery

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

// Observe implements fleet.Publisher. A key is accepted if the JWKS holds it and the discovery document allows its
// algorithm, and refused if the JWKS does not hold it. If one of the objects is wrong, a version is neither if it
// depends on what a verifier fetched before. Objects that are not the cluster's are an error.
func (b *Bucket) Observe(ctx context.Context, keys []keystore.KeyPair) (fleet.Observation, error) {
	o, err := b.observe(ctx, keys)
	if err != nil {
		return fleet.Observation{}, b.failed("observing", err)
	}
	return o, nil
}

func (b *Bucket) observe(ctx context.Context, keys []keystore.KeyPair) (fleet.Observation, error) {
	own, err := setOf(keys)
	if err != nil {
		return fleet.Observation{}, err
	}
	is, err := b.read(ctx)
	if err != nil {
		return fleet.Observation{}, err
	}
	if err := b.checkOwner(is); err != nil {
		return fleet.Observation{}, err
	}
	published, _, err := jwks.ParseUsable(is.keys.data)
	if is.keys.found && err == nil {
		return b.judge(is, published, own, keys)
	}
	o := b.times(is)
	switch {
	case is.keys.found:
		o.Waiting = fmt.Sprintf("%s is no JWKS: %v", jwksName, err)
	case is.discovery.found:
		o.Refuses, o.Waiting = versions(keys), jwksName+" is missing"
	default:
		o.Refuses, o.Waiting = versions(keys), "discovery document and JWKS to be published"
	}
	return o, nil
}

// judge returns what verifiers conclude from the objects, if the JWKS can be read.
func (b *Bucket) judge(is served, published, own jwks.Set, keys []keystore.KeyPair) (fleet.Observation, error) {
	discovery, err := b.discoveryDocument(published)
	if err != nil {
		return fleet.Observation{}, err
	}
	set, err := b.jwksDocument(published, stageOf(published, keys))
	if err != nil {
		return fleet.Observation{}, err
	}
	o := b.times(is)
	foreign := missing(published, own)
	for _, k := range keys {
		switch {
		case !holds(published, publicKey(k)):
			o.Refuses = append(o.Refuses, k.Version)
		case b.goodFor(is.discovery.data, k.Algorithm):
			o.Accepts = append(o.Accepts, k.Version)
		}
	}
	slices.Sort(o.Accepts)
	slices.Sort(o.Refuses)
	o.Waiting = joined(noteForeign(foreign), b.note(discovery, is.discovery), b.note(set, is.keys))
	return o, nil
}

// stageOf returns the stage of the published keys.
func stageOf(published jwks.Set, keys []keystore.KeyPair) int {
	var live []int
	for _, k := range keys {
		if holds(published, publicKey(k)) {
			live = append(live, k.Version)
		}
	}
	return fleet.Stage(live)
}

// goodFor reports whether a verifier with this discovery document accepts tokens of the algorithm.
func (b *Bucket) goodFor(data []byte, algorithm string) bool {
	d, err := jwks.ParseDiscovery(data)
	return err == nil && d.Issuer == b.o.Issuer && d.JWKSURI == b.o.Issuer+jwks.Path &&
		slices.Contains(d.Algorithms, algorithm)
}

// times returns when the newest object changed, and when nobody uses earlier content any more.
func (b *Bucket) times(is served) fleet.Observation {
	if !is.discovery.found && !is.keys.found {
		return fleet.Observation{}
	}
	at := is.discovery.modified
	if is.keys.modified.After(at) {
		at = is.keys.modified
	}
	certain := at
	if at.Nanosecond() == 0 {
		certain = at.Add(time.Second) // the store cuts off the fraction of a second
	}
	if b.wroteAt.After(certain) {
		certain = b.wroteAt
	}
	return fleet.Observation{PublishedAt: at, CertainAt: certain.Add(b.o.MaxAge)}
}

func (b *Bucket) note(want document, is object) string {
	if difference := b.difference(want, is); difference != "" {
		return want.name + " " + difference
	}
	return ""
}

func noteForeign(keys []jwks.Key) string {
	if len(keys) == 0 {
		return ""
	}
	return fmt.Sprintf("%s holds %d keys that the cluster does not have, the first with kid %.64q; they are not "+
		"replaced: remove them manually if nobody uses them", jwksName, len(keys), keys[0].KeyID)
}

func joined(notes ...string) string {
	return strings.Join(slices.DeleteFunc(notes, func(n string) bool { return n == "" }), "; ")
}

func versions(keys []keystore.KeyPair) []int {
	var all []int
	for _, k := range keys {
		all = append(all, k.Version)
	}
	slices.Sort(all)
	return all
}
