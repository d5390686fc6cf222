package controller_test

import (
	"context"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleet/fleettest"
	"github.com/keyturn/keyturn/internal/fleet/gkehub"
	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/keystore"
)

// fleetWorld is a world with a local fleet, which every cluster is registered with by the adapter for GKE Hub.
type fleetWorld struct {
	*world
	*fleetserver.Server
	places map[client.ObjectKey]*gkehub.Membership
	make   func(*v1alpha1.UserCluster) *gkehub.Membership
	// timeout limits each call of a membership; zero is its default.
	timeout time.Duration
	ahead   time.Duration
}

func newFleetWorld(t *testing.T) *fleetWorld {
	t.Helper()
	w := &fleetWorld{world: newWorld(t), places: map[client.ObjectKey]*gkehub.Membership{}}
	listener := httptest.NewUnstartedServer(nil)
	listener.StartTLS()
	key, registrar, err := fleetserver.NewServiceAccountKey(listener.URL+"/token", "register@example.com")
	if err != nil {
		t.Fatal(err)
	}
	w.Server, err = fleetserver.New(fleetserver.Options{
		StateFile: filepath.Join(t.TempDir(), "fleet.json"), Registrars: []fleetserver.Registrar{registrar},
		TokenURI: listener.URL + "/token",
	})
	if err != nil {
		t.Fatal(err)
	}
	listener.Config.Handler = w.Server
	t.Cleanup(func() {
		listener.Close()
		if err := w.Server.Close(); err != nil {
			t.Error(err)
		}
	})
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: listener.Certificate().Raw})
	w.make = func(uc *v1alpha1.UserCluster) *gkehub.Membership {
		m, err := gkehub.New(t.Context(), gkehub.Options{
			ProjectID: "my-project", Location: "global", Membership: uc.Name, ExternalID: string(uc.UID),
			Issuer:   uc.Spec.KSASigningKey.Issuer,
			Endpoint: listener.URL, STSEndpoint: listener.URL, CABundle: ca, CredentialsJSON: key, Timeout: w.timeout,
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	w.restartController()
	return w
}

// restartController replaces the controller by one that remembers nothing. What it learns of the fleet it believes for
// one round only: its clock runs ahead.
func (w *fleetWorld) restartController() {
	w.restart()
	w.reconciler.Publishers = &destinations{of: func(uc *v1alpha1.UserCluster) []fleet.Publisher {
		return []fleet.Publisher{w.membership(uc)}
	}}
	w.reconciler.Now = func() time.Time {
		w.ahead += time.Minute
		return time.Now().Add(w.ahead)
	}
}

func (w *fleetWorld) membership(uc *v1alpha1.UserCluster) *gkehub.Membership {
	key := client.ObjectKeyFromObject(uc)
	if w.places[key] == nil {
		w.places[key] = w.make(uc)
	}
	return w.places[key]
}

// setDown has the fleet answer nobody, or all again. Nothing that is down becomes right by waiting longer for it.
func (w *fleetWorld) setDown(down bool) {
	w.SetFaults(fleetserver.Faults{Down: down})
	w.timeout = 0
	if down {
		w.timeout = 200 * time.Millisecond
	}
	clear(w.places)
}

// accepts are the key versions that the fleet proves to accept.
func (w *fleetWorld) accepts(key client.ObjectKey) []int {
	w.Helper()
	uc := w.get(key)
	keys, err := w.keys.List(w.Context(), keystore.ClusterOf(uc))
	if err != nil {
		w.Fatal(err)
	}
	seen, err := w.membership(uc).Observe(w.Context(), keys)
	if err != nil {
		w.Fatal(err)
	}
	return seen.Accepts
}

func (w *fleetWorld) wantAccepted(key client.ObjectKey, versions ...int) {
	w.Helper()
	if got := w.accepts(key); !slices.Equal(got, versions) {
		w.Errorf("the fleet accepts key versions %v, want %v", got, versions)
	}
}

// neverAhead wants the fleet to accept what any API server signs with, whenever it is called.
func (w *fleetWorld) neverAhead(uc *v1alpha1.UserCluster) {
	w.Helper()
	key := client.ObjectKeyFromObject(uc)
	accepted := w.accepts(key)
	w.with(key, func(c *userCluster) {
		for _, s := range c.servers {
			if sign := s.Configured.Sign; sign > 1 && !slices.Contains(accepted, sign) {
				w.Errorf("%s signs with key version %d, and the fleet accepts %v", s.Name, sign, accepted)
			}
		}
	})
}

func (w *fleetWorld) delete(uc *v1alpha1.UserCluster) {
	w.Helper()
	if err := w.membership(uc).Remove(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// stays wants some rounds to change nothing of the step, and the status to say what is waited for.
func (w *fleetWorld) stays(key client.ObjectKey, step, waiting string) {
	w.Helper()
	for range 5 {
		uc := w.round(key)
		if k := uc.Status.KSASigningKey; k.Step != step || !strings.Contains(k.WaitingFor, waiting) {
			w.Errorf("in step %s it waits for %q, want step %s and %q", k.Step, k.WaitingFor, step, waiting)
		}
	}
}

// signing returns the key versions with which API servers are configured to sign.
func (w *fleetWorld) signing(key client.ObjectKey) (versions []int) {
	w.with(key, func(c *userCluster) {
		for _, s := range c.servers {
			versions = append(versions, s.Configured.Sign)
		}
	})
	slices.Sort(versions)
	return slices.Compact(versions)
}

func TestFleetFollowsRotation(t *testing.T) {
	t.Parallel()
	w := newFleetWorld(t)
	blue := w.settled("blue", threeServers)
	w.wantAccepted(blue, 1)
	p := w.get(blue).Status.Publications
	if len(p) != 1 || p[0].Name != "fleet membership projects/my-project/locations/global/memberships/blue" ||
		!slices.Equal(p[0].AcceptedVersions, []int32{1}) || p[0].PublishedAt == nil || p[0].WaitingFor != "" {
		t.Errorf("the status tells publications %+v", p)
	}

	w.rotate(blue)
	w.until(blue, inStep("Switch"), w.neverAhead)
	w.wantAccepted(blue, 1, 2)
	w.until(blue, isSettled, w.neverAhead)
	w.wantOnly(blue, 2)
	w.wantAccepted(blue, 2)

	uc := w.get(blue)
	w.world.delete(blue)
	w.until(blue, isGone)
	seen, err := w.membership(uc).Observe(t.Context(), []keystore.KeyPair{generate(t, 2)})
	if err != nil || !strings.Contains(seen.Waiting, "registered") {
		t.Errorf("after its deletion the cluster's membership is %+v (%v), want none", seen, err)
	}
}

// The fleet does not answer when the key is to be published: nothing signs with it, and the status says why.
func TestFleetDownBeforePublish(t *testing.T) {
	t.Parallel()
	w := newFleetWorld(t)
	blue := w.settled("blue", threeServers)
	w.setDown(true)
	w.failing = true
	w.rotate(blue)
	w.until(blue, func(uc *v1alpha1.UserCluster) bool {
		return strings.Contains(uc.Status.KSASigningKey.WaitingFor, "fleet membership")
	})
	w.restartController()
	w.stays(blue, "Publish", "fleet membership projects/my-project/locations/global/memberships/blue")
	if got := w.signing(blue); !slices.Equal(got, []int{1}) {
		t.Errorf("API servers sign with key versions %v while the fleet does not know the new one", got)
	}
	w.setDown(false)
	w.until(blue, isSettled, w.neverAhead)
	w.wantOnly(blue, 2)
	w.wantAccepted(blue, 2)
}

// The fleet does not answer from the switch on: the rotation goes on to the end but for the old key, which stays
// until the fleet has let it go.
func TestFleetDownBeforeRetire(t *testing.T) {
	t.Parallel()
	w := newFleetWorld(t)
	blue := w.settled("blue")
	w.rotate(blue)
	w.until(blue, inStep("Refresh"))
	w.setDown(true)
	w.failing = true
	w.until(blue, func(uc *v1alpha1.UserCluster) bool {
		return inStep("Retire")(uc) && strings.Contains(uc.Status.KSASigningKey.WaitingFor, "fleet membership")
	})
	w.stays(blue, "Retire", "fleet membership")
	if stored := w.stored(blue); !slices.Equal(stored, []int{1, 2}) {
		t.Errorf("key versions %v are stored, want both while the fleet may accept the old one", stored)
	}
	w.setDown(false)
	w.until(blue, isSettled)
	w.wantOnly(blue, 2)
	w.wantAccepted(blue, 2)
}

// The fleet has the keys, and its verifiers go on with what it had before: the canary holds the rotation back.
func TestFleetServesStaleKeys(t *testing.T) {
	t.Parallel()
	w := newFleetWorld(t)
	blue := w.settled("blue", threeServers)
	w.SetFaults(fleetserver.Faults{PropagationDelay: time.Hour})
	w.rotate(blue)
	const waiting = "to accept a canary token of key version 2"
	w.until(blue, func(uc *v1alpha1.UserCluster) bool {
		return strings.Contains(uc.Status.KSASigningKey.WaitingFor, waiting)
	})
	w.stays(blue, "Publish", waiting)
	if got := w.signing(blue); !slices.Equal(got, []int{1}) {
		t.Errorf("API servers sign with key versions %v while the fleet does not accept the new one", got)
	}
	w.wantAccepted(blue, 1)

	// The delay belongs to the change; a new registration is known at once.
	w.SetFaults(fleetserver.Faults{})
	w.delete(w.get(blue))
	w.until(blue, isSettled, w.neverAhead)
	w.wantOnly(blue, 2)
	w.wantAccepted(blue, 2)
}

// The fleet fails many requests, some of which it has carried out.
func TestFleetFails(t *testing.T) {
	t.Parallel()
	for _, code := range []int{409, 429, 500} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			t.Parallel()
			w := newFleetWorld(t)
			w.failing = true
			w.SetFaults(fleetserver.Faults{ErrorRate: 0.3, ErrorCodes: []int{code}, OperationErrorRate: 0.2})
			blue := w.settled("blue")
			w.rotate(blue)
			w.until(blue, isSettled)
			w.SetFaults(fleetserver.Faults{})
			w.wantOnly(blue, 2)
			w.wantAccepted(blue, 2)
		})
	}
}

// Somebody deletes the membership: it is registered again, with the keys of that moment.
func TestFleetLosesMembership(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"", "Publish", "Switch", "Refresh", "Retire"} {
		t.Run("in step "+step, func(t *testing.T) {
			t.Parallel()
			w := newFleetWorld(t)
			blue := w.settled("blue", threeServers)
			if step != "" {
				w.rotate(blue)
				w.until(blue, inStep(step))
			}
			w.delete(w.get(blue))
			if step == "" {
				w.until(blue, func(uc *v1alpha1.UserCluster) bool { return !isSettled(uc) })
			}
			uc := w.until(blue, isSettled)
			version := int(uc.Spec.KSASigningKey.Version)
			w.wantOnly(blue, version)
			w.wantAccepted(blue, version)
		})
	}
}

