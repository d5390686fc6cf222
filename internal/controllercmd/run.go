// Package controllercmd is the command keyturn-controller: it reads flags, puts the adapters of local clusters
// together with the controller, and runs it.
package controllercmd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/netip"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/keyturn/keyturn/internal/local"
)

// flags are those of the command.
type flags struct {
	kubeconfig, dataDir, kubeBinDir string
	network                         netip.Prefix
	metrics, health                 string
	supervise                       bool
	allowed                         allowed
	manager                         managerFlags
}

// parse reads the flags. Asked for help, it gives it to stderr and returns flag.ErrHelp.
func parse(args []string, stderr io.Writer) (flags, error) {
	f := flags{}
	set := flag.NewFlagSet("keyturn-controller", flag.ContinueOnError)
	set.SetOutput(io.Discard) // it would tell an error with all flags
	set.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig of the admin cluster")
	set.StringVar(&f.dataDir, "data-dir", "", "data directory of the local clusters")
	set.StringVar(&f.kubeBinDir, "kube-bin-dir", "", "directory of the Kubernetes binaries (default: kube beside this executable)")
	set.TextVar(&f.network, "network", local.DefaultNetwork, "range from which local clusters get addresses")
	set.StringVar(&f.metrics, "metrics-bind-address", "127.0.0.1:8080", "where /metrics is served")
	set.StringVar(&f.health, "health-probe-bind-address", "127.0.0.1:8081", "where /healthz and /readyz are served")
	set.BoolVar(&f.supervise, "supervise", false, "run the controller as a child and start it again when it dies")
	f.allowed.addFlags(set)
	f.manager.addFlags(set)
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
	if f.kubeconfig == "" || f.dataDir == "" {
		return f, errors.New("--kubeconfig and --data-dir are needed")
	}
	return f, f.manager.validate()
}

// Run runs the command until ctx ends. It returns the exit code: 0 at the end, 1 after a failure, 2 after bad flags.
func Run(ctx context.Context, args []string, stderr io.Writer) int {
	f, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "Error: %v\nhint: see keyturn-controller --help\n", err)
		return 2
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	work := serve
	if f.supervise {
		work = func(ctx context.Context, _ flags, log *slog.Logger) error { return supervise(ctx, args, stderr, log) }
	}
	if err := work(ctx, f, log); err != nil {
		log.Error("keyturn-controller ends", "error", err)
		return 1
	}
	return 0
}

// serve runs the controller in this process.
func serve(ctx context.Context, f flags, log *slog.Logger) error {
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
	host, err := local.New(local.Options{DataDir: f.dataDir, KubeBinDir: f.kubeBinDir, Network: f.network, Log: log})
	if err != nil {
		return err
	}
	lock, err := host.Lock()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	cfg, err := clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	if err != nil {
		return fmt.Errorf("reading %s: %w", f.kubeconfig, err)
	}
	go keepAdmin(ctx, host, log)
	return manage(ctx, f, cfg, host, log)
}

// adminConfig lifts the client's own limits: the admin cluster's API server has limits of its own.
func adminConfig(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = -1, 0
	return cfg
}
