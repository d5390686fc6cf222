package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// Stop asks a process to stop, once, and kills it if it still runs after grace. It does not wait: call it until it
// reports that the process is gone.
func (r *Runner) Stop(name string, grace time.Duration) (gone bool, err error) {
	gone, err = r.stop(name, grace)
	if err != nil {
		return false, fmt.Errorf("stopping %s: %w", name, err)
	}
	return gone, nil
}

func (r *Runner) stop(name string, grace time.Duration) (bool, error) {
	id, ok, err := r.recorded(name)
	if err != nil {
		return false, err
	}
	if !ok || !id.Alive() {
		return r.startsNot(name)
	}
	since, asked := r.askedToStop(name, id)
	switch {
	case !asked:
		if err := id.Signal(syscall.SIGTERM); err != nil {
			return false, err
		}
		// After a crash here, it is asked a second time, which makes some programs stop at once.
		return false, r.noteStop(name, id)
	case Uptime()-since >= grace:
		return false, id.Signal(syscall.SIGKILL)
	}
	return false, nil
}

// startsNot reports whether no process is about to be recorded.
func (r *Runner) startsNot(name string) (bool, error) {
	lock, err := r.lock(name)
	switch {
	case errors.Is(err, ErrBusy):
		return false, nil
	case errors.Is(err, os.ErrNotExist): // no directory, so never started
		return true, nil
	case err != nil:
		return false, err
	}
	return true, lock.Close()
}

// Await stops a process and returns when it is gone.
func (r *Runner) Await(ctx context.Context, name string, grace time.Duration) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		gone, err := r.Stop(name, grace)
		if gone || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s to end: %w", name, ctx.Err())
		case <-tick.C:
		}
	}
}

// Signal sends a signal to a process; one that does not run is no error.
func (r *Runner) Signal(name string, s syscall.Signal) error {
	id, ok, err := r.recorded(name)
	if err == nil && ok && id.Alive() {
		err = id.Signal(s)
	}
	if err != nil {
		return fmt.Errorf("signalling %s: %w", name, err)
	}
	return nil
}

// noteStop records that the process was asked to stop, and when.
func (r *Runner) noteStop(name string, id Identity) error {
	return atomicfile.Write(r.file(name, "stop"), fmt.Appendf(nil, "%s\n%d\n", id.key(), Uptime()))
}

// askedToStop reports whether that process was asked to stop, and the uptime of the host then.
func (r *Runner) askedToStop(name string, id Identity) (time.Duration, bool) {
	raw, err := os.ReadFile(r.file(name, "stop"))
	if err != nil {
		return 0, false
	}
	key, at, _ := strings.Cut(strings.TrimSpace(string(raw)), "\n")
	if key != id.key() {
		return 0, false
	}
	since, err := strconv.ParseInt(at, 10, 64)
	return time.Duration(since), err == nil
}

// key identifies the process. It contains the boot ID, so that an uptime next to it is of the same boot.
func (id Identity) key() string {
	return id.Boot + " " + strconv.Itoa(id.PID) + " " + strconv.FormatUint(id.Ticks, 10)
}

// Signal sends a signal to exactly this process; one that does not run is no error. It opens a pidfd before it checks
// the identity, so the pid cannot be reused in between.
func (id Identity) Signal(s syscall.Signal) error {
	p, err := os.FindProcess(id.PID)
	if err != nil {
		return err
	}
	defer func() { _ = p.Release() }()
	if !id.Alive() {
		return nil
	}
	if err := p.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// StopAll is Stop for several processes at once. It returns true when all are gone.
func (r *Runner) StopAll(names []string, grace time.Duration) (gone bool, err error) {
	gone = true
	var errs []error
	for _, name := range names {
		g, err := r.Stop(name, grace)
		gone = gone && g
		errs = append(errs, err)
	}
	return gone, errors.Join(errs...)
}
