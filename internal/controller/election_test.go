package controller_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// electionPatience is far more than anything takes: a lease lasts 15 s. It is less than any pause of a settled cluster.
const electionPatience = 5 * time.Minute

// theCluster is the cluster of controllers that are processes.
var theCluster = client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: "blue"}

// controllerProcess is a controller that is a process of its own.
type controllerProcess struct {
	*exec.Cmd
	// leads is closed once it works.
	leads chan struct{}
	said  *transcript
}

func startController(t *testing.T, socket string, access adminAccess) *controllerProcess {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	in, err := json.Marshal(access)
	if err != nil {
		t.Fatal(err)
	}
	p := &controllerProcess{Cmd: exec.Command(self), leads: make(chan struct{}), said: &transcript{}}
	p.Env = append(os.Environ(), siteSocket+"="+socket)
	p.Stdin, p.Stderr = bytes.NewReader(in), p.said
	p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Process.Kill() // also one that is stopped
		_ = p.Wait()
		if t.Failed() {
			t.Logf("controller %d said\n%s", p.Process.Pid, p.said)
		}
	})
	go func() {
		if line, err := bufio.NewReader(out).ReadString('\n'); err == nil && line == "leads\n" {
			close(p.leads)
		}
		_, _ = io.Copy(io.Discard, out)
	}()
	return p
}

func (p *controllerProcess) signal(t *testing.T, s os.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(electionPatience):
		t.Fatalf("never: %s", what)
		panic("unreachable")
	}
}

// TestStoppedLeader stops the controller that works in the middle of a write, as a machine does that is paused. Another
// one takes over and finishes this rotation and the next. What the first one still does when it wakes up takes nothing
// back, and it ends.
func TestStoppedLeader(t *testing.T) {
	t.Parallel()
	config := kubetest.Start(t, kubetest.Options{})
	if err := install.Apply(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	c, err := newClient(config)
	if err != nil {
		t.Fatal(err)
	}
	// The first write that makes API servers sign with version 2 is held until it is late.
	held, late, result := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once
	var mine bool
	at := &Site{site: newSite(t)}
	stages := map[client.ObjectKey]int{}
	var mu sync.Mutex
	at.hold = func(target controlplane.Target) {
		if target.Keys.Sign == 2 {
			once.Do(func() { close(held); <-late; mine = true })
		}
	}
	at.converged = func(key client.ObjectKey, err error) {
		mu.Lock()
		defer mu.Unlock()
		if mine {
			mine = false
			result <- err
		}
		at.site.with(key, func(c *userCluster) {
			for _, s := range c.servers {
				if s.Configured.Stage() < stages[key] {
					t.Errorf("%s went back to stage %d from %d", s.Name, s.Configured.Stage(), stages[key])
				}
				stages[key] = s.Configured.Stage()
			}
		})
	}
	socket := filepath.Join(t.TempDir(), "site")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	if err := at.serve(listener); err != nil {
		t.Fatal(err)
	}
	access := adminAccess{
		Host: config.Host, CA: config.CAData, Cert: config.CertData, Key: config.KeyData, Began: time.Now(),
	}
	first := startController(t, socket, access)
	within(t, "the first controller leads", first.leads)
	second := startController(t, socket, access)

	uc := newUserCluster(theCluster)
	if err := c.Create(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	history := watchStatus(t, config, uc)
	settle := func(version int32) {
		t.Helper()
		err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, electionPatience, true,
			func(ctx context.Context) (bool, error) {
				if err := c.Get(ctx, client.ObjectKeyFromObject(uc), uc); err != nil {
					return false, err
				}
				keys := uc.Status.KSASigningKey
				return isSettled(uc) && slices.Equal(keys.PublicKeyVersions, []int32{version}), nil
			})
		if err != nil {
			t.Fatalf("waiting for key version %d: %v; %+v", version, err, uc.Status)
		}
	}
	rotate := func() {
		t.Helper()
		raised := client.RawPatch("application/merge-patch+json",
			[]byte(`{"spec":{"ksaSigningKey":{"version":`+string('1'+uc.Spec.KSASigningKey.Version)+`}}}`))
		if err := c.Patch(t.Context(), uc, raised); err != nil {
			t.Fatal(err)
		}
	}
	settle(1)
	wantWakes(t, config, at.site, first)
	rotate()
	within(t, "the switch is ordered", held)
	first.signal(t, syscall.SIGSTOP)
	within(t, "the second controller leads", second.leads)
	close(late) // what the first one had begun takes effect now, or when the second has gone further
	within(t, "the late write returns", result)
	settle(2)
	rotate()
	settle(3)

	first.signal(t, syscall.SIGCONT)
	ended := make(chan error, 1)
	go func() { ended <- first.Wait() }()
	exit := new(exec.ExitError)
	if !errors.As(within(t, "the first controller ends", ended), &exit) || exit.ExitCode() != 1 {
		t.Errorf("the first controller ended with %v, want exit code 1; it said\n%s", exit, first.said)
	}
	settle(3)
	history.check(t)
}

// wantWakes wants a settled cluster, whose next round is minutes away, to be woken when a Secret of it goes, and by who
// runs its control plane.
func wantWakes(t *testing.T, config *rest.Config, s *site, p *controllerProcess) {
	t.Helper()
	c, err := newClient(kubetest.AsController(config)) // nobody else may delete its Secrets
	if err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: theCluster.Namespace, Name: v1alpha1.KubeconfigSecretName(theCluster.Name),
	}}
	if err := c.Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	eventually := func(what string, done func(context.Context) bool) {
		t.Helper()
		err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, electionPatience, true,
			func(ctx context.Context) (bool, error) { return done(ctx), nil })
		if err != nil {
			t.Fatalf("waiting for %s: %v", what, err)
		}
	}
	settled := func(ctx context.Context) bool {
		uc := &v1alpha1.UserCluster{}
		return c.Get(ctx, theCluster, uc) == nil && isSettled(uc)
	}
	eventually("the kubeconfig to come back", func(ctx context.Context) bool {
		return c.Get(ctx, client.ObjectKeyFromObject(secret), secret) == nil && settled(ctx)
	})
	s.with(theCluster, func(c *userCluster) { c.servers[0].stop() })
	p.signal(t, syscall.SIGUSR1)
	eventually("the API server to come back", func(ctx context.Context) (is bool) {
		s.with(theCluster, func(c *userCluster) { is = c.servers[0].Ready })
		return is && settled(ctx)
	})
}

