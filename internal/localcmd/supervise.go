package localcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// The longest pauses between restarts of a child that keeps dying.
const (
	firstRestart = 100 * time.Millisecond
	lastRestart  = 5 * time.Second
)

// endGrace is how long a child may take to stop. Whoever stops the supervisor gives it longer.
const endGrace = 10 * time.Second

// supervise runs this command without --supervise as a child, and restarts it whenever it dies, until ctx ends.
func supervise(ctx context.Context, args []string, stderr io.Writer, log *slog.Logger) error {
	// The kernel ends the child with the thread that started it, so this thread must last.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this executable: %w", err)
	}
	wait := firstRestart
	for {
		began := time.Now()
		err := runChild(ctx, self, args, stderr)
		if ctx.Err() != nil {
			logBadEnd(err, log)
			return nil
		}
		if time.Since(began) > lastRestart {
			wait = firstRestart
		}
		log.Warn("keyturn-local died and is started again", "error", err, "in", wait.String())
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRestart)
	}
}

// logBadEnd logs that a child failed when it was stopped, or had to be killed.
func logBadEnd(err error, log *slog.Logger) {
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		log.Warn("keyturn-local did not end in order", "error", err)
	}
}

func runChild(ctx context.Context, self string, args []string, stderr io.Writer) error {
	child := exec.CommandContext(ctx, self, childArgs(args)...)
	child.Stdout, child.Stderr = stderr, stderr
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	child.WaitDelay = endGrace
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return child.Run()
}

// childArgs returns the arguments of the child: those of the supervisor, with --supervise turned off at the end.
// Arguments after -- are not flags of this command.
func childArgs(args []string) []string {
	end := slices.Index(args, "--")
	if end < 0 {
		end = len(args)
	}
	return slices.Insert(slices.Clone(args), end, "--supervise=false")
}
