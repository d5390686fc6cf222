// Package controllercmd is the command keyturn-controller: it reads flags, connects the adapters of clusters to the
// controller, and runs it. It needs nothing of its host.
package controllercmd

import (
	"github.com/keyturn/keyturn/internal/daemon"
	"github.com/keyturn/keyturn/internal/hint"

	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
)

// flags are the flags of the command.
type flags struct {
	kubeconfig      string
	metrics, health string
	local           localFlags
	kubeadm         kubeadmFlags
	clusterAPI      clusterAPIFlags
	allowed         allowed
	manager         managerFlags
}

// flagSet returns a set that parses the flags into f.
func (f *flags) flagSet() *flag.FlagSet {
	set := flag.NewFlagSet("keyturn-controller", flag.ContinueOnError)
	set.SetOutput(io.Discard) // it would print an error with all flags
	set.StringVar(&f.kubeconfig, "kubeconfig", "",
		"kubeconfig `file` of the admin cluster (default: the cluster that the controller runs in)")
	set.StringVar(&f.metrics, "metrics-bind-address", "127.0.0.1:8080", "`address` on which /metrics is served")
	set.StringVar(&f.health, "health-probe-bind-address", "127.0.0.1:8081",
		"`address` on which /healthz and /readyz are served")
	f.local.addFlags(set)
	f.kubeadm.addFlags(set)
	f.clusterAPI.addFlags(set)
	f.allowed.addFlags(set)
	f.manager.addFlags(set)
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
		_, _ = fmt.Fprintln(stderr, "Usage of keyturn-controller:")
		set.SetOutput(stderr)
		set.PrintDefaults()
	}
	if err != nil {
		return f, err
	}
	if set.NArg() > 0 {
		return f, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	return f, errors.Join(f.local.check(), f.kubeadm.check(), f.manager.validate())
}

// Run runs the command until ctx ends, and returns its exit code.
func Run(ctx context.Context, args []string, stderr io.Writer) int {
	return daemon.Program[flags]{Name: "keyturn-controller", Parse: parse, Work: func(f flags, log *slog.Logger) error {
		return serve(ctx, f, log)
	}}.Run(args, stderr)
}

// serve runs the controller in this process.
func serve(ctx context.Context, f flags, log *slog.Logger) error {
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	cfg, err := clusterConfig(f.kubeconfig)
	if err != nil {
		return err
	}
	return manage(ctx, f, cfg, log)
}

// gcPercent is the default of GOGC. With many clusters, most of the memory is permanently in use, and the processor is
// mostly idle: so garbage may take half as much memory as what is in use, instead of as much.
const gcPercent = 50

// clusterConfig reaches the admin cluster: with a kubeconfig or, without one, as a pod in it.
func clusterConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		cfg, err := rest.InClusterConfig()
		if err != nil {
			return nil, hint.Errorf("outside a pod, name a kubeconfig by --kubeconfig",
				"reaching the cluster of this pod: %w", err)
		}
		return cfg, nil
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", kubeconfig, err)
	}
	return cfg, nil
}

// adminConfig removes the client's own limits, since the admin cluster's API server has limits of its own.
func adminConfig(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = -1, 0
	return cfg
}
