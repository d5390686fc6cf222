package machine

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/local/machine/cgroup"
)

// guestProcess is a process of a machine, as the host sees it. It can be told from every other one, also from one that has
// its pid later.
type guestProcess struct {
	pid int
	// parent is the pid of its parent, and ticks when it was started, since the host was (proc_pid_stat(5)).
	parent int
	ticks  uint64
}

func (p guestProcess) began() (Moment, error) {
	now, err := present()
	return Moment{Boot: now.Boot, Ticks: p.ticks}, err
}

// findInit finds process 1 of a machine: the one in its group whose parent is the process outside.
func findInit(spec Spec, sandbox int) (guestProcess, error) {
	return findProcess(spec, func(p guestProcess) bool { return p.parent == sandbox })
}

// findKubelet finds the kubelet of a machine; zero when none runs. It is a child of process 1 and sees the same file systems,
// which no process of a container does, whatever it calls itself.
func findKubelet(spec Spec, sandbox int) (guestProcess, error) {
	first, err := findInit(spec, sandbox)
	if err != nil || first.pid == 0 {
		return guestProcess{}, err
	}
	mounts, err := os.Readlink(procPath(first.pid, "ns/mnt"))
	if err != nil {
		return guestProcess{}, ignoreGone(err)
	}
	return findProcess(spec, func(p guestProcess) bool {
		own, err := os.Readlink(procPath(p.pid, "ns/mnt"))
		command, _ := os.ReadFile(procPath(p.pid, "cmdline"))
		return err == nil && p.parent == first.pid && own == mounts && bytes.HasPrefix(command, []byte(kubeletBinary+"\x00"))
	})
}

// findProcess finds the first process of a machine's group of which is is true; zero when there is none.
func findProcess(spec Spec, is func(guestProcess) bool) (guestProcess, error) {
	group, err := cgroup.Open(spec.Port.Namespace)
	if err != nil {
		return guestProcess{}, err
	}
	pids, err := group.Processes()
	if err != nil {
		return guestProcess{}, err
	}
	for _, pid := range pids {
		if p, ok := lookUp(pid); ok && is(p) {
			return p, nil
		}
	}
	return guestProcess{}, nil
}

// lookUp says who has a pid now; false when nobody does but perhaps a zombie.
func lookUp(pid int) (guestProcess, bool) {
	raw, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return guestProcess{}, false
	}
	// The second field is in parentheses and may hold anything.
	fields := bytes.Fields(raw[bytes.LastIndexByte(raw, ')')+1:])
	const state, parent, start = 0, 1, 19 // the third, fourth and 22nd of all
	if len(fields) <= start || bytes.ContainsAny(fields[state], "ZX") {
		return guestProcess{}, false
	}
	p := guestProcess{pid: pid}
	if p.parent, err = strconv.Atoi(string(fields[parent])); err != nil {
		return guestProcess{}, false
	}
	if p.ticks, err = strconv.ParseUint(string(fields[start]), 10, 64); err != nil {
		return guestProcess{}, false
	}
	return p, true
}

// alive says that it is that very process that runs.
func (p guestProcess) alive() bool {
	now, alive := lookUp(p.pid)
	return alive && now == p
}

// kill ends the process, unless it has ended already and its pid is another's.
func (p guestProcess) kill() error {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if !p.alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

func procPath(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// ignoreGone drops the error of a process that ended while it was looked at.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
