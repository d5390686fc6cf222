// Package supervisor keeps a process that serves a socket running, without ever letting go of the socket.
//
// The supervisor holds the listening socket and nothing else: no key, no code that reads any. Each child is started with the socket. When
// one dies, the socket goes on listening; whoever connects waits in its queue until the next child accepts, a few
// milliseconds later. A client like kube-apiserver's thus never meets a refused connection, which is what makes
// gRPC back off for seconds.
//
// Run is where to start; Report is the part of the child. What it sees to:
//
//   - A child that dies is started again at once; only one that keeps dying soon after its start waits, longer each time.
//   - A child that hangs is killed: it must answer each question on a socket pair in time, and answers only after it has proven that
//     it can do its work.
//   - A hand-over starts the next child, by then perhaps of another version, which accepts beside the old one; once it
//     has reported, the old one is told to end, and finishes what it began. A child that cannot take over leaves the old one where it is.
//   - No child outlives the supervisor: the kernel kills it then.
package supervisor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"time"
)

// Options say what is run.
type Options struct {
	// Path is the program, and Args are its arguments without the program itself. No secret belongs in them.
	Path string
	Args []string
	// Files are the sockets, which the child finds as file descriptors from FirstFile on.
	Files []*os.File
	// Stderr is that of the children.
	Stderr io.Writer
	Log    *slog.Logger
	// Ask is how often a child is asked whether it works, and Answer how long it may take to say so.
	Ask, Answer time.Duration
	// Grace is how long a child may take to finish what it began.
	Grace time.Duration
}

const (
	// reportFile is the child's end of the socket pair.
	reportFile = 3
	// FirstFile is the file descriptor of the first of Options.Files.
	FirstFile = 4
)

// The environment of a child.
const (
	// startsVariable counts the children before this one. Who has it is a child.
	startsVariable = "KEYTURN_SIGNER_RESTARTS"
	// handOverVariable says that another child still serves.
	handOverVariable = "KEYTURN_SIGNER_HAND_OVER"
)

// IsChild says whether this process was started by a supervisor, and how many children there were before.
func IsChild() (restarts int, ok bool) {
	n, err := strconv.Atoi(os.Getenv(startsVariable))
	return n, err == nil
}

// IsHandOver says whether the child is to take over from one that works. If it cannot do as well, it must end without serving.
func IsHandOver() bool { return os.Getenv(handOverVariable) != "" }

// Run keeps a child running until ctx ends. Each value from handOver starts another child in its place. Run returns when
// no child is left.
func Run(ctx context.Context, o Options, handOver <-chan struct{}) error {
	// The kernel ends the children with the thread that started them, so this one must last.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	s := &state{Options: o, events: make(chan event)}
	defer s.end()
	retry := time.NewTimer(0)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-retry.C:
			if err := s.begin(); err != nil {
				return err
			}
		case <-handOver:
			s.beginHandOver()
		case e := <-s.events:
			if wait, again := s.note(e); again {
				retry.Reset(wait)
			}
		}
	}
}

// state belongs to the goroutine of Run.
type state struct {
	Options
	events chan event
	starts int
	// serving and next may be nil. The children that are ending count in alive only.
	serving, next *child
	alive         int
	deaths        int
}

// event is something that a child did.
type event struct {
	child *child
	// ended says that the child is gone, err how; otherwise it has reported that it serves.
	ended bool
	err   error
}

// begin starts a child in place of one that died.
func (s *state) begin() error {
	if s.serving != nil {
		return nil
	}
	c, err := s.start(false)
	if err != nil {
		return err
	}
	s.serving = c
	return nil
}

func (s *state) beginHandOver() {
	if s.next != nil || s.serving == nil {
		s.Log.Warn("no hand-over: a child is just being started")
		return
	}
	c, err := s.start(true)
	if err != nil {
		s.Log.Error("no hand-over", "error", err)
		return
	}
	s.next = c
}

func (s *state) start(handOver bool) (*child, error) {
	c, err := startChild(s.Options, s.starts, handOver)
	if err != nil {
		return nil, err
	}
	s.Log.Info("child started", "child", c.pid(), "handOver", handOver)
	s.starts++
	s.alive++
	go c.watch(s.Options, s.events)
	return c, nil
}

// note does what an event asks for. It says whether a child is to be started, and after how long.
func (s *state) note(e event) (wait time.Duration, again bool) {
	if !e.ended {
		if e.child == s.next {
			s.Log.Info("hand-over", "from", s.serving.pid(), "to", e.child.pid())
			s.retire()
		}
		return 0, false
	}
	s.alive--
	switch e.child {
	case s.next:
		s.next = nil
		s.Log.Error("no hand-over: the next child ended", "child", e.child.pid(), "error", e.err)
	case s.serving:
		s.serving = nil
		return s.bury(e)
	}
	return 0, false
}

// retire lets the next child serve alone.
func (s *state) retire() {
	old := s.serving
	s.serving, s.next, s.deaths = s.next, nil, 0
	old.stop(s.Grace)
}

// The back-off of a child that keeps dying.
const (
	// steady is how long a child must have lived for its death to be the first again.
	steady = 10 * time.Second
	// atOnce is how many deaths in a row are followed by a start at once.
	atOnce       = 5
	firstBackOff = 50 * time.Millisecond
	maxBackOff   = 5 * time.Second
)

// bury says how long to wait after the death of the serving child. If one is about to take over, it just does.
func (s *state) bury(e event) (time.Duration, bool) {
	if s.next != nil {
		s.serving, s.next = s.next, nil
		s.Log.Warn("child died during a hand-over", "child", e.child.pid(), "error", e.err)
		return 0, false
	}
	if time.Since(e.child.started) > steady {
		s.deaths = 0
	}
	s.deaths++
	wait := time.Duration(0)
	if over := s.deaths - atOnce; over > 0 {
		wait = min(firstBackOff<<min(over-1, 20), maxBackOff)
	}
	s.Log.Warn("child died", "child", e.child.pid(), "error", e.err, "startedAgainIn", wait.String())
	return wait, true
}

// end ends all children and waits for them.
func (s *state) end() {
	for _, c := range []*child{s.serving, s.next} {
		if c != nil {
			c.stop(s.Grace)
		}
	}
	for s.alive > 0 {
		if e := <-s.events; e.ended {
			s.alive--
			if e.err != nil {
				s.Log.Warn("child did not end in order", "child", e.child.pid(), "error", e.err)
			}
		}
	}
}

// errHung is why a child was killed.
var errHung = errors.New("it hung and was killed")