// statusHistory is every status that a cluster had.
type statusHistory struct {
	mu  sync.Mutex
	all []v1alpha1.KSASigningKeyStatus
}

func watchStatus(t *testing.T, config *rest.Config, uc *v1alpha1.UserCluster) *statusHistory {
	t.Helper()
	scheme := admin.Scheme()
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := c.Watch(t.Context(), &v1alpha1.UserClusterList{}, client.InNamespace(uc.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(watch.Stop)
	h := &statusHistory{}
	go func() {
		for event := range watch.ResultChan() {
			if is, ok := event.Object.(*v1alpha1.UserCluster); ok {
				h.mu.Lock()
				h.all = append(h.all, is.Status.KSASigningKey)
				h.mu.Unlock()
			}
		}
	}()
	return h
}

// check wants versions never to go down.
func (h *statusHistory) check(t *testing.T) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.all) < 10 {
		t.Errorf("only %d states of the cluster were seen", len(h.all))
	}
	for i := 1; i < len(h.all); i++ {
		was, is := h.all[i-1], h.all[i]
		if len(was.PublicKeyVersions) == 0 {
			continue
		}
		if is.TokenVersion < was.TokenVersion || is.PrivateKeyVersion < was.PrivateKeyVersion ||
			len(is.PublicKeyVersions) == 0 || slices.Min(is.PublicKeyVersions) < slices.Min(was.PublicKeyVersions) ||
			slices.Max(is.PublicKeyVersions) < slices.Max(was.PublicKeyVersions) {
			t.Errorf("the status went back from %d, %d, %v to %d, %d, %v", was.TokenVersion, was.PrivateKeyVersion,
				was.PublicKeyVersions, is.TokenVersion, is.PrivateKeyVersion, is.PublicKeyVersions)
		}
	}
}

// TestStaleRound has a controller that is paused in a round, while another one finishes the rotation: it writes no
// status, which is no failure.
func TestStaleRound(t *testing.T) {
	w := newWorld(t)
	blue := w.settled("blue")
	w.rotate(blue)
	w.until(blue, inStep("Switch"))
	seen, wake := make(chan struct{}, 1), make(chan struct{})
	w.reconciler.Prove = func(ctx context.Context, q controlplane.Question) (controlplane.Proof, error) {
		proof, err := w.prove(ctx, q)
		seen <- struct{}{}
		<-wake
		return proof, err
	}
	paused := w.start(blue)
	within(t, "the round has seen the API server", seen)
	w.restart()
	is := w.until(blue, isSettled)
	close(wake)
	if result := within(t, "the round ends", paused); result.RequeueAfter == 0 {
		t.Error("a round that came too late is not done again")
	}
	if uc := w.get(blue); uc.ResourceVersion != is.ResourceVersion {
		t.Errorf("the status went back: %+v", uc.Status)
	}
	w.wantOnly(blue, 2)
}
