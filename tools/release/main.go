// Command release makes what is published of a version: archives of the programs, images, the Helm chart, an SBOM, the
// manifest for krew, and checksums. `make release VERSION=v0.1.0` runs it at the root of the repository;
// docs/release.md describes what it writes.
//
// The same commit and the same version of Go give the same files, byte for byte, wherever and whenever they are made:
// all times are SOURCE_DATE_EPOCH or the time of the commit, and archives are written in a fixed order with fixed
// modes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keyturn/keyturn/internal/hint"
)

func main() {
	r := &release{log: os.Stderr}
	var platforms string
	flag.StringVar(&r.version, "version", "", "`version` of the release, such as v0.1.0")
	flag.StringVar(&r.out, "out", "", "`directory` for the files, which is replaced (default: bin/release/VERSION)")
	flag.StringVar(&platforms, "platforms", allPlatforms, "`platforms` to build for")
	flag.StringVar(&r.programs, "programs", "",
		"`directory` with the programs, as OS_ARCH/NAME; empty: they are built first")
	flag.StringVar(&r.helm, "helm", "bin/tools/helm", "`program` that packs the chart")
	flag.StringVar(&r.validate, "validate-krew-manifest", "bin/tools/validate-krew-manifest",
		"`program` of krew that checks the manifest of the plugin")
	flag.BoolVar(&r.dirty, "dirty", false, "go on although files differ from the commit")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := r.parse(platforms)
	if err == nil {
		err = r.run(ctx)
	}
	if err == nil {
		return
	}
	fmt.Fprintln(os.Stderr, "Error:", err)
	if advice := hint.Of(err); advice != "" {
		fmt.Fprintln(os.Stderr, "hint:", advice)
	}
	os.Exit(1)
}

// release is one release that is made.
type release struct {
	version, out, programs, helm, validate string
	dirty                                  bool
	platforms                              []platform
	log                                    io.Writer

	// epoch is the time of all files, and work holds what is not published.
	epoch time.Time
	work  string
}

// platform is an operating system and an architecture, as Go names them.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// file is the part of the name of a file that names the platform.
func (p platform) file() string { return p.os + "_" + p.arch }

// allPlatforms are the platforms of a release. Only programs that people run on their own machine are for darwin.
const allPlatforms = "linux/amd64,linux/arm64,darwin/amd64,darwin/arm64"

// semver is what Go, Helm and krew take as a version.
var semver = regexp.MustCompile(`^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$`)

// parse checks the flags.
func (r *release) parse(platforms string) error {
	if !semver.MatchString(r.version) {
		return hint.Errorf("for example make release VERSION=v0.1.0", "%q is not a version", r.version)
	}
	for p := range strings.SplitSeq(platforms, ",") {
		system, arch, ok := strings.Cut(p, "/")
		if !ok || system != "linux" && system != "darwin" {
			return fmt.Errorf("platform %q is not linux/ARCHITECTURE or darwin/ARCHITECTURE", p)
		}
		r.platforms = append(r.platforms, platform{system, arch})
	}
	if r.out == "" {
		r.out = filepath.Join("bin", "release", r.version)
	}
	return nil
}

// run makes the release. Files are complete only when it returns without an error.
func (r *release) run(ctx context.Context) (err error) {
	if err := r.source(ctx); err != nil {
		return err
	}
	if r.work, err = os.MkdirTemp("", "keyturn-release-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(r.work)) }()
	if err := errors.Join(os.RemoveAll(r.out), os.MkdirAll(r.out, 0o755)); err != nil {
		return err
	}
	for _, step := range []struct {
		what string
		do   func(context.Context) error
	}{
		{"building programs", r.build}, {"packing archives", r.archives}, {"packing images", r.images},
		{"packing the Helm chart", r.chart}, {"writing the SBOM", r.sbom}, {"writing the manifest for krew", r.krew},
		{"writing checksums", r.checksums},
	} {
		r.say("%s", step.what)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	r.say("%s is complete", r.out)
	return nil
}

func (r *release) say(format string, args ...any) {
	fmt.Fprintf(r.log, "[release %s] %s\n", r.version, fmt.Sprintf(format, args...))
}

// source learns the time of the source, and refuses one that is not what was committed.
func (r *release) source(ctx context.Context) error {
	if epoch := os.Getenv("SOURCE_DATE_EPOCH"); epoch != "" {
		seconds, err := strconv.ParseInt(epoch, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH is not a number of seconds: %w", err)
		}
		r.epoch = time.Unix(seconds, 0).UTC()
		return nil
	}
	at, err := output(ctx, "git", "log", "-1", "--format=%ct")
	if err != nil {
		return hint.Errorf("set SOURCE_DATE_EPOCH where there is no git repository", "reading the time of the commit: %w",
			err)
	}
	seconds, err := strconv.ParseInt(strings.TrimSpace(at), 10, 64)
	if err != nil {
		return fmt.Errorf("reading the time of the commit: %w", err)
	}
	r.epoch = time.Unix(seconds, 0).UTC()
	changed, err := output(ctx, "git", "status", "--porcelain")
	if err != nil {
		return err
	}
	if changed != "" && !r.dirty {
		return hint.Errorf("commit or stash them, or try with -dirty", "files differ from the commit:\n%s", changed)
	}
	return nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, name, args...).Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, exit.Stderr)
	}
	return string(out), err
}

// command runs a command whose talk is shown.
func (r *release) command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = r.log, r.log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}
