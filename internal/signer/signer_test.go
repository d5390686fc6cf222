package signer

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/internal/signer/keydir"
	"github.com/keyturn/keyturn/jwks"
)

func TestSign(t *testing.T) {
	for _, algorithm := range []string{jwks.RS256, jwks.ES256, jwks.ES384} {
		t.Run(algorithm, func(t *testing.T) {
			w := newWorld(t, algorithm)
			w.write(1, 1)
			w.start()
			w.fetch()
			w.wantSigner(1, "at the start")
			r, err := w.client.Sign(t.Context(), &externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(claims))})
			if err != nil {
				t.Fatal(err)
			}
			raw, err := base64.RawURLEncoding.DecodeString(r.Header)
			if err != nil {
				t.Fatal(err)
			}
			kid, err := jwks.KeyID(w.keys[1].Public)
			if err != nil {
				t.Fatal(err)
			}
			var header map[string]string
			want := map[string]string{"alg": algorithm, "kid": kid, "typ": "JWT"}
			if err := json.Unmarshal(raw, &header); err != nil || !maps.Equal(header, want) {
				t.Errorf("header %s (%v), want %v", raw, err, want)
			}
		})
	}
}

func TestFetchKeysAndMetadata(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	excluded := w.keys[3]
	excluded.VerifyOnly, excluded.ExcludeFromOIDCDiscovery = true, true
	w.keys[3] = excluded
	w.write(1, 1, 3)
	w.start()
	r := w.fetch()
	if r.RefreshHintSeconds != 3600 {
		t.Errorf("refresh hint %d s with one key and an excluded one, want 3600", r.RefreshHintSeconds)
	}
	for i, version := range []int{1, 3} {
		k := r.Keys[i]
		public, err := x509.ParsePKIXPublicKey(k.Key)
		kid, errKid := jwks.KeyID(public)
		if err != nil || errKid != nil || k.KeyId != kid || !backend.Same(public, w.keys[version].Public) || k.ExcludeFromOidcDiscovery != (version == 3) {
			t.Errorf("key version %d: %v, %v", version, k, err)
		}
	}
	w.write(1, 1, 2, 3)
	if r := w.fetch(); r.RefreshHintSeconds != 3 || len(r.Keys) != 3 {
		t.Errorf("refresh hint %d s with two keys, want 3", r.RefreshHintSeconds)
	}
	m, err := w.client.Metadata(t.Context(), &externaljwt.MetadataRequest{})
	if err != nil || m.MaxTokenExpirationSeconds != 86400 {
		t.Errorf("%v, %v; want 86400", m, err)
	}
}

// TestSignsOnlyWhatWasServed goes through a rotation.
func TestSignsOnlyWhatWasServed(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.wantSigner(0, "before the first fetch")
	w.fetch()
	w.wantSigner(1, "after it")
	w.write(1, 1, 2)
	w.wantSigner(1, "published")
	w.write(2, 1, 2)
	w.wantSigner(1, "switched, but version 2 was not fetched")
	w.uptime += 48 * time.Hour
	w.wantSigner(1, "long after that")
	w.fetch()
	w.wantSigner(2, "switched and fetched")
	w.write(2, 2)
	w.wantSigner(2, "retired")
	w.write(3, 3)
	w.wantSigner(0, "replaced by a key that was not fetched")
	w.fetch()
	w.wantSigner(3, "replaced and fetched")
}

func TestPreviousGoesOn(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1, 2)
	w.start()
	w.fetch()
	w.wantSigner(1, "at the start")
	w.write(3, 1, 2, 3)
	w.wantSigner(1, "version 2 was fetched too and is newer, but it is not the one that signed")
}

func TestNeverSignsVerifyOnly(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	old := w.keys[1]
	old.VerifyOnly = true
	w.keys[1] = old
	w.write(2, 1, 2)
	w.wantSigner(0, "the old key is verify-only, and the new one was not fetched")
	w.fetch()
	w.wantSigner(2, "fetched")
}

// TestKeyThatComesBackIsNew takes a key away, so that a fetch in the meantime takes it from the API server, and puts it back.
func TestKeyThatComesBackIsNew(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1, 2)
	w.start()
	w.fetch()
	w.write(1, 1)
	w.fetch()
	w.write(2, 1, 2)
	w.wantSigner(1, "version 2 has come back")
	w.fetch()
	w.wantSigner(2, "fetched again")
}

