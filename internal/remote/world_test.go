package remote_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/remote"
	"github.com/keyturn/keyturn/internal/remote/remotetest"
)

// patience is how long a test waits for what must come.
const patience = 2 * time.Minute

// TestMain lets the test binary be a server that can be killed: see serverProcess.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "-server" {
		os.Exit(serverProcess(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

// plane is a control plane whose methods are what a test makes of them.
type plane struct {
	controlplane.Adapter
	observe  func(context.Context) (controlplane.State, error)
	converge func(context.Context, controlplane.Target, []keystore.KeyPair) error
	config   *rest.Config
}

func (p plane) Observe(ctx context.Context) (controlplane.State, error) { return p.observe(ctx) }

func (p plane) Converge(ctx context.Context, t controlplane.Target, keys []keystore.KeyPair) error {
	return p.converge(ctx, t, keys)
}

func (p plane) Config(context.Context, string) (*rest.Config, error) { return p.config, nil }

// serving is a server that has one control plane.
func serving(p plane) *remote.Server {
	return &remote.Server{ControlPlane: func(*v1alpha1.UserCluster) (controlplane.Adapter, error) { return p, nil }}
}

func testKey(t *testing.T, version int, algorithm string) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, algorithm)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// serverProcess serves a control plane until it is killed. Observe never returns as long as the file "stuck" is in the
// directory, and says so by the file "asked".
func serverProcess(dir, address string) int {
	p := plane{observe: func(ctx context.Context) (controlplane.State, error) {
		if _, err := os.Stat(filepath.Join(dir, "stuck")); errors.Is(err, fs.ErrNotExist) {
			return controlplane.State{Home: "here"}, nil
		}
		if err := os.WriteFile(filepath.Join(dir, "asked"), nil, 0o600); err != nil {
			return controlplane.State{}, err
		}
		<-ctx.Done()
		return controlplane.State{}, ctx.Err()
	}}
	s := serving(p)
	s.Credentials = remote.CredentialsIn(dir)
	l, err := net.Listen("tcp", address)
	if err == nil {
		err = s.Serve(context.Background(), l)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// process is a server in a process of its own.
type process struct {
	t            *testing.T
	dir, address string
	cmd          *exec.Cmd
}

func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0], "-server", p.dir, p.address)
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait()
}

// eventually repeats try until it returns nil.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(10 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("%s: not within %s: %v", what, patience, err)
}

func TestServerThatIsKilledInMidCall(t *testing.T) {
	a := remotetest.NewAuthority(t)
	credentials := a.Server()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, dir: filepath.Dir(credentials.Cert), address: l.Addr().String()}
	l.Close()
	stuck, asked := filepath.Join(p.dir, "stuck"), filepath.Join(p.dir, "asked")
	if err := os.WriteFile(stuck, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := remote.NewClient("https://"+p.address, a.Client())
	if err != nil {
		t.Fatal(err)
	}
	p.start()
	defer func() { p.kill() }()
	eventually(t, "the server to serve", func() error { return c.Check(t.Context()) })
	failed := make(chan error, 1)
	go func() {
		_, err := c.ControlPlane(cluster()).Observe(t.Context())
		failed <- err
	}()
	eventually(t, "the call to arrive", func() error { _, err := os.Stat(asked); return err })
	p.kill()
	if err := <-failed; err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the call returned %v", err)
	}
	if _, err := c.ControlPlane(cluster()).Observe(t.Context()); err == nil {
		t.Error("a call succeeded without a server")
	}
	if err := os.Remove(stuck); err != nil {
		t.Fatal(err)
	}
	p.start()
	eventually(t, "the same client to reach the server that came back", func() error {
		state, err := c.ControlPlane(cluster()).Observe(t.Context())
		if err == nil && state.Home != "here" {
			t.Fatalf("observed %+v", state)
		}
		return err
	})
}
