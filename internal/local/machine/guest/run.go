package guest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/local/machine/cgroup"
)

// killTimeout is how long the rest of an earlier run may take to end.
const killTimeout = 10 * time.Second

// Main runs one of the program's parts by its arguments: "run DIR NETWORK" outside and, only started by ourselves,
// "enter DIR", "init" and "first-boot FILE" inside.
func Main(args []string) error {
	switch {
	case len(args) == 3 && args[0] == "run":
		return Run(args[1], args[2])
	case len(args) == 2 && args[0] == "enter":
		return enter(args[1])
	case len(args) == 1 && args[0] == "init":
		return runInit()
	case len(args) == 2 && args[0] == "first-boot":
		return firstBoot(args[1])
	}
	return errors.New("usage: keyturn-machine run DIRECTORY NETWORK-NAMESPACE")
}

// Run runs the machine in the directory until it ends, in the network namespace of the file, such as one below
// /proc/self/fd. SIGTERM and SIGINT stop it in order.
func Run(dir, network string) error {
	// Files that are open here, such as that namespace, are not for the machine.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("keeping open files from the machine: %w", err)
	}
	config, err := readConfig(filepath.Join(dir, ConfigPath))
	if err != nil {
		return err
	}
	if err := config.prepareGroup(); err != nil {
		return fmt.Errorf("starting machine %s: %w", config.Hostname, err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT)
	// The thread that starts the machine is in its network namespace, and must live as long: the kernel kills the child
	// when the thread that created it ends.
	runtime.LockOSThread()
	if err := joinNetwork(network); err != nil {
		return fmt.Errorf("starting machine %s: %w", config.Hostname, err)
	}
	child := newChild(dir)
	if err := child.Start(); err != nil {
		return fmt.Errorf("starting machine %s: %w", config.Hostname, err)
	}
	go func() {
		for s := range signals {
			_ = child.Process.Signal(s)
		}
	}()
	if err := child.Wait(); err != nil {
		return fmt.Errorf("running machine %s: %w", config.Hostname, err)
	}
	return nil
}

// prepareGroup makes the machine's control group, and kills what a dead predecessor left running in it, which may take
// the kernel a while.
func (c Config) prepareGroup() error {
	group, err := cgroup.Open(c.Group)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if err := group.Kill(ctx); err != nil {
		return err
	}
	// The groups of its containers. Groups that are still busy do no harm.
	if _, err := group.Remove(); err != nil {
		return err
	}
	return group.Ensure()
}

func joinNetwork(file string) error {
	ns, err := netns.GetFromPath(file)
	if err != nil {
		return fmt.Errorf("opening network namespace %s: %w", file, err)
	}
	defer func() { _ = ns.Close() }()
	if err := netns.Set(ns); err != nil {
		return fmt.Errorf("entering network namespace %s: %w", file, err)
	}
	return nil
}

// newChild returns the process that becomes process 1 of the machine.
func newChild(dir string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "enter", dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.SysProcAttr = &unix.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  unix.SIGKILL,
		// A new session: a terminal's signals go only to the process outside.
		Setsid: true,
	}
	return cmd
}
