// Package localcmd is the command keyturn-local: it reads flags, and runs the clusters of this host.
package localcmd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"

	"k8s.io/klog/v2"

	"github.com/keyturn/keyturn/internal/daemon"
	"github.com/keyturn/keyturn/internal/local/admincluster"
	"github.com/keyturn/keyturn/internal/local/datadir"
)

// flags are the flags of the command.
type flags struct {
	dataDir, kubeBinDir string
	network             netip.Prefix
	supervise           bool
	metrics             metricsFlags
	// controller are the flags of keyturn-controller.
	controller []string
}

// flagSet returns a set that parses the flags into f.
func (f *flags) flagSet() *flag.FlagSet {
	set := flag.NewFlagSet("keyturn-local", flag.ContinueOnError)
	set.SetOutput(io.Discard) // it would print an error with all flags
	set.StringVar(&f.dataDir, "data-dir", "", "data `directory` of the local clusters; required")
	set.StringVar(&f.kubeBinDir, "kube-bin-dir", "",
		"`directory` of the Kubernetes binaries (default: kube beside this program)")
	set.TextVar(&f.network, "network", datadir.DefaultNetwork, "IPv4 `range` from which local clusters get addresses")
	set.BoolVar(&f.supervise, "supervise", false, "run as a child of this process, which restarts the child when it dies")
	f.metrics.addFlags(set)
	return set
}

// Flags returns the flags of the command, for its reference.
func Flags() *flag.FlagSet { return new(flags).flagSet() }

// parse reads the flags. If help is requested, it prints it to stderr and returns flag.ErrHelp.
func parse(args []string, stderr io.Writer) (flags, error) {
	f := flags{}
	set := f.flagSet()
	err := set.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = fmt.Fprintln(stderr, "Usage of keyturn-local [flags] [-- flags of keyturn-controller]:")
		set.SetOutput(stderr)
		set.PrintDefaults()
	}
	if err != nil {
		return f, err
	}
	f.controller = set.Args()
	if n := len(args) - set.NArg(); set.NArg() > 0 && (n == 0 || args[n-1] != "--") {
		return f, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	if f.dataDir == "" {
		return f, errors.New("--data-dir is needed")
	}
	return f, f.metrics.validate()
}

// Run runs the command until ctx ends, and returns its exit code.
func Run(ctx context.Context, args []string, stderr io.Writer) int {
	return daemon.Program[flags]{Name: "keyturn-local", Parse: parse, Work: func(f flags, log *slog.Logger) error {
		if f.supervise {
			return supervise(ctx, args, stderr, log)
		}
		return serve(ctx, f, log)
	}}.Run(args, stderr)
}

// serve runs the clusters in this process.
func serve(ctx context.Context, f flags, log *slog.Logger) error {
	klog.SetSlogLogger(log)
	registry := newRegistry()
	cluster, err := admincluster.Open(admincluster.Options{
		DataDir: f.dataDir, KubeBinDir: f.kubeBinDir, Network: f.network, Log: log, Metrics: registry,
	})
	if err != nil {
		return err
	}
	if f.metrics.address != "" {
		ctx, stop := context.WithCancel(ctx)
		var serving sync.WaitGroup
		defer serving.Wait()
		defer stop()
		web := metricsServer{metricsFlags: f.metrics, registry: registry, admin: cluster.AdminConfig, log: log}
		serving.Go(func() { web.keep(ctx) })
	}
	return cluster.Run(ctx, f.controller)
}
