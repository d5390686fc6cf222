package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

const (
	// kubernetesVersion is the version of the clusters, whose programs `make kube` builds.
	kubernetesVersion = "1.36.4"
	nodesCluster      = "nodes"
	tokensCluster     = "tokens"
	apiServers        = 3
	nodeCount         = 2
)

// group is what can be measured on its own.
type group struct {
	name string
	// about ends the sentence "measuring ...".
	about string
	// clusters means that it makes user clusters.
	clusters bool
	measure  func(context.Context, *place, *Results) error
}

// allGroups are in the order in which they are measured: the peak of the controller's memory in one includes all groups
// before it.
var allGroups = []group{
	{"nodes", "a cluster with nodes", true, measureNodes},
	{"legacy", "legacy tokens and exchanges", true, measureTokens},
	{"requests", "TokenRequests", true, measureRequests},
	{"signer", "signatures", false, measureSignatures},
	{"rotation", "rotations with and without signers", true, measureSources},
	{"tokens", "tokens in use", true, measureInUse},
	{"kubeadm", "a cluster of kubeadm", true, measureKubeadm},
	{"scale", "many clusters whose control planes are simulated", false, measureScale},
	{"capi-scale", "many clusters of Cluster API whose control planes are simulated", false, measureManyCAPI},
	{"capi", "a cluster of Cluster API", false, measureCAPI},
}

func groupNames() (names []string) {
	for _, g := range allGroups {
		names = append(names, g.name)
	}
	return names
}

// groups returns those that --only names; all without it.
func (o options) groups() (wanted []group) {
	for _, g := range allGroups {
		if o.only == "" || slices.Contains(strings.Split(o.only, ","), g.name) {
			wanted = append(wanted, g)
		}
	}
	return wanted
}

func (o options) unknownGroups() []string {
	if o.only == "" {
		return nil
	}
	return slices.DeleteFunc(strings.Split(o.only, ","), func(name string) bool { return slices.Contains(groupNames(), name) })
}

// measureNodes rotates a cluster with several API servers and nodes, whose pods use tokens all the while.
func measureNodes(ctx context.Context, p *place, r *Results) error {
	if err := p.createCluster(ctx, ofFiles(nodesCluster, apiServers, nodeCount)); err != nil {
		return err
	}
	if err := p.startProbe(ctx, nodesCluster, nodeCount); err != nil {
		return err
	}
	var told []float64
	for range p.rotations {
		t, seen, err := p.rotateWithProbe(ctx, nodesCluster)
		if err != nil {
			return err
		}
		r.Rotations = append(r.Rotations, t)
		told = append(told, seen...)
	}
	alone, err := p.staleAlone(ctx, nodesCluster)
	if err != nil {
		return err
	}
	if len(told) == 0 {
		return errors.New("no pod saw its mounted legacy token change in a rotation")
	}
	r.Stale = Stale{Told: told, Alone: alone}
	return p.deleteCluster(ctx, nodesCluster)
}

