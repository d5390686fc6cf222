package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
)

// TestDarwin checks the types of the programs that run on darwin, where no test runs. It compiles nothing: that would
// take minutes. Function bodies of other modules are not checked.
func TestDarwin(t *testing.T) {
	platform := append(os.Environ(), "CGO_ENABLED=0", "GOOS=darwin", "GOARCH=arm64")
	root := filepath.Join(here, "../..")
	const ownOnly = "{{with .Module}}{{if .Main}}{{$.ImportPath}}{{end}}{{end}}"
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", ownOnly, "./cmd/gkectl", "./cmd/kubectl-keyturn")
	cmd.Dir, cmd.Env = root, platform
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("listing the packages of the programs: %v", err)
	}
	own := strings.Fields(string(out))
	loaded, err := packages.Load(&packages.Config{
		Context: t.Context(), Dir: root, Env: platform,
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports |
			packages.NeedDeps | packages.NeedTypes | packages.NeedTypesSizes | packages.NeedSyntax,
	}, own...)
	if err != nil {
		t.Fatal(err)
	}
	if len(own) < 20 || len(loaded) != len(own) {
		t.Errorf("%d of %d packages were checked", len(loaded), len(own))
	}
	packages.Visit(loaded, nil, func(p *packages.Package) {
		if strings.Contains(p.PkgPath, "/keyturn/internal/local/machine") {
			t.Errorf("%s is linked into a program for darwin", p.PkgPath)
		}
		for _, err := range p.Errors {
			t.Errorf("%s: %v", p.PkgPath, err)
		}
	})
}
