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

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"github.com/keyturn/keyturn/internal/signer/hsm"
	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/internal/signer/supervisor"
	"github.com/keyturn/keyturn/signer"
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

// serve serves until ctx ends or the parent is gone, and then finishes pending calls. Without a parent there is no
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
		KeyDir: f.keyDir, StateFile: f.stateFile, LedgerFile: f.ledgerFile, ReloadInterval: f.reload, DrainTimeout: f.grace,
		PKCS11: hsm.New(f.module),
		Log:    log, Metrics: registry,
	})
	if err != nil {
		return err
	}
	if err := s.Ready(); err != nil && supervisor.IsHandOver() {
		return fmt.Errorf("not fit to take over: %w", err)
	}
	var work sync.WaitGroup
	defer work.Wait()
	if reporter != nil {
		work.Go(func() {
			defer cancel()
			reporter.Serve(func() (supervisor.Report, error) { return report(s, registry) })
		})
		defer reporter.Close()
	}
	return s.Serve(ctx, l)
}

// state is a signer's view of itself.
type state interface {
	Check() error
	Ready() error
	HoldsRetired() bool
}

// report makes the report for the parent. It fails when only a new process helps.
func report(s state, registry prometheus.Gatherer) (r supervisor.Report, err error) {
	if err := s.Check(); errors.Is(err, signer.ErrStuck) {
		return r, err
	}
	if err := s.Ready(); err != nil {
		r.Problem = err.Error()
	}
	r.Renew = s.HoldsRetired()
	r.Metrics = asText(registry)
	return r, nil
}

// asText returns metrics in the format of Prometheus. Metrics that cannot be gathered are omitted; they are no reason
// to stop a child.
func asText(metrics prometheus.Gatherer) string {
	families, _ := metrics.Gather()
	var text strings.Builder
	for _, family := range families {
		_, _ = expfmt.MetricFamilyToText(&text, family)
	}
	return text.String()
}

// gcPercent is the default of GOGC: 8 MiB more, and a third of the garbage collections of a process that holds little
// memory.
const gcPercent = 300