// TestExcludedKeyIsNewInDiscovery: the API server refuses signatures of a key that it was given as excluded.
func TestExcludedKeyIsNewInDiscovery(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	plain, excluded := w.keys[2], w.keys[2]
	excluded.VerifyOnly, excluded.ExcludeFromOIDCDiscovery = true, true
	w.keys[2] = excluded
	w.write(1, 1, 2)
	w.start()
	w.fetch()
	w.keys[2] = plain
	w.write(2, 1, 2)
	w.wantSigner(1, "version 2 was fetched, but as excluded")
	w.fetch()
	w.wantSigner(2, "fetched again")
}

func TestLeadIn(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	w.set.LeadIn = 30 * time.Second
	w.write(2, 1, 2)
	w.wantSigner(0, "version 1 was served just now")
	w.uptime += 29 * time.Second
	w.fetch()
	w.wantSigner(0, "after 29 s of 30")
	w.now = w.now.Add(48 * time.Hour) // somebody sets the clock
	w.wantSigner(0, "the clock was set")
	w.uptime += time.Second
	w.wantSigner(1, "version 1 was served for 30 s, version 2 for 1 s")
	w.fetch() // once more does not start it anew
	w.uptime += 29 * time.Second
	w.wantSigner(2, "version 2 was served for 30 s")
}

// TestServedOutlivesProcess starts signers anew, whose API server does not fetch again.
func TestServedOutlivesProcess(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	w.start()
	w.wantSigner(1, "started anew")
	w.write(2, 1, 2)
	w.start()
	w.wantSigner(1, "started anew with a key that was not fetched")
	w.now = w.now.Add(-48 * time.Hour)
	w.fetch()
	w.now = w.now.Add(96 * time.Hour)
	w.start()
	w.wantSigner(2, "started anew after that, with the clock stepped back and forth")
	info, err := os.Stat(w.stateFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v, %v", info.Mode(), err)
	}
}

