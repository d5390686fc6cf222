package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/local/machine/cgroup"
	"github.com/keyturn/keyturn/internal/local/process"
)

// init returns process 1 of a running machine.
func (s Set) init(name string) (process.Identity, error) {
	spec, err := s.readSpec(name)
	if err != nil {
		return process.Identity{}, err
	}
	running, err := s.runner(name).Observe(processName)
	if err != nil {
		return process.Identity{}, err
	}
	if !running.Running {
		return process.Identity{}, errors.New("it does not run")
	}
	first, err := findInit(spec, running.PID)
	if err == nil && first.PID == 0 {
		err = errors.New("it is starting")
	}
	return first, err
}

// findInit finds process 1 of a machine: the process in its group whose parent is the process outside.
func findInit(spec Spec, sandbox int) (process.Identity, error) {
	return findProcess(spec, func(_ process.Identity, parent int) bool { return parent == sandbox })
}

// findKubelet finds the kubelet of a machine; zero if none runs. It is a child of process 1 and sees the same file
// systems. No process of a container does, even one with the kubelet's name.
func findKubelet(spec Spec, sandbox int) (process.Identity, error) {
	first, err := findInit(spec, sandbox)
	if err != nil || first.PID == 0 {
		return process.Identity{}, err
	}
	mounts, err := os.Readlink(procPath(first.PID, "ns/mnt"))
	if err != nil {
		return process.Identity{}, ignoreGone(err)
	}
	return findProcess(spec, func(p process.Identity, parent int) bool {
		own, err := os.Readlink(procPath(p.PID, "ns/mnt"))
		command, _ := os.ReadFile(procPath(p.PID, "cmdline"))
		return err == nil && parent == first.PID && own == mounts && bytes.HasPrefix(command, []byte(kubeletBinary+"\x00"))
	})
}

// findProcess finds the first process of a machine's group for which is returns true; zero if there is none.
func findProcess(spec Spec, is func(p process.Identity, parent int) bool) (process.Identity, error) {
	group, err := cgroup.Open(spec.Group)
	if err != nil {
		return process.Identity{}, err
	}
	pids, err := group.Processes()
	if err != nil {
		return process.Identity{}, err
	}
	for _, pid := range pids {
		if p, parent, ok := process.LookUp(pid); ok && is(p, parent) {
			return p, nil
		}
	}
	return process.Identity{}, nil
}

func procPath(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// ignoreGone drops the error of a process that ended while it was observed.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
