package keydir_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/signer/keydir"
)

// TestValidateBounds has each duration at, and just outside of, its bounds.
func TestValidateBounds(t *testing.T) {
	const day, century = 24 * time.Hour, 100 * 365 * 24 * time.Hour
	for _, b := range []struct {
		member   string
		set      func(*keydir.Set, time.Duration)
		min, max time.Duration
		says     string
	}{
		{
			"refreshHintSeconds", func(s *keydir.Set, d time.Duration) { s.RefreshHint = d }, time.Second, day,
			"from 1 to 86400",
		},
		{
			"rotationRefreshHintSeconds", func(s *keydir.Set, d time.Duration) { s.RotationRefreshHint = d }, time.Second, day,
			"from 1 to 86400",
		},
		{"leadInSeconds", func(s *keydir.Set, d time.Duration) { s.LeadIn = d }, 0, day, "from 0 to 86400"},
		{
			"maxTokenExpirationSeconds", func(s *keydir.Set, d time.Duration) { s.MaxTokenExpiration = d }, 10 * time.Minute,
			century, "from 600 to 3153600000",
		},
	} {
		for d, good := range map[time.Duration]bool{
			b.min: true, b.max: true, b.min - time.Second: false, b.max + time.Second: false, b.min + time.Millisecond: false,
		} {
			set := newSet(t, 1)
			b.set(&set, d)
			err := set.Validate()
			if (err == nil) != good || err != nil && !strings.Contains(err.Error(), b.member+" must be whole seconds "+b.says) {
				t.Errorf("%s of %s: %v", b.member, d, err)
			}
		}
	}
}

func TestValidateKeys(t *testing.T) {
	off := &ecdsa.PublicKey{
		Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1), //nolint:staticcheck // no key is so bad
	}
	hardware := func(uri, pin string) func(*keydir.Set) {
		return func(s *keydir.Set) {
			s.Keys[0].Private, s.Keys[0].PKCS11, s.Keys[0].PIN = nil, uri, keydir.Secret(pin)
		}
	}
	for name, test := range map[string]struct {
		change func(*keydir.Set)
		want   string
	}{
		"a key in a token":            {hardware("pkcs11:token=t;object=o", ""), ""},
		"a key in a token with a PIN": {hardware("pkcs11:token=t;object=o?pin-source=p", "1"), ""},
		"a PIN that nothing names":    {hardware("pkcs11:token=t;object=o", "1"), "requires a pin-source"},
		"no PIN":                      {hardware("pkcs11:token=t;object=o?pin-source=p", ""), "requires a pin-source"},
		"a bad URI":                   {hardware("pkcs11:object=o", ""), "PKCS #11 URI"},
		"a public key that is none": {func(s *keydir.Set) {
			s.Keys[1] = keydir.Key{Version: 2, Public: off, VerifyOnly: true}
		}, "key version 2: "},
		"a private key of another kind": {func(s *keydir.Set) {
			other := ofOtherKind(t)
			other.Public = s.Keys[0].Public
			s.Keys[0] = other
		}, "key version 1: encoding public key"},
		"no public key":         {func(s *keydir.Set) { s.Keys[0].Public = nil }, "key version 1: "},
		"a point off its curve": {func(s *keydir.Set) { s.Keys[0].Public = off }, "key version 1: "},
		"a private key that is none": {func(s *keydir.Set) {
			s.Keys[0] = keydir.Key{Version: 1, Public: s.Keys[0].Public, Private: []byte("x")}
		}, "PEM"},
	} {
		set := newSet(t, 2)
		set.SigningVersion = 1
		test.change(&set)
		if err := set.Validate(); (err == nil) != (test.want == "") || err != nil &&
			!strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	full := newSet(t, 100)
	if err := full.Validate(); err != nil {
		t.Errorf("100 keys: %v", err)
	}
	full.Keys = append(full.Keys, newKey(t, 101))
	if err := full.Validate(); err == nil || !strings.Contains(err.Error(), "1 to 100 keys") {
		t.Errorf("101 keys: %v", err)
	}
}

// TestRotationRefreshHint leaves the hint of a rotation out of the manifest: it is the other one, and 5 s at most.
func TestRotationRefreshHint(t *testing.T) {
	for hint, want := range map[int]time.Duration{3600: 5 * time.Second, 5: 5 * time.Second, 3: 3 * time.Second} {
		dir := filepath.Join(t.TempDir(), "keys")
		plain(t, dir, newSet(t, 1))
		manifest := `{"signingVersion":1,"refreshHintSeconds":%d,"maxTokenExpirationSeconds":600,` +
			`"keys":[{"version":1,"public":"1.pub","private":"1.key"}]}`
		replaceFile(t, filepath.Join(dir, keydir.ManifestName), fmt.Appendf(nil, manifest, hint))
		set, _, err := keydir.Read(dir)
		if err != nil || set.RotationRefreshHint != want || set.RefreshHint != time.Duration(hint)*time.Second {
			t.Errorf("the hint is %d s, that of a rotation %s (%v), want %s", hint, set.RotationRefreshHint, err, want)
		}
	}
}

// TestFilesAtTheirBound has a manifest, which may end in blanks, and a PIN of the longest size, and of one byte more.
func TestFilesAtTheirBound(t *testing.T) {
	const most = 256 << 10
	for size, good := range map[int]bool{most: true, most + 1: false} {
		dir := filepath.Join(t.TempDir(), "keys")
		set := newSet(t, 1)
		plain(t, dir, set)
		path := filepath.Join(dir, keydir.ManifestName)
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		replaceFile(t, path, append(raw, bytes.Repeat([]byte(" "), size-len(raw))...))
		if _, _, err := keydir.Read(dir); (err == nil) != good {
			t.Errorf("a manifest of %d bytes: %v", size, err)
		}
		set.Keys[0].Private, set.Keys[0].PKCS11 = nil, "pkcs11:token=t;object=o?pin-source=pin"
		set.Keys[0].PIN = bytes.Repeat([]byte("1"), size)
		if err := keydir.Write(dir, set); (err == nil) != good {
			t.Errorf("a PIN of %d bytes: %v", size, err)
		}
	}
}
