package discovery_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"gocloud.dev/blob"
	"gocloud.dev/gcerrors"

	"github.com/keyturn/keyturn/internal/fleet"
	"github.com/keyturn/keyturn/internal/fleet/discovery"
	"github.com/keyturn/keyturn/internal/fleet/fleettest"
	"github.com/keyturn/keyturn/internal/hint"
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
				fleettest.Run(t, fleettest.Fixture{New: func(t *testing.T) fleettest.Destination { return newPlace(t).fixture() }})
			})
			for name, test := range map[string]func(*testing.T, place){
				"Form":       testForm,
				"Wrong":      testWrong,
				"Foreign":    testForeign,
				"Adopts":     testAdopts,
				"Meanwhile":  testMeanwhile,
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
		`"response_types_supported":["id_token"],"subject_types_supported":["public"],` +
		`"id_token_signing_alg_values_supported":["ES256"],"keyturn.dev/cluster-uid":"` + clusterUID + `"}`
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
	own := []keystore.KeyPair{one, two}
	b := newBucket(t, p.url)
	publishOf(t, b, own, 1)
	good, goodSet := p.content(t, discoveryName), p.content(t, jwksName)
	edit := func(from, to string) []byte { return []byte(strings.Replace(string(good), from, to, 1)) }
	ours := func(keys ...keystore.KeyPair) []byte { return marked(string(jwksOf(t, keys...)), clusterUID, 2) }
	for name, test := range map[string]struct {
		name             string
		data             []byte // nil: deleted
		accepts, refuses []int
		waiting          string
		foreign          bool // the next Publish must change nothing
	}{
		"no discovery": {discoveryName, nil, nil, []int{2}, discoveryName + " is missing", false},
		"no JWKS":      {jwksName, nil, nil, []int{1, 2}, jwksName + " is missing", false},
		"half a discovery": {
			discoveryName, good[:len(good)/2], nil, []int{2}, discoveryName + " reading discovery document: malformed", false,
		},
		"half a JWKS": {jwksName, goodSet[:len(goodSet)/2], nil, nil, jwksName + " is no JWKS", false},
		"endless JWKS": {
			jwksName, append(slices.Clone(goodSet), make([]byte, jwks.MaxSize)...), nil, nil, "longer than", false,
		},
		"an error page": {jwksName, []byte("<html>"), nil, nil, jwksName + " is no JWKS", false},
		"other issuer": {
			discoveryName, edit(`"https://oidc.example.com/blue"`, `"https://evil.example.com"`), nil, []int{2},
			"another issuer", false,
		},
		"other JWKS":      {discoveryName, edit("/blue/openid", "/evil/openid"), nil, []int{2}, "another JWKS", false},
		"other algorithm": {discoveryName, edit(`"RS256"`, `"ES256"`), nil, []int{2}, "algorithms [RS256]", false},
		"one algorithm more": {
			discoveryName, edit(`"RS256"`, `"ES256","RS256"`), []int{1}, []int{2}, "algorithms [RS256]", false,
		},
		"other subjects": {discoveryName, edit(`"public"`, `"pairwise"`), []int{1}, []int{2}, "subject types", false},
		"no mark":        {jwksName, jwksOf(t, one), []int{1}, []int{2}, "lacks the stage of its keys", false},
		"no UID": {
			discoveryName, edit(`"keyturn.dev/cluster-uid"`, `"other"`), []int{1}, []int{2}, "is not marked", false,
		},
		"kid empty": {
			jwksName, []byte(strings.Replace(string(goodSet), "]", ","+strings.Replace(keysIn(goodSet), one.KeyID, "", 1)+"]",
				1)),
			[]int{1}, []int{2}, "1 keys that cannot be used", false,
		},
		"foreign key":       {jwksName, ours(one, other), []int{1}, []int{2}, "1 keys that the cluster does not have", true},
		"foreign keys only": {jwksName, ours(other), nil, []int{1, 2}, "1 keys that the cluster does not have", true},
		"stolen kid": {
			jwksName, withKid(ours(other), other.KeyID, one.KeyID), nil, []int{1, 2}, "1 keys that the cluster does not have",
			true,
		},
		"foreign key, no mark": {
			jwksName, jwksOf(t, one, other), []int{1}, []int{2}, "1 keys that the cluster does not have", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if test.data == nil {
				if err := p.bucket(t).Delete(t.Context(), test.name); err != nil {
					t.Fatal(err)
				}
			} else {
				p.replace(t, test.name, test.data)
			}
			o := observe(t, b, own...)
			if !slices.Equal(o.Accepts, test.accepts) || !slices.Equal(o.Refuses, test.refuses) ||
				!strings.Contains(o.Waiting, test.waiting) {
				t.Errorf("observed %+v, want accepts %v, refuses %v and waiting with %q", o, test.accepts, test.refuses,
					test.waiting)
			}
			if strings.Contains(o.Waiting, "evil") {
				t.Errorf("what an attacker wrote is told: %q", o.Waiting)
			}
			if test.foreign {
				wantUntouched(t, p, func() {
					if err := newBucket(t, p.url).Publish(t.Context(), own, []int{1}); !errors.Is(err, fleet.ErrForeign) {
						t.Errorf("publishing: %v, want %v", err, fleet.ErrForeign)
					}
				})
				p.replace(t, test.name, map[string][]byte{discoveryName: good, jwksName: goodSet}[test.name])
				return
			}
			publishOf(t, newBucket(t, p.url), own, 1)
			wantClean(t, b, own, 1)
		})
	}
}

