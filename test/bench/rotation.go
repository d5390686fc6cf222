package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/watch"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/rotation"
)

// steps are the steps of a rotation, in their order.
var steps = []rotation.Step{
	rotation.StepGenerate, rotation.StepPublish, rotation.StepSwitch, rotation.StepRefresh, rotation.StepRetire,
}

// timeline is how long a rotation took, and each of its steps, in seconds. A step begins when the controller first
// reports it, the first one when the key version is raised; so the steps add up to the total.
type timeline struct {
	Total float64 `json:"totalSeconds"`
	// Signing is when every API server was first seen to sign with the new version.
	Signing float64                   `json:"signingSeconds"`
	Steps   map[rotation.Step]float64 `json:"stepSeconds"`

	began, stepBegan time.Time
	step             rotation.Step
}

// rotate rotates the key of a cluster by gkectl, and watches its UserCluster until that is complete.
func (p *place) rotate(ctx context.Context, name string) (*timeline, error) {
	p.say("rotating the key of user cluster %s", name)
	ctx, cancel := context.WithTimeout(ctx, rotateTimeout)
	defer cancel()
	before, err := p.cluster(ctx, name)
	if err != nil {
		return nil, err
	}
	admin, err := p.admin()
	if err != nil {
		return nil, err
	}
	w, err := admin.Watch(ctx, &v1alpha1.UserClusterList{}, client.InNamespace(p.namespace))
	if err != nil {
		return nil, fmt.Errorf("watching UserCluster %s: %w", name, err)
	}
	defer w.Stop()
	started := make(chan error, 1)
	go func() {
		_, err := p.run(ctx, "gkectl", "update", "credentials", "ksa-signing-key", "rotate", "--skip-prompt",
			"--config", p.config(name), "--kubeconfig", p.kubeconfig())
		started <- err
	}()
	t := &timeline{Steps: map[rotation.Step]float64{}, step: rotation.StepGenerate}
	err = t.follow(ctx, w, name, before.Spec.KSASigningKey.Version+1, started)
	if err != nil {
		return nil, fmt.Errorf("rotating the key of cluster %s: %w", name, err)
	}
	return t, nil
}

func (t *timeline) follow(ctx context.Context, w watch.Interface, name string, version int32, started <-chan error) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-started:
			if err != nil {
				return err
			}
			started = nil
		case event, ok := <-w.ResultChan():
			if !ok {
				return errors.New("the watch has ended")
			}
			uc, ok := event.Object.(*v1alpha1.UserCluster)
			if ok && uc.Name == name && uc.Spec.KSASigningKey.Version == version && t.see(uc, time.Now()) {
				return nil
			}
		}
	}
}

// see notes what a UserCluster with the new wanted version tells at a time, and whether its rotation is complete.
func (t *timeline) see(uc *v1alpha1.UserCluster, now time.Time) (complete bool) {
	if t.began.IsZero() {
		t.began, t.stepBegan = now, now
	}
	k := uc.Status.KSASigningKey
	complete = k.Step == "" && k.TokenVersion == uc.Spec.KSASigningKey.Version && len(k.PublicKeyVersions) == 1
	if t.Signing == 0 && (complete || allSign(uc)) {
		t.Signing = now.Sub(t.began).Seconds()
	}
	step := rotation.Step(k.Step)
	if !complete && (step == "" || step == t.step) {
		return false
	}
	t.Steps[t.step] += now.Sub(t.stepBegan).Seconds()
	t.Total = now.Sub(t.began).Seconds()
	t.step, t.stepBegan = step, now
	return complete
}

func (t *timeline) total() float64   { return t.Total }
func (t *timeline) signing() float64 { return t.Signing }

// allSign reports whether every API server was seen to sign with the wanted version.
func allSign(uc *v1alpha1.UserCluster) bool {
	other := func(s v1alpha1.APIServerStatus) bool { return s.SigningVersion != uc.Spec.KSASigningKey.Version }
	wanted := max(1, len(uc.Status.APIServers))
	if local := uc.Spec.Infrastructure.Local; local != nil {
		wanted = int(local.ControlPlane.Replicas)
	}
	return len(uc.Status.APIServers) == wanted && !slices.ContainsFunc(uc.Status.APIServers, other)
}

// Sources are the rotations of two clusters that differ in where API servers get their keys.
type Sources struct {
	External []*timeline `json:"external"`
	Files    []*timeline `json:"files"`
}

// measureSources rotates a cluster with signers and one without, by turns, so that what else the machine does hits
// both.
func measureSources(ctx context.Context, p *place, r *Results) error {
	external, files := ofFiles("external", apiServers, 0), ofFiles("files", apiServers, 0)
	external.source = v1alpha1.KeySourceExternal
	for _, s := range []shape{external, files} {
		if err := p.createCluster(ctx, s); err != nil {
			return err
		}
	}
	for i := range p.rotations {
		turns := []func() error{
			func() error { return note(&r.Sources.External)(p.rotate(ctx, external.name)) },
			func() error { return note(&r.Sources.Files)(p.rotate(ctx, files.name)) },
		}
		if err := inTurn(i, turns...); err != nil {
			return err
		}
	}
	return errors.Join(p.deleteCluster(ctx, external.name), p.deleteCluster(ctx, files.name))
}