func TestServedOfAnotherBootDoesNotCount(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	raw, err := os.ReadFile(w.stateFile())
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"another boot": strings.Replace(string(raw), boot, "another", 1), "half": string(raw[:len(raw)/2]), "empty": "",
	} {
		if err := os.WriteFile(w.stateFile(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		w.start()
		w.wantSigner(0, name)
	}
}

// TestServedInTheFuture starts the lead-in anew for a time that the boot clock has not come to.
func TestServedInTheFuture(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.set.LeadIn = 10 * time.Second
	w.write(1, 1)
	w.start()
	w.uptime += time.Hour
	w.fetch()
	w.uptime -= time.Hour
	w.start()
	w.wantSigner(0, "served in the future")
	w.uptime += 10 * time.Second
	w.wantSigner(1, "a lead-in later")
}

func TestBadSetKeepsLastGood(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	before := w.fetch().DataTimestamp.AsTime()
	if !before.Equal(w.now) {
		t.Errorf("data timestamp %s, want %s", before, w.now)
	}
	data := filepath.Join(w.keyDir(), "..data")
	if err := os.Truncate(filepath.Join(data, "1.key"), 40); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(time.Minute)
	for range 3 {
		w.signer.reload()
	}
	w.wantSigner(1, "with half a key on disk")
	if r := w.fetch(); len(r.Keys) != 1 || !r.DataTimestamp.AsTime().Equal(before) {
		t.Errorf("keys read at %s are said to be of %s", before, r.DataTimestamp.AsTime())
	}
	if n := w.logged("last good key set is kept"); n != 1 {
		t.Errorf("three bad readings were logged %d times, want once", n)
	}
	if n := testutil.ToFloat64(w.signer.metrics.reloadErrors); n != 3 {
		t.Errorf("%v reload errors, want 3", n)
	}
	if err := os.Chmod(filepath.Join(data, "1.pub"), 0o666); err != nil {
		t.Fatal(err)
	}
	w.signer.reload()
	if n := w.logged("last good key set is kept"); n != 2 {
		t.Errorf("another fault makes %d lines in all, want 2", n)
	}
	w.write(1, 1)
	if r := w.fetch(); !r.DataTimestamp.AsTime().Equal(w.now) {
		t.Errorf("good again: data timestamp %s, want %s", r.DataTimestamp.AsTime(), w.now)
	}
	w.now = w.now.Add(time.Minute)
	w.signer.reload()
	if r := w.fetch(); !r.DataTimestamp.AsTime().Equal(w.now) {
		t.Errorf("read again without a change: data timestamp %s, want %s", r.DataTimestamp.AsTime(), w.now)
	}
}

func TestNoKeysAtTheStart(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.start()
	if _, err := w.client.FetchKeys(t.Context(), &externaljwt.FetchKeysRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("FetchKeys: %v", err)
	}
	if _, err := w.client.Metadata(t.Context(), &externaljwt.MetadataRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("Metadata: %v", err)
	}
	w.wantSigner(0, "without keys")
	if err := w.signer.Ready(); err == nil {
		t.Error("ready without keys")
	}
	w.write(1, 1)
	w.fetch()
	w.wantSigner(1, "with keys")
}

func TestSignRefuses(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	encode := base64.RawURLEncoding.EncodeToString
	good := encode([]byte(claims))
	for name, bad := range map[string]string{
		"nothing":         "",
		"not base64":      "secret-claim!",
		"padded":          base64.URLEncoding.EncodeToString([]byte(`{"secret-claim":12}`)),
		"standard base64": base64.RawStdEncoding.EncodeToString([]byte(`{"secret-claim":"??>>??>>"}`)),
		"line break":      good[:8] + "\n" + good[8:],
		"trailing bits":   encode([]byte(`{"a":1}`))[:9] + "R",
		"array":           encode([]byte(`["secret-claim"]`)),
		"text":            encode([]byte(`secret-claim`)),
		"half":            encode([]byte(claims[:30])),
		"two objects":     encode([]byte(`{"secret-claim":1}{}`)),
		"empty object":    encode([]byte(`{}`)),
		"claim twice":     encode([]byte(`{"sub":"secret-claim","sub":"other"}`)),
		"whole token":     good + "." + good,
		"too long":        encode(fmt.Appendf(nil, `{"secret-claim":%q}`, strings.Repeat("x", 48<<10))),
	} {
		_, err := w.client.Sign(t.Context(), &externaljwt.SignJWTRequest{Claims: bad})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want InvalidArgument", name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret-claim") || bad != "" && strings.Contains(err.Error(), bad)) {
			t.Errorf("%s: the error shows claims: %v", name, err)
		}
	}
	huge := strings.Repeat("x", 10<<20)
	if _, err := w.client.Sign(t.Context(), &externaljwt.SignJWTRequest{Claims: huge}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("10 MB: %v, want ResourceExhausted", err)
	}
	w.wantSigner(1, "after all that")
}

// TestNothingSecretIsLogged has everything go wrong, and looks for claims, tokens and keys in all that the signer says.
func TestNothingSecretIsLogged(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	w.wantSigner(1, "at the start")
	payload := base64.RawURLEncoding.EncodeToString([]byte(claims))
	w.hardware.set(errHardware, nil)
	_, err := w.client.Sign(t.Context(), &externaljwt.SignJWTRequest{Claims: payload})
	said := fmt.Sprint(err, w.signer.Check(), w.signer.Ready())
	w.write(2, 1, 2)
	for _, file := range []string{"1.key", "2.key"} {
		if err := os.Truncate(filepath.Join(w.keyDir(), "..data", file), 90); err != nil {
			t.Fatal(err)
		}
		w.signer.reload()
	}
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	said += w.log.String() + fmt.Sprint(families)
	secrets := []string{"issuer.example", payload, base64.RawURLEncoding.EncodeToString([]byte(`{"alg"`))}
	for _, k := range w.keys {
		secrets = append(secrets, strings.Split(string(k.Private), "\n")[1])
	}
	for _, secret := range secrets {
		if strings.Contains(said, secret) {
			t.Errorf("%q is in what the signer says", secret)
		}
	}
	if !strings.Contains(said, "key version") {
		t.Error("the signer says nothing at all")
	}
}

