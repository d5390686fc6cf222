// Package e2e rotates the keys of whole clusters: the programs as they are installed, real Kubernetes, real nodes.
//
// It needs what `make test` makes first: the programs in bin/ and the Kubernetes binaries in bin/kube.
package e2e

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/local/localtest"
)

// The limits of waiting; a test that reaches one has failed.
const (
	createTimeout = 5 * time.Minute
	rotateTimeout = 10 * time.Minute
)

// long reports whether tests that take hours are to run.
func long() bool { return os.Getenv("KEYTURN_TEST_LONG") != "" }

func skipUnlessLong(t *testing.T) {
	t.Helper()
	if !long() {
		t.Skip("it takes tens of minutes: set KEYTURN_TEST_LONG=1 to run it")
	}
}

// place is one admin cluster with all that belongs to it, in a directory of its own.
type place struct {
	t       *testing.T
	bin     string
	dir     string
	network string
	// patience is how long one rotation may take.
	patience time.Duration
}

// newPlace creates an admin cluster that the test's end deletes, user clusters included.
func newPlace(t *testing.T) *place {
	t.Helper()
	bin, err := filepath.EvalSymlinks("../../bin") // the path that processes show
	if err == nil {
		bin, err = filepath.Abs(bin)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"gkectl", "keyturn-controller", "keyturn-fleet", "keyturn-local", "keyturn-machine", "keyturn-pause", "keyturn-probe",
		"keyturn-signer",
	} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Fatalf("%v\nhint: run `make build kube` first", err)
		}
	}
	p := &place{t: t, bin: bin, dir: t.TempDir(), network: localtest.FreeNetwork(t).String(), patience: rotateTimeout}
	t.Cleanup(p.cleanUp)
	p.createAdmin()
	return p
}

func (p *place) dataDir() string    { return filepath.Join(p.dir, "data") }
func (p *place) kubeconfig() string { return filepath.Join(p.dir, "kubeconfig") }
func (p *place) config() string     { return filepath.Join(p.dir, "user-cluster.yaml") }

func (p *place) createAdmin() {
	p.t.Helper()
	p.must("create", "admin", "--data-dir", p.dataDir(), "--kubeconfig", p.kubeconfig(), "--network", p.network,
		"--allow-publish", "file://"+p.published())
}

// published is the directory to which the keys of clusters may be published.
func (p *place) published() string { return filepath.Join(p.dir, "published") }

// createCluster writes the config file and creates the user cluster that it describes.
func (p *place) createCluster(config string) {
	p.t.Helper()
	if err := os.WriteFile(p.config(), []byte(config), 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.must("create", "cluster", "--config", p.config(), "--kubeconfig", p.kubeconfig(), "--timeout", createTimeout.String())
}

// cleanUp is for tests that failed: those that pass have deleted everything themselves.
func (p *place) cleanUp() {
	if p.t.Failed() {
		p.keepLogs()
	}
	if _, err := os.Stat(p.dataDir()); errors.Is(err, os.ErrNotExist) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if out, err := p.command(ctx, "delete", "admin", "--data-dir", p.dataDir(), "--kubeconfig", p.kubeconfig(), "--network", p.network, "--force", "--skip-prompt").CombinedOutput(); err != nil {
		p.t.Errorf("deleting the admin cluster: %v\n%s", err, out)
	}
}

// keepLogs prints the end of every log, since the directory is gone after the test.
func (p *place) keepLogs() {
	_ = filepath.WalkDir(p.dataDir(), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".log" {
			return nil //nolint:nilerr // what cannot be read is not shown
		}
		if data, err := os.ReadFile(path); err == nil {
			p.t.Logf("%s ends:\n%s", path, data[max(0, len(data)-1500):])
		}
		return nil
	})
}

func (p *place) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(p.bin, "gkectl"), args...)
}

// gkectl runs the CLI and returns what it wrote and its exit code.
func (p *place) gkectl(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), p.patience)
	defer cancel()
	var out, talk bytes.Buffer
	cmd := p.command(ctx, args...)
	cmd.Stdout, cmd.Stderr = &out, &talk
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatalf("running gkectl %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), talk.String(), cmd.ProcessState.ExitCode()
}

// must runs the CLI, which has to succeed, and returns its standard output.
func (p *place) must(args ...string) string {
	p.t.Helper()
	began := time.Now()
	stdout, stderr, code := p.gkectl(args...)
	if code != 0 {
		p.t.Fatalf("gkectl %s ended with %d:\n%s%s", strings.Join(args, " "), code, stdout, stderr)
	}
	p.t.Logf("gkectl %s: %.1f s", strings.Join(args[:min(4, len(args))], " "), time.Since(began).Seconds())
	return stdout
}

func (p *place) credentials(verb string, flags ...string) []string {
	return append([]string{"update", "credentials", "ksa-signing-key", verb, "--config", p.config(), "--kubeconfig", p.kubeconfig()}, flags...)
}

// admin returns a client of the admin cluster, as its administrator.
func (p *place) admin() client.Client {
	p.t.Helper()
	scheme, err := controller.NewScheme()
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := client.New(p.restConfig(p.kubeconfig()), client.Options{Scheme: scheme})
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

// user returns a client of the user cluster, as its administrator.
func (p *place) user(name string) kubernetes.Interface {
	p.t.Helper()
	c, err := kubernetes.NewForConfig(p.restConfig(p.userKubeconfig(name)))
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

func (p *place) userKubeconfig(name string) string {
	return filepath.Join(p.dir, name+"-kubeconfig")
}

func (p *place) restConfig(path string) *rest.Config {
	p.t.Helper()
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		p.t.Fatal(err)
	}
	cfg.QPS = -1
	return cfg
}

// cluster reads the UserCluster.
func (p *place) cluster(name string) *v1alpha1.UserCluster {
	p.t.Helper()
	uc := &v1alpha1.UserCluster{}
	key := client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: name}
	p.eventually("reading UserCluster "+name, func(ctx context.Context) error { return p.admin().Get(ctx, key, uc) })
	return uc
}

// eventually tries again, for half a minute, what a process that was just killed may refuse for a moment.
func (p *place) eventually(what string, f func(context.Context) error) {
	p.t.Helper()
	p.within(2*time.Minute, what, f)
}

// within tries again for so long.
func (p *place) within(limit time.Duration, what string, f func(context.Context) error) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			p.t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}
