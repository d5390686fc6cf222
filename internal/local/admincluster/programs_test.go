package admincluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/remote"
)

// TestMain lets the test binary be the programs of the admin cluster: keyturn-local, which is the real one but for its
// flags, keyturn-fleet, and, in place of keyturn-controller, a server that always reports ready.
func TestMain(m *testing.M) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	programs := map[string]func(context.Context) error{
		"keyturn-local": runLocal, "keyturn-controller": runController, "keyturn-fleet": runFleet,
	}
	if run, ok := programs[filepath.Base(os.Args[0])]; ok {
		if err := run(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// programDir is a folder in which the test binary goes by the names of our programs.
func programDir(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"keyturn-local", "keyturn-controller", "keyturn-fleet"} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// ownFlags are those that this process was called with, up to --.
func ownFlags() (flags map[string]string, rest []string) {
	flags = map[string]string{}
	for i, a := range os.Args[1:] {
		if a == "--" {
			return flags, os.Args[i+2:]
		}
		name, value, _ := strings.Cut(strings.TrimPrefix(a, "--"), "=")
		flags[name] = value
	}
	return flags, nil
}

func runLocal(ctx context.Context) error {
	flags, controller := ownFlags()
	network := netip.MustParsePrefix(flags["network"])
	_, err := net.InterfaceByName(datadir.Site{Network: network}.Bridge())
	c, errOpen := Open(Options{
		DataDir: flags["data-dir"], KubeBinDir: flags["kube-bin-dir"], Network: network,
		ProgramDir: filepath.Dir(os.Args[0]), Loopback: err != nil, // as the test is
	})
	if errOpen != nil {
		return errOpen
	}
	return c.Run(ctx, controller)
}

func runController(ctx context.Context) error {
	flags, _ := ownFlags()
	server := &http.Server{
		Addr: flags["health-probe-bind-address"], Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}),
	}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func runFleet(ctx context.Context) error {
	os.Exit(fleetserver.Run(ctx, os.Args[1:], os.Stderr))
	return nil
}

// Flags that changed reach the programs: those that run with others are replaced.
func TestOtherFlags(t *testing.T) {
	c := testCluster(t, true)
	options := CreateOptions{Kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
	})
	if err := c.Create(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	before := pidsOf(t, c)
	options.Controller = []string{"--allow-publish=gs://oidc"}
	if err := c.Create(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	for i, pid := range pidsOf(t, c) {
		name := processes[i]
		if replaced := name == localName || name == controllerName; (pid != before[i]) != replaced {
			t.Errorf("%s was process %d, is %d", name, before[i], pid)
			continue
		} else if !replaced {
			continue
		}
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !bytes.Contains(args, []byte(options.Controller[0])) {
			t.Errorf("%s runs with %q, %v", name, args, err)
		}
	}
}

// The way out of docs/operations/recover.md for a client certificate that has leaked.
func TestReplacedAuthority(t *testing.T) {
	c := testCluster(t, true)
	dir := t.TempDir()
	files := Files{LocalCredentials: filepath.Join(dir, "local-credentials")}
	options := CreateOptions{Kubeconfig: filepath.Join(dir, "kubeconfig"), Files: files}
	t.Cleanup(func() {
		if err := c.Delete(context.Background(), DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
	})
	if err := c.Create(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	checkServed(t, c, files)
	leaked := filepath.Join(dir, "leaked")
	if err := os.CopyFS(leaked, os.DirFS(files.LocalCredentials)); err != nil {
		t.Fatal(err)
	}
	if err := c.host.Runner(c.Site()).Await(t.Context(), localName, programGrace); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"local-ca.crt", "local-ca.key"} {
		if err := os.Remove(c.Site().Path("pki", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Create(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	checkServed(t, c, files)
	// Whoever trusts the new authority still has no certificate of it.
	thief := remote.CredentialsIn(leaked)
	thief.CA = remote.CredentialsIn(files.LocalCredentials).CA
	client, err := remote.NewClient(c.LocalEndpoint(), thief)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Check(t.Context()); err == nil {
		t.Error("the certificate that has leaked is accepted")
	}
}
