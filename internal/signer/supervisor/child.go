package supervisor

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// child is one child, from its start to its end.
type child struct {
	cmd     *exec.Cmd
	conn    net.Conn
	started time.Time

	mu sync.Mutex
	// hung means that it was killed because it hung, and ending that it was asked to stop.
	hung, ending bool
}

// startChild must be called by a thread that lasts as long as the child.
func startChild(o Options, handOver bool) (*child, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", o.Path, err)
	}
	defer theirs.Close()
	cmd := exec.Command(o.Path, o.Args...)
	cmd.Env = append(os.Environ(), childVariable+"=1")
	if handOver {
		cmd.Env = append(cmd.Env, handOverVariable+"=1")
	}
	cmd.Stdout, cmd.Stderr = o.Stderr, o.Stderr
	cmd.ExtraFiles = slices.Concat([]*os.File{theirs}, o.Files)
	// SIGINT of a terminal is for the supervisor, which stops its children itself.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", o.Path, errors.Join(err, ours.Close()))
	}
	return &child{cmd: cmd, conn: ours, started: time.Now()}, nil
}

func socketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "supervisor")
	defer f.Close()
	theirs = os.NewFile(uintptr(fds[1]), "child")
	if ours, err = net.FileConn(f); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// watch sends the child's reports and its end, and kills it if it hangs.
func (c *child) watch(o Options, events chan<- event) {
	gone := make(chan struct{})
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		c.ask(o, events, gone)
	}()
	err := c.cmd.Wait()
	close(gone)
	_ = c.conn.Close()
	<-asked
	c.mu.Lock()
	if c.hung {
		err = errHung
	}
	c.mu.Unlock()
	events <- event{child: c, ended: true, err: err}
}

// ask waits until the child serves, and then polls it until it is gone.
func (c *child) ask(o Options, events chan<- event, gone <-chan struct{}) {
	lines := bufio.NewReaderSize(c.conn, maxReport)
	ticker := time.NewTicker(o.Ask)
	defer ticker.Stop()
	for patience := max(o.Answer, startup); ; patience = o.Answer {
		report, err := c.hear(lines, patience)
		if err != nil {
			c.kill(gone)
			return
		}
		select {
		case events <- event{child: c, report: report}:
		case <-gone:
			return
		}
		select {
		case <-gone:
			return
		case <-ticker.C:
		}
		// The reader sees if this fails.
		_, _ = c.conn.Write([]byte(wordAsk))
	}
}

func (c *child) hear(lines *bufio.Reader, patience time.Duration) (Report, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return Report{}, err
	}
	return hear(lines)
}

// kill ends a child that did not answer. One that has closed its end is about to exit, and its exit code counts; stop
// kills one that was asked to stop.
func (c *child) kill(gone <-chan struct{}) {
	timer := time.NewTimer(dying)
	defer timer.Stop()
	select {
	case <-gone:
		return
	case <-timer.C:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ending {
		c.hung = true
		_ = c.cmd.Process.Kill()
	}
}

// startup is the minimum time that a child gets to start serving, since programs start slowly on a busy machine.
const startup = 10 * time.Second

// dying is how long a child that closed its end may still take.
const dying = 100 * time.Millisecond

// stop makes the child finish pending work, and kills it if that takes too long.
func (c *child) stop(grace time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ending = true
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	time.AfterFunc(grace, func() { _ = c.cmd.Process.Kill() }) // it does nothing if the process is gone
}
