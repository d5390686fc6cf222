package gkehub_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	hub "google.golang.org/api/gkehub/v1"

	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleet/fleettest"
	"github.com/keyturn/keyturn/internal/fleet/gkehub"
	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	for what, service := range map[string]fleetserver.Faults{
		"Prompt": {},
		// Every write takes a while, and the STS follows some time later.
		"Slow": {OperationDelay: 20 * time.Millisecond, PropagationDelay: 50 * time.Millisecond},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			fleettest.Run(t, fleettest.Fixture{Patience: time.Minute, New: func(t *testing.T) fleettest.Destination {
				w := newWorld(t, service)
				return fleettest.Destination{
					Publisher: func(*testing.T) fleet.Publisher { return w.membership() },
					Writes:    w.writes,
					Fail:      func(_ *testing.T, fault faults.Fault) { w.fail(fault) },
					AddKey:    func(_ *testing.T, k jwks.Key) { w.addKey(k) },
					Other: func(*testing.T) fleet.Publisher {
						return w.membership(func(o *gkehub.Options) { o.ExternalID = "5d1c9f1e-6f0e-4d41-8f1e-2c8a3e0a7b22" })
					},
				}
			}})
		})
	}
}

func TestRegister(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	if m.Name() != "fleet membership "+name {
		t.Errorf("Name = %q", m.Name())
	}
	if seen := wantSeen(t, m, nil, []int{1, 2}); seen.Waiting != "the membership to be registered" {
		t.Errorf("waiting for %q", seen.Waiting)
	}
	publish(t, m, 1)
	got := w.stored()
	if got.ExternalId != externalID || got.Authority.Issuer != issuer {
		t.Errorf("registered with externalId %q and issuer %q", got.ExternalId, got.Authority.Issuer)
	}
	seen := wantSeen(t, m, []int{1}, []int{2})
	at, err := time.Parse(time.RFC3339Nano, got.UpdateTime)
	must(t, err)
	if !seen.PublishedAt.Equal(at) || !seen.CertainAt.Equal(at.Add(time.Minute)) || seen.Waiting != "" {
		t.Errorf("observed %+v, want published at %v and sure a minute later", seen, at)
	}
}

// What is published already is not written again, regardless of its order and its JSON.
func TestPublishWritesOnlyWhatIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 1, 2)
	w.takeRequests()
	publish(t, m, 2, 1)
	if got := w.takeRequests(); !slices.Equal(got, []string{"GET /v1/" + name}) {
		t.Errorf("publishing again made the requests %q", got)
	}
	publish(t, m, 2)
	got := w.takeRequests()
	want := []string{"GET /v1/" + name, "PATCH /v1/" + name, "GET /v1/" + name}
	if !slices.Equal(got, want) {
		t.Errorf("publishing made the requests %q, want %q", got, want)
	}
}

// A membership of another cluster is neither taken over nor deleted, nor does it say anything about our keys.
func TestAnotherCluster(t *testing.T) {
	t.Parallel()
	for what, id := range map[string]string{"another ID": "somebody-else", "no ID": ""} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.register(&hub.Membership{ExternalId: id, Authority: &hub.Authority{Issuer: issuer}})
			w.publishAs(publicKey(t, keyPairs()[1]))
			before := w.stored()
			w.takeRequests()

			m := w.membership()
			_, observed := m.Observe(t.Context(), keyPairs())
			for doing, err := range map[string]error{
				"publishing": m.Publish(t.Context(), keyPairs(), []int{1}), "observing": observed,
			} {
				if err == nil || !strings.Contains(err.Error(), "belongs to another cluster") ||
					!strings.Contains(err.Error(), name) {
					t.Errorf("%s: %v", doing, err)
				}
			}
			must(t, m.Remove(t.Context()))
			for _, r := range w.takeRequests() {
				if isWrite(r) {
					t.Errorf("request %s for the membership of another cluster", r)
				}
			}
			if after := w.stored(); after == nil || after.UpdateTime != before.UpdateTime {
				t.Errorf("the membership is now %+v", after)
			}
		})
	}
}

func TestAnotherIssuer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	publish(t, w.membership(), 1)
	w.takeRequests()
	m := w.membership(func(o *gkehub.Options) { o.Issuer = "https://green.example" })
	_, observed := m.Observe(t.Context(), keyPairs())
	for doing, err := range map[string]error{
		"publishing": m.Publish(t.Context(), keyPairs(), []int{2}), "observing": observed,
	} {
		if err == nil || !strings.Contains(err.Error(), "an issuer cannot be changed") {
			t.Errorf("%s: %v", doing, err)
		}
	}
	if w.writes() != 0 {
		t.Error("it was written to")
	}
}

