package signer

import (
	"encoding/base64"
	"errors"
	"fmt"
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
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
)

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
	if n := w.logged("keeping the last good key set"); n != 1 {
		t.Errorf("three bad readings were logged %d times, want once", n)
	}
	if n := testutil.ToFloat64(w.signer.metrics.reloadErrors); n != 3 {
		t.Errorf("%v reload errors, want 3", n)
	}
	if err := os.Chmod(filepath.Join(data, "1.pub"), 0o666); err != nil {
		t.Fatal(err)
	}
	w.signer.reload()
	if n := w.logged("keeping the last good key set"); n != 2 {
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
	if n := testutil.ToFloat64(w.signer.metrics.noKey.unavailable); n != 1 {
		t.Errorf("%v signatures were not to be had, want 1", n)
	}
	if age := w.signer.age(); age != -1 {
		t.Errorf("a key set of age %v s is served, want -1 for none", age)
	}
	if check, ready := w.signer.Check(), w.signer.Ready(); !errors.Is(check, errNoKeys) || !errors.Is(ready, errNoKeys) {
		t.Errorf("without keys: %v, %v", check, ready)
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
	if _, err := w.client.Sign(t.Context(),
		&externaljwt.SignJWTRequest{Claims: huge}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("10 MB: %v, want ResourceExhausted", err)
	}
	w.wantSigner(1, "after all that")
}

// TestNothingSecretIsLogged has everything go wrong, and searches for claims, tokens and keys in all that the signer
// says.
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
		_, err := w.client.Sign(t.Context(),
			&externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(claims))})
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
	if n := len(w.fetch().Keys); n != 1 || w.logged("some of its keys cannot sign") != 1 {
		t.Errorf("%d keys are served while the hardware is away, want 1: %s", n, w.log.String())
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
	w.uptime += time.Minute + patience
	if err := w.signer.Check(); err != nil {
		t.Errorf("as late as a turn may be: %v", err)
	}
	w.uptime++
	if err := w.signer.Check(); err != ErrStuck { //nolint:errorlint // it is returned as it is
		t.Errorf("%v, want %v", err, ErrStuck)
	}
}

func TestOtherPrivateKeyIsNotTaken(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(2, 1, 2)
	w.start()
	w.fetch()
	set, _, err := keydir.Read(w.keyDir())
	if err != nil {
		t.Fatal(err)
	}
	made, err := newKeySet(set, backends{files: w.hardware}, nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := backend.PEM{}.Open(w.keys[3])
	if err != nil {
		t.Fatal(err)
	}
	made.candidates[0].signer = other // as an HSM may have it under the name that the URI says
	if wrong, err := made.prove(); err == nil || !wrong {
		t.Errorf("a private key that does not belong to its public key: %v", err)
	}
	w.hardware.set(errHardware, nil) // for the other candidate, which says nothing about this one
	if wrong, err := made.prove(); !wrong || !errors.Is(err, backend.ErrOtherKey) || !errors.Is(err, errHardware) {
		t.Errorf("one key is wrong, and the other does not sign: %t, %v", wrong, err)
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
# HELP keyturn_signer_reload_errors_total Reads of the key directory that failed, so that the last good key set was kept.
# TYPE keyturn_signer_reload_errors_total counter
keyturn_signer_reload_errors_total 0
# HELP keyturn_signer_signatures_total Sign calls by kid and result: signed, error; without a kid: invalid (bad claims), unavailable (no key may sign).
# TYPE keyturn_signer_signatures_total counter
keyturn_signer_signatures_total{kid="",result="invalid"} 1
keyturn_signer_signatures_total{kid="",result="unavailable"} 0
keyturn_signer_signatures_total{kid="%[1]s",result="error"} 1
keyturn_signer_signatures_total{kid="%[1]s",result="signed"} 3
`, kid)
	err = testutil.GatherAndCompare(w.registry, strings.NewReader(want), "keyturn_signer_signatures_total",
		"keyturn_signer_fetch_keys_total",
		"keyturn_signer_key_set_age_seconds", "keyturn_signer_reload_errors_total",
		"keyturn_signer_last_reload_success_timestamp_seconds")
	if err != nil {
		t.Error(err)
	}
	families, err := w.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", f.GetName())
		}
		timed := f.GetMetric()[0].GetHistogram()
		if f.GetName() == "keyturn_signer_sign_duration_seconds" && (timed.GetSampleCount() != 3 ||
			len(timed.GetBucket()) != 16) {
			t.Errorf("%d signatures were timed in %d buckets, want 3 in 16", timed.GetSampleCount(), len(timed.GetBucket()))
		}
	}
	if problems, err := testutil.GatherAndLint(w.registry); err != nil || len(problems) > 0 {
		t.Errorf("the metrics are not as Prometheus wants them: %v, %v", problems, err)
	}
	w.write(2, 1, 2)
	w.fetch()
	w.wantSigner(2, "after the switch")
	w.write(2, 2)
	if n := testutil.CollectAndCount(w.signer.metrics.signatures); n != 3 {
		t.Errorf("%d series after version 1 was retired, want that of version 2 and the 2 without a kid", n)
	}
}
