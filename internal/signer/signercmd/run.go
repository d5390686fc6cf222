package signercmd

import (
	"github.com/keyturn/keyturn/internal/daemon"
	"github.com/keyturn/keyturn/internal/hint"

	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/internal/signer/supervisor"
)

// Run runs the command until ctx ends, and returns its exit code. Each value from hangUp is a SIGHUP.
func Run(ctx context.Context, args []string, hangUp <-chan os.Signal, stderr io.Writer) int {
	return daemon.Program[flags]{Name: "keyturn-signer", Parse: parse, Work: func(f flags, log *slog.Logger) error {
		return work(ctx, f, args, hangUp, stderr, log.With("pid", os.Getpid()))
	}}.Run(args, stderr)
}

func work(ctx context.Context, f flags, args []string, hangUp <-chan os.Signal, stderr io.Writer,
	log *slog.Logger,
) error {
	if supervisor.IsChild() {
		return child(ctx, f, log)
	}
	l, closer, err := open(f)
	if err != nil {
		return err
	}
	defer func() {
		// The server may already have closed its listener.
		if err := closer.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			log.Warn("closing the socket", "error", err)
		}
	}()
	f.stateFile, f.ledgerFile = f.beside(l, f.stateFile, "served.json"), f.beside(l, f.ledgerFile, "ledger")
	if !f.supervise {
		return serve(ctx, f, l, nil, log)
	}
	return parent(ctx, f, args, l, hangUp, stderr, log)
}

// open creates or inherits the socket. The closer must be closed in the end.
func open(f flags) (*net.UnixListener, io.Closer, error) {
	inherited, err := socket.Activated()
	switch {
	case err != nil:
		return nil, nil, err
	case inherited != nil && f.socket != "":
		err = hint.Errorf("leave --socket out", "--socket is given, and a socket was passed too")
		return nil, nil, errors.Join(err, inherited.Close())
	case inherited != nil:
		return inherited, inherited, nil
	case f.socket == "":
		return nil, nil, errors.New("--socket is needed, as no socket was passed")
	}
	l, err := socket.Listen(f.socket)
	if err != nil {
		return nil, nil, err
	}
	return l.UnixListener, l, nil
}

// parent keeps a child running, and serves its metrics.
func parent(ctx context.Context, f flags, args []string, l *net.UnixListener, hangUp <-chan os.Signal, stderr io.Writer,
	log *slog.Logger,
) error {
	self, err := os.Executable() // asked now, since later it would be the name of a replaced and deleted program
	if err != nil {
		return fmt.Errorf("finding this executable: %w", err)
	}
	passed, err := socket.File(l)
	if err != nil {
		return err
	}
	defer passed.Close()
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	web := &web{log: log}
	if f.metrics != "" {
		work.Go(func() { web.keep(ctx, f.metrics) })
	}
	handOver := make(chan struct{})
	work.Go(func() { forward(ctx, hangUp, handOver) })
	return supervisor.Run(ctx, supervisor.Options{
		Path: self, Args: append(slices.Clone(args), "--state-file="+f.stateFile, "--ledger-file="+f.ledgerFile),
		Files: []*os.File{passed}, Stderr: stderr, Log: log, Ask: f.ask, Answer: f.answer, Grace: f.grace, Status: web.note,
	}, handOver)
}

// forward converts each SIGHUP to a hand-over, until ctx ends.
func forward(ctx context.Context, hangUp <-chan os.Signal, handOver chan<- struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangUp:
		}
		select {
		case <-ctx.Done():
		case handOver <- struct{}{}:
		}
	}
}

// beside returns the path of a file, by default next to the socket.
func (f flags) beside(l *net.UnixListener, file, name string) string {
	if file != "" {
		return file
	}
	path := f.socket
	if path == "" {
		path = l.Addr().String()
	}
	return filepath.Join(filepath.Dir(path), name)
}