// testForeign has what others published at the URL before the cluster: nothing of it is changed or removed.
func testForeign(t *testing.T, p place) {
	one, other := generate(t, 1, jwks.RS256), generate(t, 2, jwks.RS256)
	const another = "https://oidc.example.com/green"
	document := func(issuer, more string) []byte {
		return []byte(`{"issuer":"` + issuer + `","jwks_uri":"` + issuer +
			`/openid/v1/jwks","response_types_supported":["id_token"],` +
			`"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["RS256"]` + more + `}`)
	}
	for name, there := range map[string]struct{ discovery, keys []byte }{
		"another issuer":          {document(another, ""), jwksOf(t, other)},
		"another issuer, no keys": {document(another, ""), nil},
		"a part of a document":    {[]byte(`{"issuer":"` + another + `"}`), jwksOf(t, other)},
		"another issuer, our key": {document(another, ""), jwksOf(t, one)},
		"our issuer, other keys":  {document(issuer, ""), jwksOf(t, other)},
		"our issuer, marked": {
			marked(string(document(issuer, "")), otherUID, 0), marked(string(jwksOf(t, one)), otherUID, 2),
		},
		"JWKS marked": {nil, marked(string(jwksOf(t, one)), otherUID, 2)},
		"other keys":  {nil, jwksOf(t, other)},
		"keys of another kind": {
			nil, []byte(`{"keys":[{"kty":"OKP","kid":"x","use":"sig","alg":"EdDSA","crv":"Ed25519","x":"AAAA"}]}`),
		},
		"a page": {[]byte("<html>"), nil},
		"a list": {nil, []byte("[]")},
	} {
		t.Run(name, func(t *testing.T) {
			for name, data := range map[string][]byte{discoveryName: there.discovery, jwksName: there.keys} {
				if err := p.bucket(t).Delete(t.Context(), name); err != nil && gcerrors.Code(err) != gcerrors.NotFound {
					t.Fatal(err)
				}
				if data != nil {
					p.replace(t, name, data)
				}
			}
			wantUntouched(t, p, func() {
				b := newBucket(t, p.url)
				if o, err := b.Observe(t.Context(), []keystore.KeyPair{one}); err == nil && o.Waiting == "" {
					t.Errorf("observed %+v and nothing to wait for", o)
				}
				err := b.Publish(t.Context(), []keystore.KeyPair{one}, []int{1})
				if !errors.Is(err, fleet.ErrForeign) || hint.Of(err) != "" {
					t.Errorf("publishing: %v, want %v without a hint about permissions", err, fleet.ErrForeign)
				}
				if err := b.Remove(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// wantUntouched wants both objects to be the same after something was done.
func wantUntouched(t *testing.T, p place, do func()) {
	t.Helper()
	discovery, keys := p.content(t, discoveryName), p.content(t, jwksName)
	do()
	if diff := cmp.Diff([]string{string(discovery), string(keys)},
		[]string{string(p.content(t, discoveryName)), string(p.content(t, jwksName))}); diff != "" {
		t.Errorf("the objects of somebody else changed (-was +is):\n%s", diff)
	}
}

// testAdopts has objects of the cluster's issuer and key without a mark, as an earlier version wrote them.
func testAdopts(t *testing.T, p place) {
	one := generate(t, 1, jwks.RS256)
	b := newBucket(t, p.url)
	publish(t, b, one)
	for _, name := range []string{discoveryName, jwksName} {
		p.replace(t, name,
			[]byte(strings.Replace(string(p.content(t, name)), ",\"keyturn.dev/cluster-uid\":\""+clusterUID+"\"", "", 1)))
	}
	if o := observe(t, b, one); !slices.Equal(o.Accepts, []int{1}) ||
		!strings.Contains(o.Waiting, "is not marked as the cluster's") {
		t.Errorf("observed %+v", o)
	}
	publish(t, b, one)
	wantClean(t, b, []keystore.KeyPair{one}, 1)
}

// testMeanwhile has somebody publish between our reading and our writing: another cluster where nothing was, and
// another controller of our cluster where keys of an earlier stage were.
func testMeanwhile(t *testing.T, p place) {
	if p.gate == nil {
		t.Skip("nobody is told of each read of a directory")
	}
	one, two, three := generate(t, 1, jwks.ES256), generate(t, 2, jwks.ES256), generate(t, 3, jwks.ES256)
	other := marked(string(jwksOf(t, generate(t, 1, jwks.RS256))), otherUID, 2)
	meanwhile := func(data []byte, versions ...int) {
		t.Helper()
		p.gate.before(func() { p.replace(t, jwksName, data) })
		if err := newBucket(t, p.url).Publish(t.Context(), []keystore.KeyPair{one, two, three}, versions); err == nil {
			t.Error("publishing: no error")
		}
		if got := p.content(t, jwksName); string(got) != string(data) {
			t.Errorf("the JWKS that somebody else has published is now %s", got)
		}
	}
	meanwhile(other, 1)
	remove(t, p, jwksName)
	publish(t, newBucket(t, p.url), one)
	meanwhile(marked(string(jwksOf(t, two, three)), clusterUID, 5), 1, 2)
}

// remove takes an object away as somebody else would.
func remove(t *testing.T, p place, name string) {
	t.Helper()
	if err := p.bucket(t).Delete(t.Context(), name); err != nil {
		t.Fatal(err)
	}
}

// keysIn is what is between the brackets of a JWKS.
func keysIn(set []byte) string {
	_, rest, _ := strings.Cut(string(set), "[")
	keys, _, _ := strings.Cut(rest, "]")
	return keys
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

// testHeaders changes the headers of objects with the right content: verifiers would cache them beyond CertainAt.
func testHeaders(t *testing.T, p place) {
	if p.gate == nil {
		t.Skip("a directory keeps no headers")
	}
	k := generate(t, 1, jwks.ES256)
	b := newBucket(t, p.url)
	publish(t, b, k)
	for name, contentType := range map[string]string{
		discoveryName: "application/json", jwksName: "application/jwk-set+json",
	} {
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

// transitions are what two rotations to other algorithms publish.
var transitions = [][]int{{}, {1}, {1, 2}, {2}, {2, 3}, {3}}

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

// testOrder checks what is served after each single write.
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
		publishOf(t, b, keys, to...)
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
				publishOf(t, newBucket(t, p.url), keys, from...)
			}
			if !crash(t, p, after, keys, to) {
				break
			}
			b := newBucket(t, p.url)
			if o := observe(t, b, keys...); o.Waiting != "" {
				told++
			} else if !slices.Equal(o.Accepts, to) {
				t.Errorf("%v to %v, ended after write %d: observed %+v and nothing to wait for", transitions[i], to, after, o)
			}
			publishOf(t, b, keys, to...)
			wantClean(t, b, keys, to...)
		}
	}
	if told == 0 {
		t.Error("no crash left anything to wait for")
	}
}

// crash publishes the keys and is interrupted after the given number of writes. It reports whether there were as many.
func crash(t *testing.T, p place, after int, keys []keystore.KeyPair, to []int) bool {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	before := p.gate.Writes()
	p.gate.written = func(n int) {
		if n-before == after {
			cancel()
		}
	}
	defer func() { p.gate.written = nil }()
	err := newBucket(t, p.url).Publish(ctx, keys, to)
	if (err == nil) != (ctx.Err() == nil) {
		t.Errorf("ended after write %d: %v", after, err)
	}
	return ctx.Err() != nil
}

// testOwnObjects has the objects of others beside: they stay.
func testOwnObjects(t *testing.T, p place) {
	others := []string{
		".well-known/openid-configuration2", ".well-known/security.txt", "index.html", "openid/v1/jwks.1.tmpl",
		"openid/v1/jwks2",
	}
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
		"publishing to": b.Publish(t.Context(), []keystore.KeyPair{k}, []int{k.Version}),
		"removing from": b.Remove(t.Context()),
	} {
		text := fmt.Sprint(err)
		if !strings.HasPrefix(text, doing+" "+b.Name()+": ") || hint.Of(err) == "" || !strings.Contains(text, want) {
			t.Errorf("%s: %v", doing, err)
		}
		if strings.Contains(text, "hunter2") || strings.Contains(text, "sig=") {
			t.Errorf("%s: the error holds a secret: %v", doing, err)
		}
	}
}
