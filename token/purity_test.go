package token_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/keyturn/keyturn"

// pure are the packages that know no file, clock, network or randomness, and import only each other.
var pure = []string{
	module + "/token", module + "/jwks", module + "/internal/rotation", module + "/internal/strictjson",
	module + "/internal/keyfile",
}

// impure are the packages of the standard library that they must not import themselves.
var impure = []string{
	"context", "crypto/rand", "log", "log/slog", "math/rand", "math/rand/v2", "net", "net/http", "os", "os/exec",
	"syscall", "unsafe",
}

func TestPurity(t *testing.T) {
	var seen []string
	for _, p := range dependencies(t) {
		if p.Standard {
			continue
		}
		seen = append(seen, p.ImportPath)
		if !slices.Contains(pure, p.ImportPath) {
			t.Errorf("a pure package depends on %s", p.ImportPath)
		}
		for _, name := range impure {
			if slices.Contains(p.Imports, name) {
				t.Errorf("%s imports %s", p.ImportPath, name)
			}
		}
	}
	for _, name := range pure {
		if !slices.Contains(seen, name) {
			t.Errorf("%s was not looked at", name)
		}
	}
}

// goPackage is what go list says of a package.
type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
}

// dependencies returns the pure packages and all that they depend on.
func dependencies(t *testing.T) []goPackage {
	t.Helper()
	args := append([]string{"list", "-deps", "-json=ImportPath,Standard,Imports"}, pure...)
	out, err := exec.CommandContext(t.Context(), "go", args...).Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			t.Logf("%s", exit.Stderr)
		}
		t.Fatalf("go %s: %v", strings.Join(args, " "), err)
	}
	var all []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}
