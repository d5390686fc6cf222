package programs

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/hint"
)

// emptySet has no binaries but those that the test makes.
func emptySet(t *testing.T) *Set {
	t.Helper()
	s, err := New(filepath.Join(t.TempDir(), "kube"), "")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fakeBinary makes a program that answers --version.
func fakeBinary(t *testing.T, path, version string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\necho Kubernetes %s\n", version), 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestBinary(t *testing.T) {
	const name, version = "kube-apiserver", "v1.36.4"
	for _, c := range []struct {
		name, at, says, err string
	}{
		{name: "in the folder of its version", at: "v1.36.4/kube-apiserver", says: version},
		{name: "as official releases come", at: "kube-apiserver", says: version},
		{name: "of another version", at: "kube-apiserver", says: "v1.35.1", err: "is version v1.35.1, not v1.36.4"},
		{name: "in the wrong folder", at: "v1.36.4/kube-apiserver", says: "v1.35.1", err: "is version v1.35.1, not v1.36.4"},
		{name: "missing", at: "v1.35.1/kube-apiserver", says: "v1.35.1", err: "v1.36.4/kube-apiserver; there is v1.35.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := emptySet(t)
			path := filepath.Join(s.KubeDir(), c.at)
			fakeBinary(t, path, c.says)
			got, err := s.Binary(version, name)
			if c.err == "" && (err != nil || got != path) {
				t.Errorf("got %s, %v", got, err)
			}
			if c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) ||
				!strings.Contains(hint.Of(err), "make kube")) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestBinaryIsAskedAgainWhenReplaced(t *testing.T) {
	s := emptySet(t)
	path := filepath.Join(s.KubeDir(), "kube-apiserver")
	write := func(version string) {
		t.Helper()
		fakeBinary(t, path, version)
		// The same size and the same time: nothing but its content tells it from the one before.
		if err := os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	write("v1.35.1")
	if _, err := s.Binary("v1.36.4", "kube-apiserver"); err == nil {
		t.Fatal("no error for the wrong version")
	}
	write("v1.36.4")
	if _, err := s.Binary("v1.36.4", "kube-apiserver"); err != nil {
		t.Error(err)
	}
}
