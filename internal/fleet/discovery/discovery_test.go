package discovery_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"

	"github.com/keyturn/keyturn/internal/fleet/discovery"
	"github.com/keyturn/keyturn/internal/fleet/fleettest"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/jwks"
)

// TestStores runs everything that is the same for all stores against each kind of them.
func TestStores(t *testing.T) {
	useAWS(t)
	for name, newPlace := range map[string]func(*testing.T) place{
		"Directory": newDirectory,
		"S3":        newS3,
		"Google":    startGoogle(t),
		"Azure":     startAzure(t),
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("Conformance", func(t *testing.T) {
				fleettest.Run(t, fleettest.Fixture{New: func(t *testing.T) fleettest.Place { return newPlace(t).fixture() }})
			})
			for name, test := range map[string]func(*testing.T, place){
				"Form":       testForm,
				"Wrong":      testWrong,
				"Headers":    testHeaders,
				"Order":      testOrder,
				"Crash":      testCrash,
				"OwnObjects": testOwnObjects,
				"Forbidden":  testForbidden,
				"Silent":     testSilent,
			} {
				t.Run(name, func(t *testing.T) { test(t, newPlace(t)) })
			}
		})
	}
}

// testForm compares the objects with those of a kube-apiserver, byte for byte.
func testForm(t *testing.T, p place) {
	k := generate(t, 1, jwks.ES256)
	publish(t, newBucket(t, p.url), k)
	want := `{"issuer":"https://oidc.example.com/blue","jwks_uri":"https://oidc.example.com/blue/openid/v1/jwks",` +
		`"response_types_supported":["id_token"],"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`
	if diff := cmp.Diff(want, string(p.content(t, discoveryName))); diff != "" {
		t.Errorf("discovery document (-want +got):\n%s", diff)
	}
	set, err := jwks.Parse(p.content(t, jwksName))
	if err != nil || set.Len() != 1 || set.Keys()[0].KeyID != k.KeyID {
		t.Errorf("the JWKS holds %v (%v), want the key %s", set, err, k.KeyID)
	}
	want2 := []string{discoveryName, jwksName}
	if diff := cmp.Diff(want2, p.names(t)); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

// testWrong has each of the ways in which the objects can be wrong. Keys 1 and 2 are the cluster's, and 1 is published.
func testWrong(t *testing.T, p place) {
	one, two, other := generate(t, 1, jwks.RS256), generate(t, 2, jwks.ES256), generate(t, 3, jwks.RS256)
	b := newBucket(t, p.url)
	publish(t, b, one)
	good, goodSet := p.content(t, discoveryName), p.content(t, jwksName)
	edit := func(from, to string) []byte { return []byte(strings.Replace(string(good), from, to, 1)) }
	for name, test := range map[string]struct {
		name             string
		data             []byte // nil: deleted
		accepts, refuses []int
		waiting          string
	}{
		"no discovery":       {discoveryName, nil, nil, []int{2}, discoveryName + " is missing"},
		"no JWKS":            {jwksName, nil, nil, []int{1, 2}, jwksName + " is missing"},
		"half a discovery":   {discoveryName, good[:len(good)/2], nil, []int{2}, discoveryName + " reading discovery document: malformed"},
		"half a JWKS":        {jwksName, goodSet[:len(goodSet)/2], nil, nil, jwksName + " is no JWKS"},
		"endless JWKS":       {jwksName, append(goodSet, make([]byte, jwks.MaxSize)...), nil, nil, "longer than"},
		"an error page":      {jwksName, []byte("<html>"), nil, nil, jwksName + " is no JWKS"},
		"other issuer":       {discoveryName, edit(`"https://oidc.example.com/blue"`, `"https://evil.example.com"`), nil, []int{2}, "another issuer"},
		"other JWKS":         {discoveryName, edit("/blue/openid", "/evil/openid"), nil, []int{2}, "another JWKS"},
		"other algorithm":    {discoveryName, edit(`"RS256"`, `"ES256"`), nil, []int{2}, "algorithms [RS256]"},
		"one algorithm more": {discoveryName, edit(`"RS256"`, `"ES256","RS256"`), []int{1}, []int{2}, "algorithms [RS256]"},
		"other subjects":     {discoveryName, edit(`"public"`, `"pairwise"`), []int{1}, []int{2}, "subject types"},
		"foreign key":        {jwksName, jwksOf(t, one, other), []int{1}, []int{2}, "1 keys that are none of the cluster's"},
		"foreign keys only":  {jwksName, jwksOf(t, other), nil, []int{1, 2}, "1 keys that are none of the cluster's"},
		"stolen kid":         {jwksName, withKid(jwksOf(t, other), other.KeyID, one.KeyID), nil, []int{1, 2}, "none of the cluster's"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.data == nil {
				if err := p.bucket(t).Delete(t.Context(), test.name); err != nil {
					t.Fatal(err)
				}
			} else {
				p.replace(t, test.name, test.data)
			}
			o := observe(t, b, one, two)
			if !slices.Equal(o.Accepts, test.accepts) || !slices.Equal(o.Refuses, test.refuses) || !strings.Contains(o.Waiting, test.waiting) {
				t.Errorf("observed %+v, want accepts %v, refuses %v and waiting with %q", o, test.accepts, test.refuses, test.waiting)
			}
			if strings.Contains(o.Waiting, "evil") {
				t.Errorf("what an attacker wrote is told: %q", o.Waiting)
			}
			publish(t, newBucket(t, p.url), one)
			wantClean(t, b, []keystore.KeyPair{one, two}, 1)
		})
	}
}

