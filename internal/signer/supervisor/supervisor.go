// Package supervisor keeps a process that serves a socket running, without ever closing the socket.
//
// The supervisor holds the listening socket and nothing else: no key, and no code that reads one. Each child is started
// with the socket. When one dies, the socket keeps listening; clients wait in its queue until the next child accepts, a
// few milliseconds later. So a client such as kube-apiserver never meets a refused connection, after which gRPC would
// back off for seconds.
//
// Start with Run; Reporter is the part of the child. Run guarantees:
//
//   - A child that dies is restarted at once. Only a child that keeps dying soon after its start waits, longer each
//     time.
//   - A child that hangs is killed: it must answer each question on a socket pair in time with a Report.
//   - A hand-over starts the next child, perhaps of another version, which accepts in parallel to the old one. Once it
//     has reported, the old one finishes pending work, and exits. If the next child cannot take over, the old one
//     stays. SIGHUP to the program requests a hand-over, and so does a Report with Renew: only the end of a process
//     makes certain that its memory no longer holds a secret.
//   - No child outlives the supervisor: the kernel kills it then.
//   - The supervisor has the children's reports, so that requests for them never reach a child.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"time"
)

// Options describe what is run, and how. All are required except Args and Files.
type Options struct {
	// Path is the program, and Args are its arguments without the program itself. They must not contain secrets.
	Path string
	Args []string
	// Files are the sockets, which the child gets as file descriptors from FirstFile on.
	Files []*os.File
	// Stderr is the standard error of the children.
	Stderr io.Writer
	Log    *slog.Logger
	// Ask is how often a child is asked whether it works, and Answer how long the answer may take.
	Ask, Answer time.Duration
	// Grace is how long a child may take to finish pending work.
	Grace time.Duration
	// Status is called whenever something changed, one call at a time. It must not block.
	Status func(Status)
}

// validate returns an error that names each missing option.
func (o Options) validate() error {
	var all []error
	for name, missing := range map[string]bool{
		"Path": o.Path == "", "Stderr": o.Stderr == nil, "Log": o.Log == nil, "Status": o.Status == nil,
		"Ask": o.Ask <= 0, "Answer": o.Answer <= 0, "Grace": o.Grace <= 0,
	} {
		if missing {
			all = append(all, fmt.Errorf("option %s of the supervisor is missing", name))
		}
	}
	return errors.Join(all...)
}

// Status is the supervisor's view of its children.
type Status struct {
	// Report is the last report of the serving child; nil if none has reported.
	Report *Report
	// Deaths counts the serving children that ended unexpectedly, and HandOvers those that another one took over from.
	Deaths, HandOvers int
}

const (
	// reportFile is the child's end of the socket pair.
	reportFile = 3
	// FirstFile is the file descriptor of the first of Options.Files.
	FirstFile = 4
)

// The environment of a child.
const (
	// childVariable is set in children.
	childVariable = "KEYTURN_SIGNER_CHILD"
	// handOverVariable is set while another child still serves.
	handOverVariable = "KEYTURN_SIGNER_HAND_OVER"
)

// IsChild reports whether a supervisor started this process.
func IsChild() bool { return os.Getenv(childVariable) != "" }

// IsHandOver reports whether the child should take over from one that works. If it cannot work as well, it must exit
// without serving.
func IsHandOver() bool { return os.Getenv(handOverVariable) != "" }

// Run keeps a child running until ctx ends. Each value from handOver starts another child to replace it. Run returns
// when no child is left.
func Run(ctx context.Context, o Options, handOver <-chan struct{}) error {
	if err := o.validate(); err != nil {
		return err
	}
	// The kernel ends the children with the thread that started them, so this thread must last.
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
	status Status
	// serving and next may be nil. Children that are stopping count only in alive.
	serving, next *child
	alive         int
	// deaths in a row.
	deaths int
	// renewAfter is when a child may be renewed again.
	renewAfter time.Time
}

// event is something that a child did.
type event struct {
	child *child
	// ended is true when the child is gone, and err is how; otherwise it sent the report.
	ended  bool
	err    error
	report Report
}

// begin starts a child to replace one that died.
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
	c, err := startChild(s.Options, handOver)
	if err != nil {
		return nil, err
	}
	s.Log.Info("child started", "child", c.pid(), "handOver", handOver)
	s.alive++
	go c.watch(s.Options, s.events)
	return c, nil
}

// note handles an event. It returns whether to start a child, and after how long.
func (s *state) note(e event) (wait time.Duration, again bool) {
	if !e.ended {
		s.heard(e.child, e.report)
		return 0, false
	}
	s.alive--
	switch e.child {
	case s.next:
		s.next = nil
		s.Log.Error("no hand-over: the next child ended", "child", e.child.pid(), "error", e.err)
	case s.serving:
		s.serving = nil
		s.status.Deaths++
		s.say(nil)
		return s.bury(e)
	}
	return 0, false
}

// heard lets the next child, which now serves, serve alone. Reports of a stopping child are ignored.
func (s *state) heard(c *child, r Report) {
	if c == s.next {
		s.Log.Info("hand-over", "from", s.serving.pid(), "to", c.pid())
		s.retire()
	}
	if c != s.serving {
		return
	}
	s.say(&r)
	if now := time.Now(); r.Renew && s.next == nil && !now.Before(s.renewAfter) {
		s.renewAfter = now.Add(renewPause)
		s.beginHandOver()
	}
}

// renewPause is how long to wait before a failed renewal is retried.
const renewPause = 10 * time.Second

func (s *state) say(r *Report) {
	s.status.Report = r
	s.Status(s.status)
}

// retire lets the next child serve alone.
func (s *state) retire() {
	old := s.serving
	s.serving, s.next, s.deaths, s.renewAfter = s.next, nil, 0, time.Time{}
	s.status.HandOvers++
	old.stop(s.Grace)
}

// The back-off of a child that keeps dying.
const (
	// steady is how long a child must have lived for its death to count as the first.
	steady = 10 * time.Second
	// atOnce is how many deaths in a row are followed by an immediate start.
	atOnce       = 5
	firstBackOff = 50 * time.Millisecond
	maxBackOff   = 5 * time.Second
)

// bury returns how long to wait after the death of the serving child. If one is about to take over, it does.
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

// end stops all children and waits for them.
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