// slowly is a place that accepts keys at once, and whose verifiers may not all have them for an hour.
type slowly struct {
	fleettest.Memory
}

func (s *slowly) Observe(ctx context.Context, keys []keystore.KeyPair) (fleet.Observation, error) {
	seen, err := s.Memory.Observe(ctx, keys)
	seen.CertainAt = seen.PublishedAt.Add(time.Hour)
	return seen, err
}

// However much is proven, the switch and the end of the rotation wait out the propagation time, which a restart of the
// controller does not begin again.
func TestPropagationTime(t *testing.T) {
	w := newWorld(t)
	place, ahead := &slowly{}, time.Duration(0)
	setUp := func() {
		w.restart()
		w.reconciler.Publishers = &destinations{of: func(*v1alpha1.UserCluster) []fleet.Publisher {
			return []fleet.Publisher{place}
		}}
		w.reconciler.Now = func() time.Time { return time.Now().Add(ahead) }
	}
	setUp()
	blue := w.settled("blue")
	w.rotate(blue)
	const waiting = "every verifier of memory to accept key versions [1 2] and no other, at the latest at "
	w.until(blue, func(uc *v1alpha1.UserCluster) bool {
		return strings.Contains(uc.Status.KSASigningKey.WaitingFor, waiting)
	})
	ahead = 59 * time.Minute
	setUp()
	for range 3 {
		if uc := w.round(blue); !inStep("Publish")(uc) || !strings.Contains(uc.Status.KSASigningKey.WaitingFor, waiting) {
			t.Errorf("in step %s it waits for %q", uc.Status.KSASigningKey.Step, uc.Status.KSASigningKey.WaitingFor)
		}
	}
	ahead = 61 * time.Minute
	w.until(blue, inStep("Refresh"))
	ahead = 0
	w.until(blue, func(uc *v1alpha1.UserCluster) bool {
		const waiting = "every verifier of memory to accept key versions [2] and no other, at the latest at "
		return inStep("Retire")(uc) && strings.Contains(uc.Status.KSASigningKey.WaitingFor, waiting)
	}, func(uc *v1alpha1.UserCluster) {
		if awaitsWatches(uc) {
			ahead += 20 * time.Second
		}
	})
	ahead = 61 * time.Minute
	w.until(blue, isSettled)
	w.wantOnly(blue, 2)
}

func generate(t *testing.T, version int) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, "ES256")
	if err != nil {
		t.Fatal(err)
	}
	return k
}