// A membership of the cluster without an issuer, as after somebody cleared it, is set up again.
func TestIssuerCleared(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 1)
	patch := &hub.Membership{Authority: &hub.Authority{ForceSendFields: []string{"Issuer"}}}
	_, err := w.hub.Patch(name, patch).UpdateMask("authority.issuer").Do()
	must(t, err)
	if seen, err := m.Observe(t.Context(), keyPairs()); err != nil || len(seen.Accepts) > 0 ||
		!strings.Contains(seen.Waiting, "issuer") {
		t.Errorf("observed %+v, %v", seen, err)
	}
	publish(t, m, 1)
	wantSeen(t, m, []int{1}, []int{2})
}

// A key that somebody else put in under our kid is not ours.
func TestForeignKeyWithOurKeyID(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 2)
	foreign, err := keystore.Generate(rand.Reader, 3, keyPairs()[1].Algorithm)
	must(t, err)
	disguised := publicKey(t, foreign)
	disguised.KeyID = keyPairs()[1].KeyID
	w.publishAs(disguised)
	seen, err := m.Observe(t.Context(), keyPairs())
	must(t, err)
	if len(seen.Accepts) > 0 || !strings.Contains(seen.Waiting, disguised.KeyID) {
		t.Errorf("observed %+v, want nothing accepted and the key told of", seen)
	}
	if err := m.Publish(t.Context(), keyPairs(), []int{2}); !errors.Is(err, fleet.ErrForeign) {
		t.Errorf("publishing: %v, want %v", err, fleet.ErrForeign)
	}
	_, err = w.hub.Delete(name).Do() // as the error asks for
	must(t, err)
	publish(t, m, 2)
	wantSeen(t, m, []int{2}, []int{1})
}

// Labels of others stay.
func TestLabelsStay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 1)
	patch := &hub.Membership{Labels: map[string]string{"team": "till", "keyturn-stage": "2"}}
	_, err := w.hub.Patch(name, patch).UpdateMask("labels").Do()
	must(t, err)
	publish(t, m, 1, 2)
	if got := w.stored().Labels; got["team"] != "till" || got["keyturn-stage"] != "3" {
		t.Errorf("labels %v", got)
	}
}

func TestDeletedBySomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 1)
	_, err := w.hub.Delete(name).Do()
	must(t, err)
	wantSeen(t, m, nil, []int{1, 2})
	publish(t, m, 1)
	wantSeen(t, m, []int{1}, []int{2})
}

// While the STS goes on with what was published before, a version that only one of the two knows is in neither list.
func TestPropagation(t *testing.T) {
	t.Parallel()
	const delay = 5 * time.Minute
	w := newWorld(t, fleetserver.Faults{PropagationDelay: delay})
	m := w.membership()
	publish(t, m, 1)
	wantSeen(t, m, nil, nil) // the STS does not know the membership: that is no refusal
	if seen, err := m.Observe(t.Context(), pairs(2)); err != nil || len(seen.Refuses) > 0 {
		t.Errorf("observed %+v, %v, before the STS knows the membership", seen, err)
	}
	w.ahead.Add(int64(delay))
	wantSeen(t, m, []int{1}, []int{2})

	publish(t, m, 1, 2)
	wantSeen(t, m, []int{1}, nil) // 2 is published, and still refused
	w.ahead.Add(int64(delay))
	wantSeen(t, m, []int{1, 2}, nil)

	publish(t, m, 2)
	wantSeen(t, m, []int{2}, nil) // 1 is not published, and still accepted
	w.ahead.Add(int64(delay))
	wantSeen(t, m, []int{2}, []int{1})

	must(t, m.Remove(t.Context()))
	wantSeen(t, m, nil, []int{1}) // 2 is not published, and still accepted
	w.ahead.Add(int64(delay))
	wantSeen(t, m, nil, []int{1, 2})
}

// A refusal counts only beside an accepted canary: here the STS refuses them all, since they are of another time.
func TestRefusalsOfEverything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	publish(t, w.membership(), 2)
	late := w.membership(func(o *gkehub.Options) { o.Now = func() time.Time { return time.Now().Add(-time.Hour) } })
	wantSeen(t, late, nil, nil)
	wantSeen(t, w.membership(), []int{2}, []int{1})
}

