package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// gate is a TCP proxy in front of an API server. Closing it breaks every connection, as the API server's end does.
type gate struct {
	address, target string

	mu       sync.Mutex
	listener net.Listener
	conns    []net.Conn
	done     sync.WaitGroup
}

func newGate(t *testing.T, target string) *gate {
	t.Helper()
	g := &gate{address: "127.0.0.1:0", target: target}
	g.open(t)
	t.Cleanup(g.close)
	return g
}

func (g *gate) open(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", g.address)
	if err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.listener, g.address = l, l.Addr().String()
	g.done.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			g.pass(l, in)
		}
	})
}

func (g *gate) pass(l net.Listener, in net.Conn) {
	out, err := net.Dial("tcp", g.target)
	if err != nil {
		in.Close()
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns = append(g.conns, in, out)
	if g.listener != l {
		in.Close()
		out.Close()
	}
	for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
		g.done.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			pair[0].Close()
		})
	}
}

func (g *gate) close() {
	g.mu.Lock()
	if g.listener != nil {
		g.listener.Close()
	}
	g.listener = nil
	for _, c := range g.conns {
		c.Close()
	}
	g.conns = nil
	g.mu.Unlock()
	g.done.Wait()
}

// gated connects an app to the shared API server by way of a gate.
func gated(t *testing.T, a *app) (admin, *gate) {
	t.Helper()
	target, err := url.Parse(server.Host)
	if err != nil {
		t.Fatal(err)
	}
	host := target.Host
	if target.Host == "" {
		host = server.Host
	}
	g := newGate(t, host)
	config := rest.CopyConfig(server)
	config.Host = "https://" + g.address
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := writeAdminKubeconfig(path, config); err != nil {
		t.Fatal(err)
	}
	c, err := a.connect(path)
	if err != nil {
		t.Fatal(err)
	}
	return c, g
}

func createTestCluster(t *testing.T, name string) (client.Client, *v1alpha1.UserCluster) {
	t.Helper()
	c, err := controllerClient()
	if err != nil {
		t.Fatal(err)
	}
	uc := &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name},
		Spec: v1alpha1.UserClusterSpec{
			Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
				KubernetesVersion: "v1.36.4",
				Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
				ControlPlane:      v1alpha1.ControlPlane{Replicas: 1},
			}},
			KSASigningKey: v1alpha1.KSASigningKey{
				Version: 1, Source: v1alpha1.KeySourceFiles, Algorithm: v1alpha1.RS256,
				Issuer: v1alpha1.DefaultIssuer, PublishMaxAgeSeconds: 60,
			},
		},
	}
	if err := c.Create(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.IgnoreNotFound(c.Delete(context.Background(), uc)); err != nil {
			t.Error(err)
		}
	})
	return c, uc
}

func setReady(t *testing.T, c client.Client, uc *v1alpha1.UserCluster, status metav1.ConditionStatus, message string) {
	t.Helper()
	if err := c.Get(t.Context(), client.ObjectKeyFromObject(uc), uc); err != nil {
		t.Fatal(err)
	}
	condition := func(name, reason, message string) metav1.Condition {
		return metav1.Condition{
			Type: name, Status: status, Reason: reason, Message: message,
			ObservedGeneration: uc.Generation, LastTransitionTime: metav1.Now(),
		}
	}
	uc.Status.ObservedGeneration = uc.Generation
	uc.Status.Conditions = []metav1.Condition{
		condition(v1alpha1.ConditionReady, v1alpha1.ReasonReady, message),
		condition(v1alpha1.ConditionKSASigningKeyRotation, v1alpha1.ReasonRotationCompleted, "{}"),
	}
	if err := c.Status().Update(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
}

// A follower sees changes by its watch, outlives the API server, and sees what happened meanwhile.
func TestFollowOutlivesAPIServer(t *testing.T) {
	a, _, stderr := testEnv()
	to, gate := gated(t, a)
	c, uc := createTestCluster(t, "outlives")
	seen := make(chan string, 100)
	result := make(chan error, 1)
	go func() {
		result <- a.follow(t.Context(), to, uc.Name, waiting{}, func(uc *v1alpha1.UserCluster) (string, string, bool) {
			step, detail, done := untilReady(uc)
			seen <- step + detail
			return step, detail, done
		})
	}()
	expect(t, seen, "waiting for the controller")
	setReady(t, c, uc, metav1.ConditionFalse, "one")
	expect(t, seen, "ClusterReadyone")
	gate.close()
	setReady(t, c, uc, metav1.ConditionFalse, "two")
	gate.open(t)
	expect(t, seen, "ClusterReadytwo")
	setReady(t, c, uc, metav1.ConditionTrue, "")
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(stderr.String(), "\n[    0s] ready\n") {
		t.Errorf("progress:\n%s", stderr)
	}
}

// expect waits for a value.
func expect(t *testing.T, seen <-chan string, want string) {
	t.Helper()
	deadline := time.After(5 * time.Minute)
	for {
		select {
		case got := <-seen:
			if got == want {
				return
			}
		case <-deadline:
			t.Fatalf("never saw %q", want)
		}
	}
}

// A cluster that somebody deletes meanwhile will never be ready.
func TestFollowDeleted(t *testing.T) {
	a, _, _ := testEnv()
	to, _ := gated(t, a)
	c, uc := createTestCluster(t, "deleted")
	err := a.follow(t.Context(), to, uc.Name, waiting{}, func(seen *v1alpha1.UserCluster) (string, string, bool) {
		if seen != nil {
			if err := client.IgnoreNotFound(c.Delete(t.Context(), uc)); err != nil {
				t.Error(err)
			}
		}
		return untilReady(seen)
	})
	if err == nil || err.Error() != "user cluster deleted is gone" {
		t.Errorf("follow = %v", err)
	}
}

// refusing connects an app to the shared API server, which answers the first requests that get UserClusters with 401.
func refusing(t *testing.T, times int64) (to admin, asked *atomic.Int64) {
	t.Helper()
	asked = new(atomic.Int64)
	config := kubetest.Inject(server, func(r *http.Request) kubetest.Fault {
		if r.URL.Query().Has("watch") || asked.Add(1) > times {
			return kubetest.None
		}
		return kubetest.Fault(http.StatusUnauthorized)
	})
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		t.Fatal(err)
	}
	return admin{client: c, config: config, namespace: v1alpha1.SystemNamespace, program: gkectl}, asked
}

