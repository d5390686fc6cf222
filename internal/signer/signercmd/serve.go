package signercmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer"
	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/internal/signer/hsm"
	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/internal/signer/supervisor"
)

// child serves on the socket that the parent passed.
func child(ctx context.Context, f flags, log *slog.Logger) error {
	reporter, err := supervisor.Connect()
	if err != nil {
		return err
	}
	l, err := socket.Inherited(supervisor.FirstFile)
	if err != nil {
		return err
	}
	return serve(ctx, f, l, reporter, log)
}

// serve serves until ctx ends or the parent is gone, and then finishes what was begun. Without a parent there is no
// reporter.
func serve(ctx context.Context, f flags, l net.Listener, reporter *supervisor.Reporter, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s, err := signer.New(signer.Options{
		KeyDir: f.keyDir, StateFile: f.stateFile, Reload: f.reload, Log: log, Metrics: registry,
		Backends: signer.Backends{PEM: backend.PEM{}, PKCS11: hsm.New(f.module)},
	})
	if err != nil {
		return err
	}
	if err := s.Ready(); err != nil && supervisor.IsHandOver() {
		return fmt.Errorf("not fit to take over: %w", err)
	}
	var work sync.WaitGroup
	defer work.Wait()
	keeping, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	defer stopKeeping()
	work.Go(func() { s.Keep(keeping) })
	if reporter != nil {
		work.Go(func() {
			defer cancel()
			reporter.Serve(func() (supervisor.Report, error) { return report(s, registry) })
		})
		defer reporter.Close()
	}
	return serveKeys(ctx, l, s, f.grace)
}

// report is what the parent gets to know and shows. It fails when only a new process helps.
func report(s *signer.Signer, registry prometheus.Gatherer) (r supervisor.Report, err error) {
	if err := s.Check(); errors.Is(err, signer.ErrStuck) {
		return r, err
	}
	if err := s.Ready(); err != nil {
		r.Problem = err.Error()
	}
	r.Renew = s.HoldsRetired()
	// What cannot be gathered is left out: numbers are no reason to end a child.
	families, _ := registry.Gather()
	var text strings.Builder
	for _, family := range families {
		_, _ = expfmt.MetricFamilyToText(&text, family)
	}
	r.Metrics = text.String()
	return r, nil
}

const (
	// streamWorkers is how many goroutines are kept to answer; more are started when these are busy. A signature makes
	// the stack of a new one grow several times, which costs a tenth of the signature.
	streamWorkers = 8
	// gcPercent is GOGC unless that is set: some MiB more, and half the garbage collections of a process that holds
	// next to nothing.
	gcPercent = 200
)

const (
	// maxConnections bounds the connections to the API. An API server has one, and another one while it reconnects.
	maxConnections = 128
	// handshake is how long a connection that does not speak counts.
	handshake = 5 * time.Second
)

// connections leaves half of the file descriptors for reading keys.
func connections() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxConnections
	}
	return int(max(1, min(limit.Cur/2, maxConnections)))
}

// serveKeys serves the API itself.
func serveKeys(ctx context.Context, l net.Listener, s *signer.Signer, grace time.Duration) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(signer.MaxRequest), grpc.WaitForHandlers(true), grpc.NumStreamWorkers(streamWorkers),
		grpc.ConnectionTimeout(handshake),
	)
	externaljwt.RegisterExternalJWTSignerServer(server, s)
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		// Clients that have nothing under way connect again, and everybody else is answered first.
		late := time.AfterFunc(grace, server.Stop)
		defer late.Stop()
		server.GracefulStop()
	})
	err := server.Serve(netutil.LimitListener(l, connections()))
	if !stop() {
		<-drained
		return nil
	}
	if err != nil {
		return fmt.Errorf("serving keys: %w", err)
	}
	return nil
}
