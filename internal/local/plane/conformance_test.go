package plane

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/controlplane/controlplanetest"
	"github.com/keyturn/keyturn/internal/faults"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/local/programs"
	"github.com/keyturn/keyturn/internal/remote"
	"github.com/keyturn/keyturn/internal/remote/remotetest"
)

// TestConformance runs the suite of controlplane.Adapter on real processes, as a client of keyturn-local has them.
func TestConformance(t *testing.T) {
	signer := t.TempDir()
	kubetest.Build(t, signer, "../../../cmd/keyturn-signer")
	fixture := controlplanetest.Fixture{Patience: localtest.Patience, External: true, Fixed: true}
	fixture.New = func(t *testing.T) controlplanetest.Cluster {
		h := testHost(t, signer, true)
		if err := h.Data.Claim(); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(h.Data.Path(), "clusters"), 0o700); err != nil {
			t.Fatal(err)
		}
		d := newDriver(t, h, localtest.UserCluster("alpha", 2))
		client := remotetest.Serve(t, &remote.Server{
			ControlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) { return h.ControlPlane(uc), nil },
		})
		return controlplanetest.Cluster{
			Open:    func(*testing.T) controlplane.Adapter { return client.ControlPlane(d.UC) },
			Prove:   d.prover.Prove,
			Process: func(_ *testing.T, server string) string { return d.process(server) },
			Kill:    func(_ *testing.T, server string) { d.Kill(server) },
			Break:   func(_ *testing.T, server string) func() { return d.occupy(server) },
			Hide:    func(*testing.T) func() { return d.hideRegistry() },
			Fail:    func(_ *testing.T, fault faults.Fault) func() { return d.obstruct(fault) },
			Restore: func(_ *testing.T, server string, keys controlplane.Keys, have []keystore.KeyPair) {
				d.restore(server, keys, have)
			},
		}
	}
	controlplanetest.Run(t, fixture)
}

// process is the pid of a process that runs, else empty.
func (d *driver) process(name string) string {
	d.T.Helper()
	if pid := d.PID(name); pid != 0 {
		return strconv.Itoa(pid)
	}
	return ""
}

// plane is the control plane at its site, and i the number of an API server of it.
func (d *driver) plane(server string) (p *Plane, i int) {
	d.T.Helper()
	site, err := d.host.Data.EnsureSite(datadir.SiteName(d.UC), d.UC.UID)
	if err != nil {
		d.T.Fatal(err)
	}
	if p, err = d.cp().at(site); err != nil {
		d.T.Fatal(err)
	}
	for i = range p.Replicas {
		if components.APIServerName(i) == server {
			break
		}
	}
	return p, i
}

// occupy kills an API server and takes its port.
func (d *driver) occupy(server string) (release func()) {
	d.T.Helper()
	p, i := d.plane(server)
	d.Kill(server)
	var taken net.Listener
	d.await("the port of "+server+" to be free", func() (free bool) {
		var err error
		taken, err = net.Listen("tcp", net.JoinHostPort(p.APIServer(i).String(), components.APIServerPort))
		return err == nil
	})
	return func() { taken.Close() }
}

func (d *driver) hideRegistry() (show func()) {
	d.T.Helper()
	path := d.host.Data.RegistryPath()
	if err := os.Rename(path, path+".hidden"); err != nil {
		d.T.Fatal(err)
	}
	return func() {
		if err := os.Rename(path+".hidden", path); err != nil {
			d.T.Error(err)
		}
	}
}

// obstruct puts directories where keys are to be written or, for a failure after the write, are to be deleted.
func (d *driver) obstruct(fault faults.Fault) (mend func()) {
	d.T.Helper()
	names := []string{"sa-1.pub", "sa-2.pub"}
	if fault == faults.FailedButPersisted {
		names = []string{"sa-9.pub"}
	}
	var obstacles []string
	p, _ := d.plane("")
	for i := range p.Replicas {
		for _, name := range names {
			path := filepath.Join(p.APIServerKeys(i).Dir, name)
			if _, err := os.Stat(path); err == nil {
				continue
			}
			if err := os.MkdirAll(filepath.Join(path, "in the way"), 0o700); err != nil {
				d.T.Fatal(err)
			}
			obstacles = append(obstacles, path)
		}
	}
	return func() {
		for _, path := range obstacles {
			if err := os.RemoveAll(path); err != nil {
				d.T.Error(err)
			}
		}
	}
}

// restore gives an API server the keys of an earlier time, and starts it with them.
func (d *driver) restore(server string, keys controlplane.Keys, have []keystore.KeyPair) {
	d.T.Helper()
	p, i := d.plane(server)
	d.Kill(server)
	d.await(server+" to end", func() bool { return d.process(server) == "" })
	disk := p.APIServerKeys(i)
	if err := os.RemoveAll(disk.Dir); err != nil {
		d.T.Fatal(err)
	}
	if err := disk.Configure(keys, hostKeys(have)); err != nil {
		d.T.Fatal(err)
	}
	path, err := d.host.Programs.Binary(p.Version, programs.APIServer)
	if err != nil {
		d.T.Fatal(err)
	}
	d.await(server+" to start", func() bool {
		if err := p.Processes.Start(p.APIServerProcess(path, i, keys)); err != nil {
			d.T.Fatal(err)
		}
		return d.process(server) != ""
	})
}

// await waits until something is so.
func (d *driver) await(what string, so func() bool) {
	d.T.Helper()
	for begin := time.Now(); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > time.Minute {
			d.T.Fatalf("waited a minute for %s", what)
		}
	}
}
