package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/keyturn/keyturn/internal/local/image"
)

// TestReproducible builds the programs and their images twice, in directories of their own, and wants the same bytes.
func TestReproducible(t *testing.T) {
	first, second := buildAll(t), buildAll(t)
	for name := range image.Programs {
		archive := name + ".tar"
		a, errA := os.ReadFile(filepath.Join(first, archive))
		b, errB := os.ReadFile(filepath.Join(second, archive))
		if errA != nil || errB != nil || len(a) == 0 {
			t.Fatalf("%s: %v, %v", archive, errA, errB)
		}
		if !bytes.Equal(a, b) {
			t.Errorf("two builds of %s differ", archive)
		}
	}
}

// buildAll does what `make images` does, and returns the directory of the archives.
func buildAll(t *testing.T) string {
	t.Helper()
	bin, out := t.TempDir(), filepath.Join(t.TempDir(), "images")
	args := []string{"build", "-o", bin + "/"}
	for name := range image.Programs {
		args = append(args, "github.com/keyturn/keyturn/cmd/"+name)
	}
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := (maker{from: bin, out: out, repository: "localhost/keyturn", version: "v1"}).build(); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestMissingProgram(t *testing.T) {
	if err := (maker{from: t.TempDir(), out: t.TempDir(), repository: "localhost/keyturn",
		version: "v1"}).build(); err == nil {
		t.Error("no error without programs")
	}
}

func TestBadReference(t *testing.T) {
	bin := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name := range image.Programs {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := (maker{from: bin, out: t.TempDir(), repository: "localhost/keyturn",
		version: "not a tag"}).build(); err == nil {
		t.Error("no error for a bad tag")
	}
}