// rotateWithProbe rotates a key, and returns how long the mounted token of each pod was stale that lived through it.
func (p *place) rotateWithProbe(ctx context.Context, name string) (*timeline, []float64, error) {
	client, err := p.user(name)
	if err != nil {
		return nil, nil, err
	}
	before, err := lags(ctx, client)
	if err != nil {
		return nil, nil, err
	}
	t, err := p.rotate(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	if err := p.awaitProbe(ctx, name); err != nil {
		return nil, nil, err
	}
	after, err := lags(ctx, client)
	if err != nil {
		return nil, nil, err
	}
	maps.DeleteFunc(after, func(pod string, _ float64) bool {
		_, was := before[pod]
		return was
	})
	return t, slices.Collect(maps.Values(after)), nil
}

// measureTokens re-signs many legacy tokens of a cluster without nodes, in every way, and in the end in a rotation.
func measureTokens(ctx context.Context, p *place, r *Results) error {
	if err := p.createCluster(ctx, ofFiles(tokensCluster, 1, 0)); err != nil {
		return err
	}
	client, err := p.user(tokensCluster)
	if err != nil {
		return err
	}
	key, err := p.key(ctx, tokensCluster)
	if err != nil {
		return err
	}
	if r.Exchanges, err = p.measureExchanges(ctx, tokensCluster); err != nil {
		return err
	}
	s := &secretsOf{client: client, count: p.secrets}
	p.say("creating %d legacy tokens", p.secrets)
	if err := s.fill(ctx, key); err != nil {
		return err
	}
	if err := p.compare(ctx, s, p.rounds, r); err != nil {
		return err
	}
	if err := p.measureClearing(ctx, s, p.sample, r); err != nil {
		return err
	}
	if err := p.rotateTokens(ctx, s, r); err != nil {
		return err
	}
	return p.deleteCluster(ctx, tokensCluster)
}

// rotateTokens has the controller re-sign all Secrets in a rotation, and reads its memory.
func (p *place) rotateTokens(ctx context.Context, s *secretsOf, r *Results) error {
	c, err := p.controller()
	if err != nil {
		return err
	}
	if r.Memory.PeakBefore, err = c.resetPeak(); err != nil {
		return err
	}
	if r.Tokens.Rotation, err = p.rotate(ctx, tokensCluster); err != nil {
		return err
	}
	if r.Tokens.RotationWrites, err = s.resignedWithin(ctx); err != nil {
		return err
	}
	if r.Memory.Peak, err = c.megabytes("VmHWM"); err != nil {
		return fmt.Errorf("reading the memory of the controller that was there before the rotation: %w", err)
	}
	r.Memory.Now, err = c.megabytes("VmRSS")
	return err
}

// compare has the Refresher and bare updates take turns, each going first as often as the other, so that what else the
// machine does hits both. Before that come bare updates that do not count, so that the first turn is like the others:
// the Secrets have been written by this field manager, and their creation is over for everybody who watches them.
func (p *place) compare(ctx context.Context, s *secretsOf, rounds int, r *Results) error {
	if _, err := s.update(ctx); err != nil {
		return err
	}
	t := &r.Tokens
	for i := range rounds {
		key, err := keystore.Generate(rand.Reader, 2, jwks.ES256)
		if err != nil {
			return err
		}
		resign := func() error { return note(&t.Resign)(s.resign(ctx, key)) }
		update := func() error { return note(&t.Update)(s.update(ctx)) }
		p.say("re-signing and bare updates, round %d of %d", i+1, rounds)
		if err := inTurn(i, resign, update); err != nil {
			return err
		}
	}
	return nil
}

// inTurn does all of these one after another, in the other direction every other round.
func inTurn(round int, turns ...func() error) error {
	if round%2 == 1 {
		slices.Reverse(turns)
	}
	for _, turn := range turns {
		if err := turn(); err != nil {
			return err
		}
	}
	return nil
}

// note returns a function that keeps a value unless it comes with an error.
func note[T any](all *[]T) func(T, error) error {
	return func(value T, err error) error {
		if err == nil {
			*all = append(*all, value)
		}
		return err
	}
}

// measureClearing clears tokens for the cluster's own kube-controller-manager, and for one without client limits.
func (p *place) measureClearing(ctx context.Context, s *secretsOf, sample int, r *Results) error {
	manager, err := p.process("kube-controller-manager", "--service-account-private-key-file=")
	if err != nil {
		return err
	}
	r.Tokens.ManagerQPS = manager.flag("--kube-api-qps")
	p.say("clearing %d tokens for kube-controller-manager", sample)
	if err := note(&r.Tokens.Clear)(s.clear(ctx, sample)); err != nil {
		return err
	}
	p.say("the same for one without client limits")
	return p.withUnlimitedManager(ctx, func() error {
		if _, err := s.clear(ctx, 1); err != nil { // until it works
			return err
		}
		return note(&r.Tokens.ClearUnlimited)(s.clear(ctx, sample))
	})
}

// controller finds the process that is the controller.
func (p *place) controller() (process, error) { return p.process("keyturn-controller") }
