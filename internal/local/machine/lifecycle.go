package machine

import (
	"github.com/keyturn/keyturn/internal/hint"

	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/local/machine/cgroup"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/process"
)

// removeTimeout is how long one call of Remove waits for processes to end.
const removeTimeout = 2 * time.Second

// Start makes the machine if it does not exist and starts it if it does not run. It returns when its sandbox runs, not
// when its kubelet does. For an existing machine, the stored Spec is used; the Access is for this start.
func (s Set) Start(ctx context.Context, spec Spec, access Access) error {
	if err := s.start(ctx, spec, access); err != nil {
		return fmt.Errorf("starting machine %s: %w", spec.Name, err)
	}
	return nil
}

func (s Set) start(ctx context.Context, spec Spec, access Access) error {
	state, exists, err := s.Look(spec.Name)
	if err != nil || state.Running {
		return err
	}
	if err := s.checkFileSystem(); err != nil {
		return err
	}
	if exists && state.Spec.Pool != "" {
		spec = state.Spec
	} else if err := s.writeSpec(spec); err != nil {
		return err
	}
	raiseWatchLimit()
	// After a crash here or below, the machine is listed and does not run; starting or removing it continues from
	// there.
	if err := s.writeFiles(spec, access, state.Joined); err != nil {
		return err
	}
	ns, err := network.MakePort(ctx, s.port(spec), access.Routes)
	if err != nil {
		return err
	}
	defer ns.Close() // from then on the machine holds it
	err = s.runner(spec.Name).Start(process.Spec{
		Name:  processName,
		Path:  s.Init,
		Args:  []string{"run", s.path(spec.Name), fmt.Sprintf("/proc/self/fd/%d", process.FirstFile)},
		Files: []*os.File{ns},
	})
	if errors.Is(err, process.ErrBusy) {
		return nil // another process starts it
	}
	return err
}

func (s Set) port(spec Spec) network.Port {
	spec.Port.Owner = s.Owner
	return spec.Port
}

// checkFileSystem refuses directories in which containerd would fail to create containers with an obscure error.
func (s Set) checkFileSystem() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(s.Dir, &stat); err != nil {
		return fmt.Errorf("checking the file system of %s: %w", s.Dir, err)
	}
	if stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return hint.Errorf("choose a data directory on a disk",
			"%s is on an overlay file system, which cannot hold another", s.Dir)
	}
	return nil
}

// watchLimit is the minimum number of inotify instances for root. Each machine takes eight; many distributions allow
// 128, and further ones fail with "too many open files".
const watchLimit = 8192

// raiseWatchLimit raises the only parameter of the whole host that machines change. It never lowers it. Where that is
// forbidden, the machines that fit work; the others report in their logs what is missing.
func raiseWatchLimit() {
	const path = "/proc/sys/fs/inotify/max_user_instances"
	raw, err := os.ReadFile(path)
	if err != nil {
		return
	}
	if limit, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil && limit < watchLimit {
		_ = os.WriteFile(path, []byte(strconv.Itoa(watchLimit)), 0)
	}
}

// Halt ends a running machine as if its power failed. It does not wait.
func (s Set) Halt(name string) error {
	if err := s.runner(name).Signal(processName, unix.SIGKILL); err != nil {
		return fmt.Errorf("halting machine %s: %w", name, err)
	}
	return nil
}

// Tidy removes the bootstrap token of a machine that has joined.
func (s Set) Tidy(name string) error {
	state, _, err := s.Look(name)
	if err != nil || !state.Joined {
		return err
	}
	err = s.inVar(name, func(dir *os.Root) error { return dir.Remove(bootstrapPath) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing bootstrap token of machine %s: %w", name, err)
	}
	return nil
}

// Remove stops the machine and deletes all of it. It returns true when nothing is left; until then, call it again.
func (s Set) Remove(ctx context.Context, name string) (gone bool, err error) {
	gone, err = s.remove(ctx, name)
	if err != nil {
		return false, fmt.Errorf("removing machine %s: %w", name, err)
	}
	return gone, nil
}

func (s Set) remove(ctx context.Context, name string) (bool, error) {
	state, exists, err := s.Look(name)
	if err != nil || !exists {
		return err == nil, err
	}
	if state.Spec.Group != "" {
		if gone, err := s.end(ctx, state.Spec); err != nil || !gone {
			return false, err
		}
	}
	// After a crash here or below, nothing runs; machine.json keeps it listed until everything else is deleted.
	return true, s.deleteFiles(name)
}

// end kills the machine's processes and removes it from the network. There is no need to stop gracefully: its pods have
// been drained or are lost, and its disk is deleted.
func (s Set) end(ctx context.Context, spec Spec) (gone bool, err error) {
	if err := s.Halt(spec.Name); err != nil {
		return false, err
	}
	group, err := cgroup.Open(spec.Group)
	if err != nil {
		return false, err
	}
	killing, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	if err := group.Kill(killing); errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if running, err := s.runner(spec.Name).Observe(processName); err != nil || running.Running {
		return false, err
	}
	if err := network.DeletePort(ctx, s.port(spec)); err != nil {
		return false, err
	}
	return group.Remove()
}

// deleteFiles deletes the machine's directory, machine.json last.
func (s Set) deleteFiles(name string) error {
	entries, err := os.ReadDir(s.path(name))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == "machine.json" {
			continue
		}
		if err := os.RemoveAll(s.path(name, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(s.path(name))
}
