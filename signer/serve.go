package signer

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/signer/keydir"
)

const (
	// maxRequest is the largest message that is accepted.
	maxRequest = maxClaims + 1<<10
	// streamWorkers is how many goroutines are kept to answer; more start when these are busy. A signature makes the
	// stack of a new goroutine grow several times, which costs a tenth of the signature. API servers send about ten
	// calls at once.
	streamWorkers = 32
	// maxConnections is the largest number of connections. An API server has one, and a second while it reconnects.
	maxConnections = 128
	// handshake is how long a silent connection is kept.
	handshake = 5 * time.Second
)

// Serve answers calls on l and takes each new key set of the key directory, until ctx ends. Then pending calls may
// finish within Options.DrainTimeout, and Serve returns nil. It closes l. Call it once only.
//
// Whoever can connect to l can have tokens signed, and whoever listens in its stead can give the API server any key. So
// l should be a unix socket in a directory that only the API server's user can reach.
func (s *Signer) Serve(ctx context.Context, l net.Listener) error {
	defer s.tokens.close()
	var keeping sync.WaitGroup
	defer keeping.Wait()
	// New keys are taken while calls finish, too.
	keep, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	keeping.Go(func() { s.keep(keep) })
	return s.answer(ctx, l)
}

// answer is Serve without reading key sets.
func (s *Signer) answer(ctx context.Context, l net.Listener) error {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxRequest), grpc.WaitForHandlers(true), grpc.NumStreamWorkers(streamWorkers),
		grpc.ConnectionTimeout(handshake),
	)
	externaljwt.RegisterExternalJWTSignerServer(server, s)
	drained := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(drained)
		// Idle clients reconnect; pending calls are answered first.
		late := time.AfterFunc(s.opts.DrainTimeout, server.Stop)
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

// connections returns the limit of connections, which leaves half of the file descriptors for reading keys.
func connections() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return maxConnections
	}
	return int(max(1, min(limit.Cur/2, maxConnections)))
}

// keep reads the directory on each change, and at least every Options.ReloadInterval, until ctx ends.
func (s *Signer) keep(ctx context.Context) {
	watcher, err := keydir.NewWatcher(s.opts.KeyDir)
	if err != nil {
		s.opts.Log.Warn("cannot watch the key directory, so it is only polled", "error", err)
		s.poll(ctx)
		return
	}
	defer watcher.Close()
	// Read what changed before the watch began.
	for s.reload(); ctx.Err() == nil; s.reload() {
		watcher.Wait(ctx, s.opts.ReloadInterval)
		s.noteTurn()
		s.tokens.tend()
	}
}

// poll does what keep does, without a watch.
func (s *Signer) poll(ctx context.Context) {
	ticker := time.NewTicker(s.opts.ReloadInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.noteTurn()
			s.tokens.tend()
			s.reload()
		}
	}
}

// noteTurn records that keep is alive.
func (s *Signer) noteTurn() { s.lastTurn.Store(int64(s.env.bootClock())) }
