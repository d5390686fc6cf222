// Package signercmd is the command keyturn-signer: it reads flags, holds the socket, and keeps a child running that
// signs.
// The started process is the parent: see package supervisor. It runs itself again as the child, which alone reads keys
// and serves them. With --supervise=false one process does both, for service managers that hold the socket themselves;
// it has no metrics, and retired private keys stay in its memory until it is restarted.
//
// The parent serves metrics and health from the child's last report, so requests never reach the child. They are at
// most --watchdog-interval old. If the metrics address is in use, the parent logs that and tries again.
//
// When a private key was retired, the parent hands over to a new child within --watchdog-interval. Every copy of the
// key ends with the memory of the old process. SIGHUP does the same, but with the program that is now on disk: so the
// program is upgraded without refusing anything. SIGTERM and SIGINT stop everything in order.
package signercmd

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"strings"
	"time"
)

// flags are the flags of the command.
type flags struct {
	socket, keyDir, stateFile, ledgerFile string
	metrics                               string
	module                                string
	reload                                time.Duration
	supervise                             bool
	ask, answer, grace                    time.Duration
}

// flagSet returns a set that parses the flags into f.
func (f *flags) flagSet() *flag.FlagSet {
	set := flag.NewFlagSet("keyturn-signer", flag.ContinueOnError)
	set.SetOutput(io.Discard) // it would print an error with all flags
	set.StringVar(&f.socket, "socket", "",
		"`path` of the socket that --service-account-signing-endpoint of kube-apiserver names, in a separate directory; "+
			"required, unless systemd passes the socket")
	set.StringVar(&f.keyDir, "key-dir", "", "`directory` of the keys; required")
	set.StringVar(&f.stateFile, "state-file", "",
		"`file` that records which keys the API server has (default: served.json beside the socket)")
	set.StringVar(&f.ledgerFile, "ledger-file", "",
		"`file` that records which signed tokens are valid, on a local disk (default: ledger beside the socket)")
	set.StringVar(&f.metrics, "metrics-bind-address", "", "`address` on which the parent serves /metrics, "+
		"/healthz and /readyz: the path of a socket in a separate directory, or a loopback address (default: none)")
	set.StringVar(&f.module, "pkcs11-module", "", "`path` of the PKCS #11 library for keys with a pkcs11 URI")
	set.DurationVar(&f.reload, "reload-interval", 5*time.Second,
		"how often the key directory is read even if no change was noticed")
	set.BoolVar(&f.supervise, "supervise", true,
		"hold the socket in a parent without keys, and sign in a child that the parent restarts")
	set.DurationVar(&f.ask, "watchdog-interval", time.Second, "how often the child must prove that each key signs")
	set.DurationVar(&f.answer, "watchdog-timeout", 10*time.Second,
		"how long the child may take to prove it before it is killed and restarted")
	set.DurationVar(&f.grace, "drain-timeout", 10*time.Second,
		"how long a child that is replaced may take to finish its requests")
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
		_, _ = fmt.Fprintln(stderr, "Usage of keyturn-signer:")
		set.SetOutput(stderr)
		set.PrintDefaults()
	}
	if err != nil {
		return f, err
	}
	if set.NArg() > 0 {
		return f, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	return f, f.validate()
}

func (f flags) validate() error {
	if f.keyDir == "" {
		return errors.New("--key-dir is needed")
	}
	for name, d := range map[string]time.Duration{
		"reload-interval": f.reload, "watchdog-interval": f.ask, "watchdog-timeout": f.answer, "drain-timeout": f.grace,
	} {
		if d <= 0 {
			return fmt.Errorf("--%s must be above zero", name)
		}
	}
	if f.module != "" && !filepath.IsAbs(f.module) {
		return errors.New("--pkcs11-module must be an absolute path")
	}
	if f.metrics != "" && !f.supervise {
		return errors.New("--metrics-bind-address needs --supervise: only the parent, which has no key, serves metrics")
	}
	if f.metrics == "" || strings.HasPrefix(f.metrics, "/") {
		return nil
	}
	if a, err := netip.ParseAddrPort(f.metrics); err != nil || !a.Addr().IsLoopback() {
		return fmt.Errorf("--metrics-bind-address %q is neither an absolute path nor a loopback address with a port",
			f.metrics)
	}
	return nil
}