// TestFetchKeysWaitsForNothing answers while a signature, a check, and a reading of the directory all hang.
func TestFetchKeysWaitsForNothing(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	hang := make(chan struct{})
	w.hardware.set(nil, hang)
	done := make(chan error, 3)
	go func() {
		_, err := w.client.Sign(t.Context(), &externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(claims))})
		done <- err
	}()
	go func() { done <- w.signer.Check() }()
	go func() {
		w.write(1, 1, 2)
		done <- nil
	}()
	for range 100 {
		w.fetch()
	}
	select {
	case err := <-done:
		t.Errorf("something did not hang: %v", err)
	default:
	}
	close(hang)
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestHardwareAway(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.hardware.set(errHardware, nil)
	w.write(1, 1)
	w.start()
	if n := len(w.fetch().Keys); n != 1 {
		t.Errorf("%d keys are served while the hardware is away, want 1", n)
	}
	w.wantSigner(0, "away at the start")
	w.hardware.set(nil, nil)
	w.wantSigner(1, "back")
	if err := w.signer.Check(); err != nil || w.signer.Ready() != nil {
		t.Errorf("back: %v, %v", err, w.signer.Ready())
	}
	w.hardware.set(errHardware, nil)
	if err := w.signer.Check(); err == nil || w.signer.Ready() == nil {
		t.Error("away, and nobody says so")
	}
	w.write(2, 1, 2)
	if n := len(w.fetch().Keys); n != 1 {
		t.Error("a set whose keys do not sign took the place of a good one")
	}
	w.hardware.set(nil, nil)
	w.signer.reload()
	w.fetch()
	w.wantSigner(2, "back again")
}

func TestCheckKnowsStuckKeep(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.uptime += time.Minute + patience + time.Second
	if err := w.signer.Check(); err != ErrStuck { //nolint:errorlint // it is returned as it is
		t.Errorf("%v, want %v", err, ErrStuck)
	}
}

func TestOtherPrivateKeyIsNotTaken(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	set, _, err := keydir.Read(w.keyDir())
	if err != nil {
		t.Fatal(err)
	}
	made, err := newKeySet(set, w.signer.opts.Backends, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := backend.PEM{}.Open(w.keys[2])
	if err != nil {
		t.Fatal(err)
	}
	made.candidates[0].signer = other // as an HSM may have it under the name that the URI says
	if wrong, err := made.prove(); err == nil || !wrong {
		t.Errorf("a private key that does not belong to its public key: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	for range 3 {
		w.wantSigner(1, "at the start")
	}
	w.hardware.set(errHardware, nil)
	_, _ = w.sign()
	w.hardware.set(nil, nil)
	_, _ = w.client.Sign(t.Context(), &externaljwt.SignJWTRequest{})
	w.now = w.now.Add(7 * time.Second)
	kid, err := jwks.KeyID(w.keys[1].Public)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`
# HELP keyturn_signer_fetch_keys_total FetchKeys calls. A flood means tokens with kids that the API server does not know.
# TYPE keyturn_signer_fetch_keys_total counter
keyturn_signer_fetch_keys_total 1
# HELP keyturn_signer_key_set_age_seconds How long ago the key set that is served was last read from the key directory; -1 without one.
# TYPE keyturn_signer_key_set_age_seconds gauge
keyturn_signer_key_set_age_seconds 7
# HELP keyturn_signer_last_reload_success_timestamp_seconds When the key directory was last read and found good.
# TYPE keyturn_signer_last_reload_success_timestamp_seconds gauge
keyturn_signer_last_reload_success_timestamp_seconds 1.8e+09
# HELP keyturn_signer_reload_errors_total Readings of the key directory that found it bad, so that the last good key set was kept.
# TYPE keyturn_signer_reload_errors_total counter
keyturn_signer_reload_errors_total 0
# HELP keyturn_signer_signatures_total Sign calls by kid and result: signed, error; without a kid: invalid (bad claims), unavailable (no key may sign).
# TYPE keyturn_signer_signatures_total counter
keyturn_signer_signatures_total{kid="",result="invalid"} 1
keyturn_signer_signatures_total{kid="",result="unavailable"} 0
keyturn_signer_signatures_total{kid="%[1]s",result="error"} 1
keyturn_signer_signatures_total{kid="%[1]s",result="signed"} 3
`, kid)
	err = testutil.GatherAndCompare(w.registry, strings.NewReader(want), "keyturn_signer_signatures_total", "keyturn_signer_fetch_keys_total",
		"keyturn_signer_key_set_age_seconds", "keyturn_signer_reload_errors_total", "keyturn_signer_last_reload_success_timestamp_seconds")
	if err != nil {
		t.Error(err)
	}
	w.write(2, 1, 2)
	w.fetch()
	w.write(2, 2)
	if n := testutil.CollectAndCount(w.signer.metrics.signatures); n != 2 {
		t.Errorf("%d series after version 1 was retired, want the 2 without a kid", n)
	}
}
