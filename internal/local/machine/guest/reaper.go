package guest

import (
	"errors"
	"log/slog"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// reaper collects every child that ends: process 1 inherits all orphans, and only one goroutine may wait for them.
type reaper struct {
	mu    sync.Mutex
	ended map[int]chan<- unix.WaitStatus
	child chan os.Signal
}

func newReaper() *reaper {
	r := &reaper{ended: map[int]chan<- unix.WaitStatus{}, child: make(chan os.Signal, 1)}
	signal.Notify(r.child, unix.SIGCHLD)
	return r
}

// start starts a process; the channel gets its status when it has ended.
func (r *reaper) start(path string, argv []string, attr *os.ProcAttr) (<-chan unix.WaitStatus, error) {
	ended := make(chan unix.WaitStatus, 1)
	// Held until the process is known, so that it cannot be reaped as an unknown one.
	r.mu.Lock()
	defer r.mu.Unlock()
	process, err := os.StartProcess(path, argv, attr)
	if err != nil {
		return nil, err
	}
	r.ended[process.Pid] = ended
	return ended, process.Release()
}

// run reaps forever.
func (r *reaper) run() {
	for range r.child {
		for r.reapOne() {
		}
	}
}

// reapOne reaps one child, if one has ended.
func (r *reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status unix.WaitStatus
	pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
	if errors.Is(err, unix.EINTR) {
		return true
	}
	if err != nil && !errors.Is(err, unix.ECHILD) {
		slog.Error("cannot reap", "error", err)
	}
	if err != nil || pid <= 0 {
		return false
	}
	if ended, ok := r.ended[pid]; ok {
		delete(r.ended, pid)
		ended <- status
	}
	return true
}
