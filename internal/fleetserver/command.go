package fleetserver

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/keyturn/keyturn/internal/daemon"
)

// flags are the flags of the command.
type flags struct {
	listen, certFile, keyFile string
	state, registrars         string
	tokenURI, faultsFile      string
	faults                    Faults
}

// flagSet returns a set that parses the flags into f.
func (f *flags) flagSet() *flag.FlagSet {
	set := flag.NewFlagSet("keyturn-fleet", flag.ContinueOnError)
	set.SetOutput(io.Discard) // it would print an error with all flags
	set.StringVar(&f.listen, "listen", "127.0.0.1:8443", "loopback or private `address` and port to serve on")
	set.StringVar(&f.certFile, "tls-cert-file", "", "PEM `file` of the certificate, followed by its issuers; required")
	set.StringVar(&f.keyFile, "tls-private-key-file", "", "PEM `file` of the private key of the certificate; required")
	set.StringVar(&f.state, "state-file", "",
		"`file` of the memberships; the names of other files beside it begin with its name; required")
	set.StringVar(&f.registrars, "registrars-file", "",
		"`file` of the service accounts that may change memberships; required")
	set.StringVar(&f.tokenURI, "token-uri", "",
		"`URL` of /token in the keys of service accounts (default: https://LISTEN/token)")
	set.StringVar(&f.faultsFile, "faults-file", "", "JSON `file` of faults, read again when it changes")
	set.DurationVar(&f.faults.PropagationDelay, "propagation-delay", 0,
		"how long the STS uses the previous keys after a change")
	set.Float64Var(&f.faults.ErrorRate, "error-rate", 0, "`share` of requests answered with an error, from 0 to 1")
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
		_, _ = fmt.Fprintln(stderr, "Usage of keyturn-fleet:")
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

func (f *flags) validate() error {
	if f.certFile == "" || f.keyFile == "" || f.state == "" || f.registrars == "" {
		return errors.New("--tls-cert-file, --tls-private-key-file, --state-file and --registrars-file are needed")
	}
	if err := checkListen(f.listen); err != nil {
		return err
	}
	if f.tokenURI == "" {
		f.tokenURI = "https://" + f.listen + "/token"
	}
	if err := f.faults.validate(); err != nil {
		return fmt.Errorf("--propagation-delay, --error-rate: %w", err)
	}
	return nil
}

// checkListen keeps the local fleet off networks where others could reach it.
func checkListen(listen string) error {
	address, err := netip.ParseAddrPort(listen)
	if err != nil {
		return fmt.Errorf("--listen %q is not an IP address and a port, like 127.0.0.1:8443", listen)
	}
	if ip := address.Addr().Unmap(); !ip.IsLoopback() && !ip.IsPrivate() {
		return fmt.Errorf(
			"--listen %q is neither a loopback nor a private address: the local fleet is not for other networks", listen,
		)
	}
	return nil
}

// Run runs the command until ctx ends, and returns its exit code.
func Run(ctx context.Context, args []string, stderr io.Writer) int {
	return daemon.Program[flags]{Name: "keyturn-fleet", Parse: parse, Work: func(f flags, log *slog.Logger) error {
		return serve(ctx, f, log)
	}}.Run(args, stderr)
}

func serve(ctx context.Context, f flags, log *slog.Logger) (err error) {
	registrars, err := LoadRegistrars(f.registrars)
	if err != nil {
		return err
	}
	certificate, err := tls.LoadX509KeyPair(f.certFile, f.keyFile)
	if err != nil {
		return fmt.Errorf("reading certificate %s and its key: %w", f.certFile, err)
	}
	fleet, err := New(Options{
		StateFile: f.state, Registrars: registrars, TokenURI: f.tokenURI, Faults: &f.faults, FaultsFile: f.faultsFile,
		Log: log,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fleet.Close()) }()
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.listen)
	if err != nil {
		return err
	}
	log.Info("serving", "address", listener.Addr().String(), "tokenURI", f.tokenURI)
	return serveOn(ctx, listener, newHTTPServer(fleet, certificate, log))
}

func newHTTPServer(handler http.Handler, certificate tls.Certificate, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           handler,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{certificate}, MinVersion: tls.VersionTLS12},
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
}

// serveOn serves until ctx ends, then lets pending requests finish.
func serveOn(ctx context.Context, listener net.Listener, server *http.Server) error {
	failed := make(chan error, 1)
	go func() { failed <- server.ServeTLS(listener, "", "") }()
	select {
	case err := <-failed:
		return fmt.Errorf("serving: %w", err)
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		return errors.Join(fmt.Errorf("ending: %w", err), server.Close())
	}
	return nil
}