func jwksOf(t *testing.T, keys ...keystore.KeyPair) []byte {
	t.Helper()
	var public []jwks.Key
	for _, k := range keys {
		public = append(public, jwks.Key{KeyID: k.KeyID, Algorithm: k.Algorithm, Public: k.Signer.Public()})
	}
	set, err := jwks.NewSet(public...)
	if err != nil {
		t.Fatal(err)
	}
	data, err := set.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func withKid(data []byte, old, kid string) []byte {
	return []byte(strings.ReplaceAll(string(data), old, kid))
}

func wantClean(t *testing.T, b *discovery.Bucket, keys []keystore.KeyPair, accepted ...int) {
	t.Helper()
	o := observe(t, b, keys...)
	if !slices.Equal(o.Accepts, accepted) || len(o.Refuses) != len(keys)-len(accepted) || o.Waiting != "" {
		t.Errorf("observed %+v, want %v accepted and nothing else", o, accepted)
	}
}

// testHeaders changes the headers of objects with the right content: verifiers would keep them for longer than SureAt says.
func testHeaders(t *testing.T, p place) {
	if p.gate == nil {
		t.Skip("a directory keeps no headers")
	}
	k := generate(t, 1, jwks.ES256)
	b := newBucket(t, p.url)
	publish(t, b, k)
	for name, contentType := range map[string]string{discoveryName: "application/json", jwksName: "application/jwk-set+json"} {
		a, err := p.bucket(t).Attributes(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		keeps := !strings.HasPrefix(p.url, "s3:") // gofakes3 drops Cache-Control, which S3 does not
		if a.ContentType != contentType || keeps && a.CacheControl != "public, max-age=60" {
			t.Errorf("%s has Content-Type %q and Cache-Control %q", name, a.ContentType, a.CacheControl)
		}
		for header, o := range map[string]*blob.WriterOptions{
			"Content-Type":  {ContentType: "text/html", CacheControl: "public, max-age=60"},
			"Cache-Control": {ContentType: contentType, CacheControl: "public, max-age=3600"},
		} {
			if header == "Cache-Control" && !keeps {
				continue
			}
			p.replaceWith(t, name, p.content(t, name), o)
			if o := observe(t, b, k); !strings.Contains(o.Waiting, name+" does not have "+header) || len(o.Accepts) != 1 {
				t.Errorf("%s with another %s: observed %+v", name, header, o)
			}
			publish(t, b, k)
			wantClean(t, b, []keystore.KeyPair{k}, 1)
		}
	}
}

// transitions are those of two rotations to other algorithms, and one that no rotation makes.
var transitions = [][]int{{}, {1}, {1, 2}, {2}, {2, 3}, {3}, {2}}

func rotationKeys(t *testing.T) []keystore.KeyPair {
	return []keystore.KeyPair{generate(t, 1, jwks.RS256), generate(t, 2, jwks.ES256), generate(t, 3, jwks.RS256)}
}

func pick(keys []keystore.KeyPair, versions []int) []keystore.KeyPair {
	var picked []keystore.KeyPair
	for _, v := range versions {
		picked = append(picked, keys[v-1])
	}
	return picked
}

// testOrder looks at what is served after each single write.
func testOrder(t *testing.T, p place) {
	if p.gate == nil {
		t.Skip("nobody is told of each write to a directory")
	}
	keys := rotationKeys(t)
	b := newBucket(t, p.url)
	writes := 0
	for i, to := range transitions[1:] {
		live := pick(keys, append(slices.Clone(transitions[i]), to...))
		p.gate.written = func(int) { writes++; wantConsistent(t, p, live) }
		publish(t, b, pick(keys, to)...)
		wantClean(t, b, keys, to...)
	}
	if writes == 0 {
		t.Error("no write was seen")
	}
}

// wantConsistent wants a discovery document only with a JWKS, in the JWKS live keys only, and their algorithms listed.
func wantConsistent(t *testing.T, p place, live []keystore.KeyPair) {
	t.Helper()
	data := p.content(t, discoveryName)
	set, err := jwks.Parse(p.content(t, jwksName))
	if err != nil {
		t.Errorf("the JWKS does not parse: %v", err)
	}
	for _, k := range set.Keys() {
		if !slices.ContainsFunc(live, func(l keystore.KeyPair) bool { return l.KeyID == k.KeyID }) {
			t.Errorf("key %s is served, and not live", k.KeyID)
		}
	}
	if data == nil {
		return
	}
	var d jwks.Discovery
	if err := json.Unmarshal(data, &d); err != nil {
		t.Errorf("the discovery document does not parse: %v", err)
	}
	for _, k := range set.Keys() {
		if !slices.Contains(d.Algorithms, k.Algorithm) {
			t.Errorf("the JWKS holds a key for %s, but the discovery document lists %v", k.Algorithm, d.Algorithms)
		}
	}
}

// testCrash ends the publisher after each of the writes of each transition. Another one goes on.
func testCrash(t *testing.T, p place) {
	if p.gate == nil {
		t.Skip("nobody is told of each write to a directory")
	}
	keys := rotationKeys(t)
	told := 0
	for i, to := range transitions[1:] {
		for after := 1; ; after++ {
			if err := newBucket(t, p.url).Remove(t.Context()); err != nil {
				t.Fatal(err)
			}
			if from := transitions[i]; len(from) > 0 {
				publish(t, newBucket(t, p.url), pick(keys, from)...)
			}
			if !crash(t, p, after, pick(keys, to)) {
				break
			}
			b := newBucket(t, p.url)
			if o := observe(t, b, keys...); o.Waiting != "" {
				told++
			} else if !slices.Equal(o.Accepts, to) {
				t.Errorf("%v to %v, ended after write %d: observed %+v and nothing to wait for", transitions[i], to, after, o)
			}
			publish(t, b, pick(keys, to)...)
			wantClean(t, b, keys, to...)
		}
	}
	if told == 0 {
		t.Error("no crash left anything to wait for")
	}
}

// crash publishes the keys and ends it after so many writes. It says whether there were as many.
func crash(t *testing.T, p place, after int, keys []keystore.KeyPair) bool {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := p.gate.Writes()
	p.gate.written = func(n int) {
		if n-before == after {
			cancel()
		}
	}
	defer func() { p.gate.written = nil }()
	err := newBucket(t, p.url).Publish(ctx, keys)
	if (err == nil) != (ctx.Err() == nil) {
		t.Errorf("ended after write %d: %v", after, err)
	}
	return ctx.Err() != nil
}

// testOwnObjects has the objects of others beside: they stay.
func testOwnObjects(t *testing.T, p place) {
	others := []string{".well-known/openid-configuration2", ".well-known/security.txt", "index.html", "openid/v1/jwks.1.tmpl", "openid/v1/jwks2"}
	for _, name := range others {
		p.replace(t, name, []byte("{}"))
	}
	b := newBucket(t, p.url)
	publish(t, b, generate(t, 1, jwks.ES256))
	if err := b.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(others, p.names(t)); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
}

// testForbidden has a store that lets nobody read or write. That must not look like one in which nothing is.
func testForbidden(t *testing.T, p place) {
	if p.gate == nil {
		t.Skip("nothing is forbidden to root")
	}
	k := generate(t, 1, jwks.ES256)
	publish(t, newBucket(t, p.url), k)
	store := p.gate.store
	p.gate.store = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { refuse(w) })
	wantErrors(t, newBucket(t, p.url), k, "")
	p.gate.store = store
	wantClean(t, newBucket(t, p.url), []keystore.KeyPair{k}, 1)
}

// testSilent has a store that never answers.
func testSilent(t *testing.T, p place) {
	if p.gate == nil {
		t.Skip("a directory always answers")
	}
	p.gate.store = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	b := newBucket(t, p.url)
	b.SetTimeout(20 * time.Millisecond)
	wantErrors(t, b, generate(t, 1, jwks.ES256), "deadline exceeded")
}

// wantErrors wants an error from every call, one that names the place, gives a hint and keeps its secrets.
func wantErrors(t *testing.T, b *discovery.Bucket, k keystore.KeyPair, want string) {
	t.Helper()
	_, observed := b.Observe(t.Context(), []keystore.KeyPair{k})
	for doing, err := range map[string]error{
		"observing":     observed,
		"publishing to": b.Publish(t.Context(), []keystore.KeyPair{k}),
		"removing from": b.Remove(t.Context()),
	} {
		text := fmt.Sprint(err)
		if !strings.HasPrefix(text, doing+" "+b.Name()+": ") || !strings.Contains(text, "\nhint: ") || !strings.Contains(text, want) {
			t.Errorf("%s: %v", doing, err)
		}
		if strings.Contains(text, "hunter2") || strings.Contains(text, "sig=") {
			t.Errorf("%s: the error holds a secret: %v", doing, err)
		}
	}
}