// A membership without a JWKS is repaired.
func TestJWKSLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 1)
	_, err := w.hub.Patch(name, &hub.Membership{Authority: &hub.Authority{Issuer: issuer}}).UpdateMask("authority").Do()
	must(t, err)
	if seen := wantSeen(t, m, nil, []int{1, 2}); !seen.PublishedAt.IsZero() {
		t.Errorf("nothing is published, but at %v", seen.PublishedAt)
	}
	publish(t, m, 1)
	wantSeen(t, m, []int{1}, []int{2})
}

// A JWKS that cannot be read proves nothing about any key, regardless of what the STS answers, and is replaced.
func TestJWKSUnreadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 1)
	spoil := func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet {
			w.Server.ServeHTTP(rw, r)
			return
		}
		recorder := httptest.NewRecorder()
		w.Server.ServeHTTP(recorder, r)
		var found hub.Membership
		must(t, json.Unmarshal(recorder.Body.Bytes(), &found))
		found.Authority.OidcJwks = base64.StdEncoding.EncodeToString([]byte(`{"keys": [{"kty": "OKP"}]}`))
		must(t, json.NewEncoder(rw).Encode(found))
	}
	w.answer(spoil)
	if seen := wantSeen(t, m, nil, nil); !strings.Contains(seen.Waiting, "cannot be read") {
		t.Errorf("waiting for %q", seen.Waiting)
	}
	w.takeRequests()
	w.answer(func(rw http.ResponseWriter, r *http.Request) {
		spoil(rw, r)
		w.answer(nil)
	})
	publish(t, m, 1)
	if w.writes() != 1 {
		t.Errorf("%d writes, want one", w.writes())
	}
	wantSeen(t, m, []int{1}, []int{2})
}

// Both errors by which an STS may refuse a token (RFC 8693, section 2.2.2) are refusals, but alone they prove something
// only where no key is listed.
func TestRefusalCodes(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"invalid_grant", "invalid_request"} {
		w := newWorld(t)
		m := w.membership()
		w.answer(func(rw http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/token" {
				http.Error(rw, `{"error": "`+code+`"}`, http.StatusBadRequest)
				return
			}
			w.Server.ServeHTTP(rw, r)
		})
		wantSeen(t, m, nil, []int{1, 2})
		publish(t, m, 1)
		wantSeen(t, m, nil, nil)
	}
}

// A long-running operation that does not end within the call is an error that says so, and the next call finds its end.
func TestOperationTakesLong(t *testing.T) {
	t.Parallel()
	w := newWorld(t, fleetserver.Faults{OperationDelay: 10 * time.Minute})
	m := w.membership(within(500 * time.Millisecond))
	for _, want := range []string{"operation", "CREATING"} {
		if err := m.Publish(t.Context(), keyPairs(), []int{1}); err == nil ||
			!strings.Contains(err.Error(), "still running") || !strings.Contains(err.Error(), want) {
			t.Errorf("publishing: %v, want that something is still running (%s)", err, want)
		}
	}
	if seen, err := m.Observe(t.Context(), keyPairs()); err != nil || !strings.Contains(seen.Waiting, "CREATING") {
		t.Errorf("observed %+v, %v", seen, err)
	}
	if n := w.writes(); n != 1 {
		t.Errorf("%d writes, want one", n)
	}
	w.ahead.Add(int64(10 * time.Minute))
	patient := w.membership()
	publish(t, patient, 1)
	wantSeen(t, patient, []int{1}, []int{2})

	if err := m.Remove(t.Context()); err == nil || !strings.Contains(err.Error(), "still running") {
		t.Errorf("removing: %v", err)
	}
	for doing, err := range map[string]error{
		"publishing": m.Publish(t.Context(), keyPairs(), []int{1}), "removing": m.Remove(t.Context()),
	} {
		if err == nil || !strings.Contains(err.Error(), "DELETING") {
			t.Errorf("%s: %v, want that it is being deleted", doing, err)
		}
	}
	w.ahead.Add(int64(10 * time.Minute))
	must(t, patient.Remove(t.Context()))
	wantSeen(t, patient, nil, []int{1, 2})
}

// What Google's API takes is the JSON of the set in base64, as any client reads it.
func TestWire(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	publish(t, w.membership(), 1, 2)
	document, err := base64.StdEncoding.DecodeString(w.stored().Authority.OidcJwks)
	must(t, err)
	set, err := jwks.Parse(document)
	must(t, err)
	for _, k := range keyPairs() {
		if _, ok := set.Lookup(k.KeyID); !ok || set.Len() != 2 {
			t.Errorf("published %s, without kid %s", document, k.KeyID)
		}
	}
}
