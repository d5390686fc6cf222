package signer

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/jwks"
)

// serve starts a signer with Serve. The returned function ends it and returns what Serve returned.
func (w *world) serve() (end func() error) {
	w.t.Helper()
	w.start()
	w.socket = filepath.Join(shortDir(w.t), "s")
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+w.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	w.client = externaljwt.NewExternalJWTSignerClient(conn)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func(s *Signer) { served <- s.Serve(ctx, l) }(w.signer)
	w.signer = nil // from here on, it reads the key directory without help
	w.t.Cleanup(cancel)
	return func() error {
		cancel()
		return <-served
	}
}

func TestServeTakesNewKeys(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	end := w.serve()
	w.fetch()
	w.wantSigner(1, "at the start")
	w.write(1, 1, 2)
	for deadline := time.Now().Add(time.Minute); len(w.fetch().Keys) != 2; {
		if time.Now().After(deadline) {
			t.Fatal("the new key set is not served")
		}
	}
	if err := end(); err != nil {
		t.Errorf("Serve: %v, want nil after its context ended", err)
	}
}

// TestServeFinishes ends Serve while a call is under way.
func TestServeFinishes(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	end := w.serve()
	w.fetch()
	hang := make(chan struct{})
	w.hardware.set(nil, hang)
	signed := make(chan error, 1)
	go func() {
		_, err := w.sign()
		signed <- err
	}()
	<-w.hardware.waits
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	w.awaitRefused()
	close(hang)
	if err := <-signed; err != nil {
		t.Errorf("the call under way failed: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// awaitRefused returns once nobody listens on the socket of serve.
func (w *world) awaitRefused() {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("unix", w.socket)
		if err != nil {
			return
		}
		conn.Close()
		if time.Now().After(deadline) {
			w.t.Fatal("Serve still listens after its context ended")
		}
	}
}

func TestServeFailsWithListener(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.start()
	l, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := w.signer.Serve(t.Context(), l); err == nil {
		t.Error("Serve with a closed listener: no error")
	}
}

// keeping has a signer keep its keys up to date until end, or the test's end, and returns the set that it had before.
// Its boot clock goes on each time that it is read.
func (w *world) keeping(keyDir string, interval time.Duration) (s *Signer, first *keySet, end func()) {
	w.t.Helper()
	var clock atomic.Int64
	s, err := newSigner(
		Options{KeyDir: keyDir, ReloadInterval: interval, Log: slog.New(slog.NewJSONHandler(&w.log, nil))},
		environment{
			files: backend.PEM{}, now: func() time.Time { return w.now },
			bootClock: func() time.Duration { return time.Duration(clock.Add(1)) },
		},
	)
	if err != nil {
		w.t.Fatal(err)
	}
	first = s.set.Load()
	ctx, cancel := context.WithCancel(context.Background())
	var keeping sync.WaitGroup
	keeping.Go(func() { s.keep(ctx) })
	end = sync.OnceFunc(func() {
		cancel()
		keeping.Wait()
	})
	w.t.Cleanup(end)
	return s, first, end
}

// until waits for a condition.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
	}
}

// TestKeepWithoutWatch has no directory to watch: what appears is found from time to time.
func TestKeepWithoutWatch(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.dir = filepath.Join(w.dir, "missing")
	s, _, end := w.keeping(w.keyDir(), time.Millisecond)
	turn := s.lastTurn.Load()
	until(t, "the turns are not noted", func() bool { return s.lastTurn.Load() > turn })
	w.write(1, 1)
	until(t, "the keys are not read", func() bool { return s.set.Load() != nil })
	if end(); w.logged("only polled") != 1 {
		t.Errorf("it is not logged once: %s", w.log.String())
	}
}

// TestKeepRests wants a directory to be read when it changes, and not all the time.
func TestKeepRests(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	s, first, _ := w.keeping(w.keyDir(), time.Hour)
	until(t, "it is not read when the watch begins", func() bool { return s.set.Load() != first })
	turn := s.lastTurn.Load()
	resting := s.set.Load()
	for range 100_000 {
		if s.set.Load() != resting {
			t.Fatal("it is read again without a change")
		}
		runtime.Gosched()
	}
	w.write(2, 1, 2)
	until(t, "the change is not read", func() bool { return len(s.set.Load().keys) == 2 })
	until(t, "the turn is not noted", func() bool { return s.lastTurn.Load() > turn })
}

// TestConnections lowers how many files this process may open: half of them are for connections, 128 at most.
func TestConnections(t *testing.T) {
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
			t.Error(err)
		}
	}
	defer restore()
	for files, want := range map[uint64]int{0: 1, 1: 1, 2: 1, 100: 50, 255: 127, 256: 128, 300: 128} {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: files, Max: was.Max}); err != nil {
			t.Fatal(err)
		}
		got := connections()
		restore()
		if got != want {
			t.Errorf("%d files: %d connections, want %d", files, got, want)
		}
	}
}
