// Command bench measures Keyturn on real clusters of this machine, and what the same work costs without it.
//
// It creates an admin cluster and user clusters by gkectl, as a user would, in a directory and an address range of its
// own, and deletes all of it at the end, after a failure and when it is interrupted. What it measures, one group after
// another, is in measure.go. It writes results.json and results.md; docs/benchmarks.md says how to read them. Nothing
// is asserted: an aim that is missed is shown, and the exit code is still 0.
package main

import (
	"github.com/keyturn/keyturn/internal/hint"

	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The exit codes.
const (
	exitMeasured = 0
	exitFailed   = 1 // something could not be measured
	exitUsage    = 2
)

// options are the flags.
type options struct {
	bin, dir, out, network             string
	secrets, sample, rounds, rotations int
	pods                               int
	clusters                           int
	window                             time.Duration
	only                               string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) > 1 && args[0] == constantCommand {
		if err := serveConstant(ctx, args[1], strings.Join(args[2:], "")); err != nil {
			fmt.Fprintln(stderr, "Error:", err)
			return exitFailed
		}
		return exitMeasured
	}
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return exitMeasured
	}
	if err != nil {
		tell(stderr, err)
		return exitUsage
	}
	if err := bench(ctx, o, stdout, stderr); err != nil {
		tell(stderr, err)
		return exitFailed
	}
	return exitMeasured
}

func tell(stderr io.Writer, err error) {
	fmt.Fprintln(stderr, "Error:", err)
	if advice := hint.Of(err); advice != "" {
		fmt.Fprintln(stderr, "hint:", advice)
	}
}

func parse(args []string, stderr io.Writer) (options, error) {
	o := options{}
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	set.SetOutput(stderr)
	set.StringVar(&o.bin, "bin", "bin", "`directory` of gkectl and the other programs, and of kube/")
	set.StringVar(&o.dir, "dir", "/var/tmp", "`directory` on a real disk, in which clusters get one of their own")
	set.StringVar(&o.out, "out", "bench", "`directory` of the results")
	set.StringVar(&o.network, "network", "10.95.0.0/16", "IPv4 /16 of the clusters")
	set.IntVar(&o.secrets, "secrets", 10000, "number of legacy tokens")
	set.IntVar(&o.pods, "pods", 5000, "number of pods, objects without kubelets, that hold tokens")
	set.IntVar(&o.sample, "sample", 1000, "how many of them are cleared, for kube-controller-manager to refill them")
	set.IntVar(&o.rounds, "rounds", 4, "how often all legacy tokens are re-signed, and as often updated without signing")
	set.IntVar(&o.rotations, "rotations", 2, "how often the cluster with nodes is rotated, and each of those that are compared")
	set.IntVar(&o.clusters, "clusters", 1000, "number of clusters with simulated control planes")
	set.DurationVar(&o.window, "window", 10*time.Minute, "how long these are watched when nothing is to be done")
	set.StringVar(&o.only, "only", "", "measure only these groups, `NAMES` separated by commas: "+strings.Join(groupNames(), ", "))
	if err := set.Parse(args); err != nil {
		return o, err
	}
	return o, o.complete(set.Args())
}

// complete checks the flags and makes paths absolute.
func (o *options) complete(rest []string) error {
	switch {
	case len(rest) > 0:
		return fmt.Errorf("unexpected argument %q", rest[0])
	case o.secrets < 1 || o.pods < 1 || o.sample < 1 || o.rounds < 1 || o.rotations < 1:
		return errors.New("--secrets, --pods, --sample, --rounds and --rotations must be above zero")
	case o.clusters < 4 || o.window <= 0:
		return errors.New("--clusters must be 4 or more, and --window above zero")
	case len(o.unknownGroups()) > 0:
		return hint.Errorf(fmt.Sprintf("there are %s", strings.Join(groupNames(), ", ")),
			"--only: unknown %q", o.unknownGroups())
	case os.Geteuid() != 0:
		return hint.Errorf("run it as root, for example by sudo", "a cluster with nodes needs root")
	}
	o.sample = min(o.sample, o.secrets)
	for _, dir := range []*string{&o.bin, &o.dir, &o.out} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return fmt.Errorf("finding %s: %w", *dir, err)
		}
		*dir = abs
	}
	return nil
}

// bench measures all groups that are wanted, in clusters that it makes and deletes.
func bench(ctx context.Context, o options, stdout, talk io.Writer) (err error) {
	p, err := newPlace(o, talk)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.remove()) }()
	r := newResults(o, p.dir)
	wanted := o.groups()
	if slices.ContainsFunc(wanted, func(g group) bool { return g.clusters }) {
		if err := p.createAdmin(ctx); err != nil {
			return err
		}
	}
	for _, g := range wanted {
		if err := g.measure(ctx, p, r); err != nil {
			return fmt.Errorf("measuring %s: %w", g.about, err)
		}
	}
	r.finish()
	if err := r.write(o.out); err != nil {
		return err
	}
	p.say("results are in %s", o.out)
	return r.print(stdout)
}
