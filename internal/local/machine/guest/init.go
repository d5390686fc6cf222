package guest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// firstBackoff and lastBackoff limit the pause before a service that died is restarted; it doubles.
	firstBackoff = 100 * time.Millisecond
	lastBackoff  = 5 * time.Second
	// steady is how long a service must have run for its next pause to be the first again.
	steady = 10 * time.Second
	// lookInterval is how often a service that waits for a file checks for it.
	lookInterval = 20 * time.Millisecond
	// stopTimeout is how long the services may take to stop.
	stopTimeout = 3 * time.Second
)

// runInit is process 1 of the machine: it runs the services until it gets SIGTERM. When it returns, the kernel kills
// all that is left in the machine.
func runInit() error {
	config, err := readConfig(ConfigPath)
	if err != nil {
		return err
	}
	for _, dir := range []string{DonePath, LogPath} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	reaper := newReaper()
	go reaper.run()

	var services sync.WaitGroup
	for _, s := range config.Services {
		services.Go(func() { s.keep(ctx, reaper) })
	}
	<-ctx.Done()
	// Everything but this process: containers too.
	_ = unix.Kill(-1, unix.SIGTERM)
	waitFor(&services, stopTimeout)
	return nil
}

// keep runs the service repeatedly, until the context ends and it has ended.
func (s Service) keep(ctx context.Context, reaper *reaper) {
	backoff := firstBackoff
	for s.await(ctx) {
		began := time.Now()
		status, err := s.run(reaper)
		if s.Once && err == nil && status.ExitStatus() == 0 {
			err = os.WriteFile(Done(s.Name), nil, 0o644)
			if err == nil {
				return
			}
		}
		if time.Since(began) > steady {
			backoff = firstBackoff
		}
		slog.Info("service ended", "service", s.Name, "exit", describe(status, err), "ran",
			time.Since(began).Round(time.Millisecond), "again", backoff)
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, lastBackoff)
	}
}

// await waits for the files that the service needs; false if the machine stops before.
func (s Service) await(ctx context.Context) bool {
	for !s.mayStart() {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(lookInterval):
		}
	}
	return ctx.Err() == nil
}

func (s Service) mayStart() bool {
	for _, path := range s.After {
		if _, err := os.Stat(path); err != nil {
			return false
		}
	}
	return true
}

// run runs the service once and returns how it ended.
func (s Service) run(reaper *reaper) (unix.WaitStatus, error) {
	log, err := os.OpenFile(filepath.Join(LogPath, s.Name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { _ = log.Close() }()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	ended, err := reaper.start(s.Path, append([]string{s.Path}, s.Args...), &os.ProcAttr{
		Dir:   "/",
		Env:   s.environ(),
		Files: []*os.File{null, log, log},
		Sys:   &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", s.Name, err)
	}
	return <-ended, nil
}

// environ returns the environment of the service. Its own variables override those of this process.
func (s Service) environ() []string {
	return (&exec.Cmd{Env: append(os.Environ(), s.Env...)}).Environ()
}

func describe(status unix.WaitStatus, err error) string {
	switch {
	case err != nil:
		return err.Error()
	case status.Signaled():
		return status.Signal().String()
	}
	return fmt.Sprintf("code %d", status.ExitStatus())
}

// waitFor waits for the group, at most until the timeout.
func waitFor(group *sync.WaitGroup, timeout time.Duration) {
	done := make(chan struct{})
	go func() { group.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(timeout):
	}
}
