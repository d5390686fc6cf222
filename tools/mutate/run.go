package main

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/tools/go/packages"
)

// planted is a package with all its mutants in it.
type planted struct {
	name, path, dir string
	mutants         []mutant
	// names are the source files, relative to the module.
	names []string
	// files are what the compiler reads: the content by the path.
	files map[string][]byte
}

//go:embed runtime.txt
var runtime string

// load finds the mutants of a package.
func load(ctx context.Context, pattern string) (planted, error) {
	loaded, err := packages.Load(&packages.Config{Context: ctx, Mode: packages.LoadSyntax | packages.NeedModule}, pattern)
	if err != nil {
		return planted{}, err
	}
	if len(loaded) != 1 || len(loaded[0].Errors) > 0 {
		return planted{}, fmt.Errorf("not a package that compiles: %v", loaded)
	}
	pkg := loaded[0]
	p := planted{
		name:  strings.TrimPrefix(pkg.PkgPath, pkg.Module.Path+"/"),
		path:  pkg.PkgPath,
		dir:   pkg.Dir,
		files: map[string][]byte{filepath.Join(pkg.Dir, "zz_mutants.go"): []byte("package " + pkg.Name + "\n" + runtime)},
	}
	for i, syntax := range pkg.Syntax {
		path := pkg.CompiledGoFiles[i]
		source, err := os.ReadFile(path)
		if err != nil {
			return planted{}, err
		}
		f := finder{pkg: pkg, syntax: syntax, source: source, next: len(p.mutants)}
		if f.name, err = filepath.Rel(pkg.Module.Dir, path); err != nil {
			return planted{}, err
		}
		f.find()
		p.mutants = append(p.mutants, f.mutants...)
		p.names = append(p.names, f.name)
		p.files[path] = apply(source, f.edits)
	}
	return p, nil
}

// binary is the compiled tests of a package.
type binary struct {
	path, dir, scratch string
}

// compile builds the tests with an overlay; the source tree stays as it is.
func compile(ctx context.Context, p planted) (*binary, error) {
	scratch, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return nil, err
	}
	b := &binary{path: filepath.Join(scratch, "tests"), dir: p.dir, scratch: scratch}
	overlay := make(map[string]string, len(p.files))
	for path, content := range p.files {
		overlay[path] = filepath.Join(scratch, filepath.Base(path))
		if err := os.WriteFile(overlay[path], content, 0o600); err != nil {
			return nil, err
		}
	}
	raw, err := json.Marshal(map[string]any{"Replace": overlay})
	if err != nil {
		return nil, err
	}
	list := filepath.Join(scratch, "overlay.json")
	if err := os.WriteFile(list, raw, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-overlay", list, "-o", b.path, p.path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling the mutants in %s: %w\n%s", scratch, err, out)
	}
	return b, nil
}

func (b *binary) remove() { os.RemoveAll(b.scratch) }

// test is a test of the package, and how long it takes without a mutant.
type test struct {
	name string
	took time.Duration
}

// baseline runs each test without a mutant, and returns by the id of each mutant the tests that reach it, the quickest
// first.
func (b *binary) baseline(ctx context.Context) (map[int][]test, error) {
	list, err := b.run(ctx, "", "-test.list=^(Test|Example|Fuzz)")
	if err != nil {
		return nil, fmt.Errorf("listing tests: %w\n%s", err, list)
	}
	names := strings.Fields(string(list))
	slices.Sort(names)
	reached := make(map[int][]test)
	for _, name := range slices.Compact(names) {
		t, ids, err := b.trace(ctx, name)
		if err != nil {
			return nil, fmt.Errorf("%s without a mutant: %w", name, err)
		}
		for _, id := range ids {
			reached[id] = append(reached[id], t)
		}
	}
	for _, tests := range reached {
		slices.SortFunc(tests, func(a, b test) int { return cmp.Compare(a.took, b.took) })
	}
	return reached, nil
}

// trace runs a test without a mutant, and returns the ids of the mutants that it reaches.
func (b *binary) trace(ctx context.Context, name string) (test, []int, error) {
	trace := filepath.Join(b.scratch, "trace")
	if err := os.WriteFile(trace, nil, 0o600); err != nil {
		return test{}, nil, err
	}
	limited, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	start := time.Now()
	out, err := b.run(limited, "KEYTURN_MUTANT_TRACE="+trace, only(name))
	if err != nil {
		return test{}, nil, fmt.Errorf("%w\n%s", err, out)
	}
	t := test{name, time.Since(start)}
	raw, err := os.ReadFile(trace)
	if err != nil {
		return test{}, nil, err
	}
	var ids []int
	for _, line := range strings.Fields(string(raw)) {
		id, err := strconv.Atoi(line)
		if err != nil {
			return test{}, nil, err
		}
		ids = append(ids, id)
	}
	return t, ids, nil
}

// try runs tests with a mutant, until one fails.
func (b *binary) try(ctx context.Context, m mutant, tests []test) (outcome, error) {
	for _, t := range tests {
		limited, cancel := context.WithTimeout(ctx, max(time.Minute, 10*t.took))
		_, err := b.run(limited, "KEYTURN_MUTANT="+strconv.Itoa(m.id), only(t.name))
		cancel()
		var exit *exec.ExitError
		switch {
		case ctx.Err() != nil:
			return "", ctx.Err()
		case errors.As(err, &exit):
			return killed, nil
		case err != nil:
			return "", err
		}
	}
	return survived, nil
}

// only is the argument that selects a test.
func only(name string) string { return "-test.run=^" + name + "$" }

// run runs the binary in a process group of its own, and ends what it leaves behind.
func (b *binary) run(ctx context.Context, env, arg string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, b.path, "-test.failfast", "-test.timeout=0", arg)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	endOrphans()
	return out.Bytes(), err
}

// adoptOrphans makes this process the parent of those that tests leave behind when a mutant makes them crash, such as
// API servers.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopting orphans: %w", err)
	}
	return nil
}

// endOrphans ends the children of this process, and theirs.
func endOrphans() {
	for {
		children, err := filepath.Glob("/proc/self/task/*/children")
		if err != nil {
			return
		}
		ended := 0
		for _, file := range children {
			raw, _ := os.ReadFile(file)
			for _, field := range strings.Fields(string(raw)) {
				pid, _ := strconv.Atoi(field)
				_ = unix.Kill(pid, unix.SIGKILL)
				_, _ = unix.Wait4(pid, nil, 0, nil)
				ended++
			}
		}
		if ended == 0 {
			return
		}
	}
}
