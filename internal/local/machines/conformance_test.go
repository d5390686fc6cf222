package machines

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/nodestest"
	"github.com/keyturn/keyturn/internal/remote"
	"github.com/keyturn/keyturn/internal/remote/remotetest"
)

// TestMachinesConform runs the suite of the ports on machines of this host, as a client of keyturn-local has them.
func TestMachinesConform(t *testing.T) {
	n := newNodeTest(t)
	client := remotetest.Serve(t, &remote.Server{
		Machines: func(*v1alpha1.UserCluster) (remote.Machines, error) { return n.another() },
	})
	nodestest.RunMachines(t, nodestest.MachinesFixture{
		Open:      func(*testing.T) nodes.Machines { return client.Machines(n.UC) },
		Refresher: func(*testing.T) nodes.Refresher { return client.Machines(n.UC) },
		Pool:      n.pool,
		Stop:      n.stop,
		Vanish:    n.vanish,
		Fail:      n.fail,
		Blind:     n.blind,
		Patience:  time.Minute,
	})
}

// another is a handle on the machines that shares nothing with n.machines but the programs.
func (n *nodeTest) another() (*Machines, error) {
	m, err := Of(n.host, n.UC)
	if err != nil {
		return nil, err
	}
	m.binDir, m.set.Init = n.machines.binDir, n.machines.set.Init
	m.config = func(ctx context.Context) (*rest.Config, error) { return n.machines.config(ctx) }
	m.set.Find = func(version, name string) (string, error) { return n.machines.set.Find(version, name) }
	return m, nil
}

func (n *nodeTest) stop(t *testing.T, name string) {
	t.Helper()
	run := process.New(filepath.Join(n.machines.set.Dir, name, "run"))
	if err := run.Signal("machine", syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// vanish removes a machine with all that it has, which leaves no more than when its disk was deleted by hand.
func (n *nodeTest) vanish(t *testing.T, name string) {
	t.Helper()
	own := *n
	own.T = t
	own.remove(name)
}

// fail has handles fail to reach the cluster, before anything is made, or to find a program of the machine, after its
// machine.json was written.
func (n *nodeTest) fail(_ *testing.T, fault faults.Fault) (restore func()) {
	config, find := n.machines.config, n.machines.set.Find
	if fault == faults.Failed {
		n.machines.config = func(context.Context) (*rest.Config, error) { return nil, errors.New("no route to host") }
	} else {
		n.machines.set.Find = func(string, string) (string, error) { return "", errors.New("input/output error") }
	}
	return func() { n.machines.config, n.machines.set.Find = config, find }
}

// blind puts a file where the machines' directory is.
func (n *nodeTest) blind(t *testing.T) (restore func()) {
	t.Helper()
	dir := n.machines.set.Dir
	if err := errors.Join(os.Rename(dir, dir+".away"), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	restored := false
	return func() {
		if restored {
			return
		}
		restored = true
		if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
			t.Error(err)
		}
	}
}
