package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen.
const patience = 2 * time.Minute

// TestMain lets the test binary be a child.
func TestMain(m *testing.M) {
	switch {
	case IsChild():
		os.Exit(behave(os.Args[1]))
	case os.Getenv("SUPERVISOR_TEST_CHILD") != "":
		supervise(os.Getenv("SUPERVISOR_TEST_CHILD"))
	default:
		os.Exit(m.Run())
	}
}

// supervise is a supervisor in a process of its own, which prints the pids of the children that serve.
func supervise(behaviour string) {
	_ = Run(context.Background(), Options{
		Path: os.Args[0], Args: []string{behaviour}, Stderr: os.Stderr, Log: slog.New(slog.DiscardHandler),
		Ask: 5 * time.Millisecond, Answer: patience, Grace: patience, Status: func(s Status) { fmt.Println(pid(s)) },
	}, nil)
}

// behave is a child. What it does is in a file, so that a test can change it for the next child.
func behave(file string) int {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 9
	}
	behaviour := string(raw)
	ended, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	r, err := Connect()
	if err != nil {
		return 8
	}
	switch behaviour {
	case "speaks":
		fmt.Fprintln(os.Stderr, "a word of the child")
	case "never serves":
		<-ended.Done()
		return 0
	case "ignores SIGTERM":
		signal.Ignore(syscall.SIGTERM)
	case "unfit":
		if IsHandOver() {
			return 4
		}
	}
	go func() {
		<-ended.Done()
		r.Close()
	}()
	n := 0
	r.Serve(func() (Report, error) {
		n++
		switch {
		case behaviour == "hangs" && n > 2:
			select {}
		case behaviour == "talks nonsense" && n > 2:
			_, _ = r.conn.Write([]byte("serving\n"))
			return Report{}, os.ErrInvalid
		case behaviour == "fails" && n > 2:
			return Report{}, os.ErrInvalid
		case behaviour == "talks too much" && n > 2:
			return Report{Metrics: strings.Repeat("x", maxReport)}, nil
		}
		return Report{
			Problem: behaviour, Renew: behaviour == "wants renewal", Metrics: fmt.Sprintf("%d %t", os.Getpid(), IsHandOver()),
		}, nil
	})
	if behaviour == "ignores SIGTERM" {
		select {}
	}
	<-ended.Done()
	if behaviour == "ends slowly" {
		time.Sleep(5 * dying)
	}
	return 0
}

// world is a supervisor that runs.
type world struct {
	t         *testing.T
	behaviour string
	handOver  chan struct{}
	cancel    context.CancelFunc
	done      chan error
	statuses  chan Status

	mu  sync.Mutex
	log bytes.Buffer
}

// Write keeps the log.
func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.Write(p)
}

func (w *world) options() Options {
	return Options{
		Path: os.Args[0], Args: []string{w.behaviour}, Stderr: w, Log: slog.New(slog.NewJSONHandler(w, nil)),
		Ask: 5 * time.Millisecond, Answer: patience, Grace: patience,
		Status: func(s Status) { w.statuses <- s },
	}
}

func newWorld(t *testing.T, behaviour string) *world {
	t.Helper()
	w := &world{
		t: t, behaviour: t.TempDir() + "/behaviour", handOver: make(chan struct{}), done: make(chan error, 1),
		statuses: make(chan Status, 10000),
	}
	w.behave(behaviour)
	return w
}

// behave sets what the next child does.
func (w *world) behave(behaviour string) {
	w.t.Helper()
	if err := os.WriteFile(w.behaviour, []byte(behaviour), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) start(o Options) {
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go func() { w.done <- Run(ctx, o, w.handOver) }()
	w.t.Cleanup(func() {
		cancel()
		if w.t.Failed() {
			w.t.Logf("log:\n%s", w.text())
		}
	})
}

// end ends the supervisor and returns what Run did.
func (w *world) end() error {
	w.t.Helper()
	w.cancel()
	select {
	case err := <-w.done:
		return err
	case <-time.After(patience):
		w.t.Fatal("the supervisor does not end")
	}
	return nil
}

func (w *world) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}

// await returns the first status that is as wanted.
func (w *world) await(what string, is func(Status) bool) Status {
	w.t.Helper()
	for late := time.After(patience); ; {
		select {
		case s := <-w.statuses:
			if is(s) {
				return s
			}
		case err := <-w.done:
			w.t.Fatalf("Run ended with %v before %s", err, what)
		case <-late:
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// pid returns the pid of the child that reported.
func pid(s Status) (n int) {
	if s.Report != nil {
		_, _ = fmt.Sscan(s.Report.Metrics, &n)
	}
	return n
}

func serving(s Status) bool { return s.Report != nil }

// awaitOther returns the status by another child.
func (w *world) awaitOther(before Status) Status {
	w.t.Helper()
	return w.await("another child", func(s Status) bool { return serving(s) && pid(s) != pid(before) })
}

// alive reports whether a process runs.
func alive(pid int) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(raw), ") Z ")
}

// logged returns a member of each line of log with a message.
func (w *world) logged(message, member string) (all []string) {
	for line := range strings.Lines(w.text()) {
		entry := map[string]any{}
		if json.Unmarshal([]byte(line), &entry) == nil && entry["msg"] == message {
			all = append(all, fmt.Sprint(entry[member]))
		}
	}
	return all
}

func (w *world) awaitEnd(pid int) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); alive(pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("child %d does not end", pid)
		}
	}
}

// command is a process that has ended.
func (w *world) command() *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command("/bin/true")
	if err := cmd.Run(); err != nil {
		w.t.Fatal(err)
	}
	return cmd
}
