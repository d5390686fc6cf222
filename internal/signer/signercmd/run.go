package signercmd

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/internal/signer/supervisor"
)

// Run runs the command until ctx ends. Each value from hangUp is a SIGHUP. It returns the exit code: 0 at the end, 1 after a
// failure, 2 after bad flags.
func Run(ctx context.Context, args []string, hangUp <-chan os.Signal, stderr io.Writer) int {
	f, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "Error: %v\nhint: see keyturn-signer --help\n", err)
		return 2
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil)).With("pid", os.Getpid())
	if err := work(ctx, f, args, hangUp, stderr, log); err != nil {
		log.Error("keyturn-signer ends", "error", err)
		return 1
	}
	return 0
}

func work(ctx context.Context, f flags, args []string, hangUp <-chan os.Signal, stderr io.Writer, log *slog.Logger) error {
	if restarts, ok := supervisor.IsChild(); ok {
		return child(ctx, f, restarts, log)
	}
	sockets, err := open(&f)
	if err != nil {
		return err
	}
	defer func() {
		if err := sockets.close(); err != nil {
			log.Warn("closing the sockets", "error", err)
		}
	}()
	if !f.supervise {
		return serve(ctx, f, sockets.signer, sockets.metrics, service{log: log})
	}
	return parent(ctx, f, args, sockets, hangUp, stderr, log)
}

// sockets are those that the parent holds.
type sockets struct {
	signer *net.UnixListener
	// metrics is nil if they are served nowhere.
	metrics net.Listener
	closers []io.Closer
}

// open makes or inherits the sockets, and finds out where the state file is.
func open(f *flags) (_ *sockets, err error) {
	s := &sockets{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.signer, err = socket.Activated(); err != nil {
		return nil, err
	}
	switch {
	case s.signer != nil && f.socket != "":
		s.closers = append(s.closers, s.signer)
		return nil, errors.New("--socket is given, and a socket was passed too\nhint: leave --socket out")
	case s.signer != nil:
		s.closers = append(s.closers, s.signer)
	case f.socket == "":
		return nil, errors.New("--socket is needed, as no socket was passed")
	default:
		l, err := socket.Listen(f.socket)
		if err != nil {
			return nil, err
		}
		s.signer, s.closers = l.UnixListener, append(s.closers, l)
	}
	return s, s.openMetrics(f.metrics)
}

func (s *sockets) openMetrics(address string) error {
	if address == "" {
		return nil
	}
	if strings.HasPrefix(address, "/") {
		l, err := socket.Listen(address)
		if err != nil {
			return err
		}
		s.metrics, s.closers = l.UnixListener, append(s.closers, l)
		return nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listening for metrics: %w", err)
	}
	s.metrics, s.closers = l, append(s.closers, l)
	return nil
}

func (s *sockets) close() error {
	var all error
	for _, c := range s.closers {
		// A listener that a server has closed already is closed.
		if err := c.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			all = errors.Join(all, err)
		}
	}
	return all
}

// files are the sockets as children are given them: the signer's, then that of the metrics, if any.
func (s *sockets) files() ([]*os.File, error) {
	f, err := socket.File(s.signer)
	if err != nil {
		return nil, err
	}
	if s.metrics == nil {
		return []*os.File{f}, nil
	}
	conn, ok := s.metrics.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("passing the socket of the metrics: it is a %T", s.metrics)
	}
	m, err := socket.File(conn)
	return []*os.File{f, m}, err
}

// parent keeps a child running.
func parent(ctx context.Context, f flags, args []string, s *sockets, hangUp <-chan os.Signal, stderr io.Writer, log *slog.Logger) error {
	self, err := os.Executable() // asked for now: when the program is replaced, it would be the name of the deleted one
	if err != nil {
		return fmt.Errorf("finding this executable: %w", err)
	}
	files, err := s.files()
	if err != nil {
		return err
	}
	handOver := make(chan struct{})
	go func() {
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
	}()
	childArgs := append(slices.Clone(args), "--state-file="+f.statePath(s.signer))
	return supervisor.Run(ctx, supervisor.Options{
		Path: self, Args: childArgs, Files: files, Stderr: stderr, Log: log, Ask: f.ask, Answer: f.answer, Grace: f.grace,
	}, handOver)
}

// statePath returns the path of the state file, by default beside the socket.
func (f flags) statePath(l *net.UnixListener) string {
	if f.stateFile != "" {
		return f.stateFile
	}
	path := f.socket
	if path == "" {
		path = l.Addr().String()
	}
	return filepath.Join(filepath.Dir(path), "served.json")
}