// A follower outlives an API server that has just started and does not know everybody yet, and ends when its
// credentials have expired.
func TestFollowUnauthorized(t *testing.T) {
	tests := map[string]struct {
		refusals, asked int64
		err             error
	}{
		"for a moment": {refusals: mostRefusals - 1, asked: mostRefusals},
		"for good":     {refusals: 1000, asked: mostRefusals, err: apierrors.NewUnauthorized("injected")},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			a, _, _ := testEnv()
			_, uc := createTestCluster(t, "unauthorized")
			to, asked := refusing(t, test.refusals)
			f := &follower{
				admin: to, name: uc.Name, progress: a.progress(), retry: time.Millisecond,
				look: func(*v1alpha1.UserCluster) (string, string, bool) { return "done", "", true },
			}
			err := f.run(t.Context())
			if apierrors.IsUnauthorized(err) != (test.err != nil) || (err == nil) != (test.err == nil) {
				t.Errorf("run = %v, want %v", err, test.err)
			}
			if got := asked.Load(); got != test.asked {
				t.Errorf("asked %d times, want %d", got, test.asked)
			}
		})
	}
}

// What is done at the last moment is done.
func TestFollowDoneWhenTimeIsOver(t *testing.T) {
	a, _, _ := testEnv()
	to, _ := gated(t, a)
	_, uc := createTestCluster(t, "last-moment")
	ctx, cancel := context.WithCancelCause(t.Context())
	err := a.follow(ctx, to, uc.Name, waiting{}, func(*v1alpha1.UserCluster) (string, string, bool) {
		cancel(errWaitOver)
		return "done", "", true
	})
	if err != nil {
		t.Errorf("follow = %v, want no error", err)
	}
}

// The controller's writes are no conflict for a rotation; another change of the spec is.
func TestRaise(t *testing.T) {
	a, _, _ := testEnv()
	to, _ := gated(t, a)
	c, uc := createTestCluster(t, "raise")
	setReady(t, c, uc, metav1.ConditionTrue, "")
	read, err := to.existing(t.Context(), uc.Name)
	if err != nil {
		t.Fatal(err)
	}
	setReady(t, c, uc, metav1.ConditionTrue, "written after the read")
	if version, err := to.raise(t.Context(), read); version != 2 || err != nil {
		t.Fatalf("raise = %d, %v; want 2", version, err)
	}
	setReady(t, c, uc, metav1.ConditionTrue, "")
	_, err = to.raise(t.Context(), read)
	var e *exitError
	if !errors.As(err, &e) || e.code != ExitRefused || !strings.Contains(err.Error(), "changed by somebody else") {
		t.Errorf("raise of what was read before = %v, want a refusal", err)
	}
	got, err := to.existing(t.Context(), uc.Name)
	if err != nil || got.Spec.KSASigningKey.Version != 2 {
		t.Errorf("version = %d, %v; want 2", got.Spec.KSASigningKey.Version, err)
	}
}
