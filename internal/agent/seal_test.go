package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestSeal(t *testing.T) {
	key, err := NewPrivateKey()
	must(t, err)
	other, err := NewPrivateKey()
	must(t, err)
	i := Instance{"pod-1", key.Public()}
	sealed, err := Seal([]byte("secret"), i, "cluster", 2)
	must(t, err)
	if text, err := key.Open(sealed, i, "cluster", 2); err != nil || string(text) != "secret" {
		t.Errorf("%q, %v", text, err)
	}
	for name, open := range map[string]func() ([]byte, error){
		"another key":     func() ([]byte, error) { return other.Open(sealed, i, "cluster", 2) },
		"another pod":     func() ([]byte, error) { return key.Open(sealed, Instance{"pod-2", key.Public()}, "cluster", 2) },
		"another cluster": func() ([]byte, error) { return key.Open(sealed, i, "other", 2) },
		"another version": func() ([]byte, error) { return key.Open(sealed, i, "cluster", 3) },
		"another use":     func() ([]byte, error) { return key.OpenSent(sealed, "cluster") },
		"a part":          func() ([]byte, error) { return key.Open(sealed[:len(sealed)-1], i, "cluster", 2) },
		"nothing":         func() ([]byte, error) { return key.Open(nil, i, "cluster", 2) },
	} {
		if text, err := open(); !errors.Is(err, ErrCannotOpen) || text != nil {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	for _, bad := range []PublicKey{"", "x", "AAAA"} {
		if _, err := Seal(nil, Instance{"pod-1", bad}, "cluster", 2); err == nil {
			t.Errorf("sealed to %q", bad)
		}
	}
}

func TestKeyFile(t *testing.T) {
	key, err := NewPrivateKey()
	must(t, err)
	path := t.TempDir() + "/key"
	must(t, key.Write(path))
	read, err := ReadPrivateKey(path)
	if err != nil || read.Public() != key.Public() {
		t.Errorf("another key, %v", err)
	}
	raw, err := key.key.Bytes()
	must(t, err)
	for _, shown := range []string{
		fmt.Sprintf("%v %+v %#v %s %x", key, key, key, key, key), fmt.Sprintf("%v", Agent{Key: key}),
	} {
		if strings.Contains(shown, fmt.Sprintf("%x", raw)) || !strings.Contains(shown, "[private key]") {
			t.Errorf("it shows %s", shown)
		}
	}
}
