package kubetest

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"testing"

	"github.com/keyturn/keyturn/internal/lockfile"
)

// Build compiles packages, each of which is a program, into a directory. To link a program takes seconds, so all tests
// build into bin/test of this repository, where `go build` leaves alone what is up to date, and get copies.
func Build(t testing.TB, dir string, packages ...string) {
	t.Helper()
	root, err := moduleRoot()
	if err != nil {
		t.Fatal(err)
	}
	shared := filepath.Join(root, "bin", "test")
	if err := os.MkdirAll(shared, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := lockfile.Wait(filepath.Join(shared, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lock.Unlock(); err != nil {
			t.Error(err)
		}
	}()
	args := append([]string{"build", "-ldflags", "-s -w", "-o", shared + "/"}, packages...)
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %v: %v\n%s", packages, err, out)
	}
	for _, p := range packages {
		if err := copyProgram(filepath.Join(dir, path.Base(p)), filepath.Join(shared, path.Base(p))); err != nil {
			t.Fatal(err)
		}
	}
}

func copyProgram(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
