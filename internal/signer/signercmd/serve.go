package signercmd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer"
	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/internal/signer/hsm"
	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/internal/signer/supervisor"
)

// service is what the serving of a child and of a process without a parent differ in.
type service struct {
	log      *slog.Logger
	restarts int
	// reporter is nil without a parent.
	reporter *supervisor.Reporter
}

// child serves on the sockets that the parent passed.
func child(ctx context.Context, f flags, restarts int, log *slog.Logger) error {
	reporter, err := supervisor.Connect()
	if err != nil {
		return err
	}
	l, err := socket.Inherited(supervisor.FirstFile)
	if err != nil {
		return err
	}
	var metrics net.Listener
	if f.metrics != "" {
		if metrics, err = socket.Inherited(supervisor.FirstFile + 1); err != nil {
			return err
		}
	}
	return serve(ctx, f, l, metrics, service{log: log, restarts: restarts, reporter: reporter})
}

// serve serves until ctx ends or the parent is gone, and then finishes what was begun.
func serve(ctx context.Context, f flags, l, metrics net.Listener, by service) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	registry := newRegistry(by.restarts)
	module := hsm.New(f.module)
	s, err := signer.New(signer.Options{
		KeyDir: f.keyDir, StateFile: f.stateFile, Reload: f.reload, Log: by.log, Metrics: registry,
		Backends: signer.Backends{PEM: backend.PEM{}, PKCS11: module},
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
	if by.reporter != nil {
		work.Go(func() {
			defer cancel()
			by.reporter.Serve(s.Check, func(err error) bool { return errors.Is(err, signer.ErrStuck) })
		})
		defer by.reporter.Close()
	}
	if metrics != nil {
		web := serveMetrics(metrics, s, registry, by.log)
		defer web.Close()
	}
	return serveKeys(ctx, l, s, f.grace)
}

const (
	// streamWorkers is how many goroutines are kept to answer; more are started when these are busy. A signature makes the stack of a new
	// one grow several times, which costs a tenth of the signature.
	streamWorkers = 8
	// gcPercent is GOGC unless that is set: some MiB more, and half the garbage collections of a process that holds next to nothing.
	gcPercent = 200
)

// serveKeys serves the API itself.
func serveKeys(ctx context.Context, l net.Listener, s *signer.Signer, grace time.Duration) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(signer.MaxRequest), grpc.WaitForHandlers(true), grpc.NumStreamWorkers(streamWorkers),
	)
	externaljwt.RegisterExternalJWTSignerServer(server, s)
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		// Clients that have nothing under way are told to connect anew, and everybody else is answered first.
		late := time.AfterFunc(grace, server.Stop)
		defer late.Stop()
		server.GracefulStop()
	})
	err := server.Serve(l)
	if !stop() {
		<-drained
		return nil
	}
	if err != nil {
		return fmt.Errorf("serving keys: %w", err)
	}
	return nil
}

func newRegistry(restarts int) *prometheus.Registry {
	r := prometheus.NewRegistry()
	restarted := prometheus.NewCounter(prometheus.CounterOpts{
		Name: "keyturn_signer_restarts_total",
		Help: "Children that the parent started before this one.",
	})
	restarted.Add(float64(restarts))
	r.MustRegister(restarted, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return r
}

func serveMetrics(l net.Listener, s *signer.Signer, registry *prometheus.Registry, log *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.Handle("/", s.Healthz())
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	web := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() {
		if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("serving metrics", "error", err)
		}
	}()
	return web
}
