package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// killInterval is how often Kill checks again.
const killInterval = 10 * time.Millisecond

// Kill ends every process of the group by SIGKILL and waits, until the context ends, for the last to be gone.
func (g Group) Kill(ctx context.Context) error {
	for {
		pids, err := g.Processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := g.kill(pid); err != nil {
				return fmt.Errorf("ending process %d of control group %s: %w", pid, g.name, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("ending %d processes of control group %s: %w", len(pids), g.name, ctx.Err())
		case <-time.After(killInterval):
		}
	}
}

// Processes returns the ids of the processes in the group and below it.
func (g Group) Processes() ([]int, error) {
	seen := map[int]bool{}
	var pids []int
	for _, tree := range g.trees {
		err := walkGroups(g.dir(tree), func(dir string) error {
			found, err := processes(filepath.Join(dir, "cgroup.procs"))
			for _, pid := range found {
				if !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("listing processes of control group %s: %w", g.name, err)
		}
	}
	return pids, nil
}

// kill kills one process, unless it has left the group since it was listed: its ID may have been reused.
func (g Group) kill(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil || !g.holds(string(groups)) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// holds reports whether the group or one below it is in the text of a /proc/PID/cgroup.
func (g Group) holds(groups string) bool {
	for line := range strings.Lines(groups) {
		if strings.Contains(strings.TrimSpace(line)+"/", "/"+parent+"/"+g.name+"/") {
			return true
		}
	}
	return false
}

// processes reads a cgroup.procs file. A group that is gone has no processes. A process of another namespace has no ID
// here: it reads as 0.
func processes(path string) ([]int, error) {
	raw, err := os.ReadFile(path)
	if isGone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var pids []int
	for word := range strings.FieldsSeq(string(raw)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		if pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func isGone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) }

func isBusy(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENOTEMPTY) }
