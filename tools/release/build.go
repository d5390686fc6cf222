package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/cli"
	"github.com/keyturn/keyturn/internal/local/image"
	"github.com/keyturn/keyturn/tools/docs/reference"
)

// commands are the programs that people run anywhere, with what they are in process.
var commands = map[string]func(context.Context, cli.Env, []string) int{"gkectl": cli.Run,
	"kubectl-keyturn": cli.RunPlugin}

// hostPrograms run on a Linux host, for local clusters and for signers.
var hostPrograms = []string{
	"gkectl", "keyturn-controller", "keyturn-fleet", "keyturn-local", "keyturn-machine", "keyturn-pause", "keyturn-probe",
	"keyturn-signer", "kubectl-keyturn",
}

// programsOf are the programs that are built for a platform, in order.
func programsOf(p platform) []string {
	all := []string{"gkectl", "kubectl-keyturn"}
	if p.os == "linux" {
		all = append(all, hostPrograms...)
		for name := range image.Programs {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// dir has the programs of a platform.
func (r *release) dir(p platform) string { return filepath.Join(r.programs, p.file()) }

// build builds the programs, unless there are some.
func (r *release) build(ctx context.Context) error {
	if r.programs != "" {
		return nil
	}
	r.programs = r.work
	for _, p := range r.platforms {
		r.say("building programs for %s", p)
		var packages []string
		for _, name := range programsOf(p) {
			packages = append(packages, "./cmd/"+name)
		}
		if err := r.goBuild(ctx, p, r.dir(p)+"/", packages...); err != nil {
			return err
		}
	}
	return nil
}

// goBuild builds programs so that nothing of the machine is in them.
func (r *release) goBuild(ctx context.Context, p platform, out string, packages ...string) error {
	const versionVariable = "github.com/keyturn/keyturn/internal/version.version"
	flags := "-s -w -buildid= -X " + versionVariable + "=" + r.version
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", out}, packages...)
	env := []string{"CGO_ENABLED=0", "GOOS=" + p.os, "GOARCH=" + p.arch, "GOAMD64=v1", "GOARM64=v8.0"}
	return r.command(ctx, env, "go", args...)
}

// archives packs the programs of each platform.
func (r *release) archives(ctx context.Context) error {
	license, err := os.ReadFile("LICENSE")
	if err != nil {
		return err
	}
	for _, p := range r.platforms {
		for name, run := range commands {
			files, err := completions(ctx, name, run)
			if err != nil {
				return err
			}
			if err := r.archive(name, p, []string{name}, append(files, file{name: "LICENSE", content: license})); err != nil {
				return err
			}
		}
		if p.os == "linux" {
			if err := r.archive("keyturn", p, hostPrograms, []file{{name: "LICENSE", content: license}}); err != nil {
				return err
			}
		}
	}
	return nil
}

// archive packs programs, their man pages and other files as NAME_VERSION_OS_ARCH.tar.gz.
func (r *release) archive(name string, p platform, programs []string, files []file) error {
	for _, program := range programs {
		content, err := os.ReadFile(filepath.Join(r.dir(p), program))
		if err != nil {
			return err
		}
		files = append(files, file{name: program, content: content, executable: true})
		files = append(files, manPages(program)...)
	}
	return r.tar(r.archiveName(name, p), files)
}

func (r *release) archiveName(name string, p platform) string {
	return fmt.Sprintf("%s_%s_%s.tar.gz", name, r.version, p.file())
}

// completions are the files by which shells complete a command.
func completions(ctx context.Context, name string, run func(context.Context, cli.Env, []string) int) (all []file,
	err error) {
	for _, shell := range []string{"bash", "fish", "powershell", "zsh"} {
		var out bytes.Buffer
		env := cli.Env{
			In: strings.NewReader(""), Out: &out, Err: io.Discard, Now: time.Now,
			Getenv: func(string) string { return "" }, IsTerminal: func(any) bool { return false },
		}
		if code := run(ctx, env, []string{"completion", shell}); code != cli.ExitOK {
			return nil, fmt.Errorf("%s completion %s ends with exit code %d", name, shell, code)
		}
		all = append(all, file{name: path.Join("completion", name+"."+shell), content: out.Bytes()})
	}
	return all, nil
}

// manPages returns the man pages of a command and of its subcommands.
func manPages(name string) (all []file) {
	for page, content := range reference.Man() {
		section := path.Ext(page)
		if page == name+section || strings.HasPrefix(page, name+"-") {
			all = append(all, file{name: path.Join("man", "man"+section[1:], page), content: content})
		}
	}
	return all
}

// images packs the programs that run in clusters, each for all architectures of Linux.
func (r *release) images(ctx context.Context) error {
	var architectures []string
	for _, p := range r.platforms {
		if p.os == "linux" {
			architectures = append(architectures, p.arch)
		}
	}
	if len(architectures) == 0 {
		return nil
	}
	return r.command(ctx, nil, "go", "run", "./tools/images", "-programs", r.programs, "-architectures",
		strings.Join(architectures, ","), "-out", filepath.Join(r.out, "images"), "-version", r.version)
}
