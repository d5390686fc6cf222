package serve

import (
	"context"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/local/process"
)

// TestWatch wants a cluster to be noticed once for each change of a process, and the others never.
func TestWatch(t *testing.T) {
	h := plane.New(localtest.Data(t), localtest.NoPrograms(t), nil)
	start := func(site string) (pid int) {
		t.Helper()
		at, err := h.Data.EnsureSite(site, "")
		if err != nil {
			t.Fatal(err)
		}
		run := h.Runner(at)
		if err := run.Start(process.Spec{Name: components.APIServerName(0), Path: sleep(t),
			Args: []string{"1000"}}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = run.Await(context.Background(), components.APIServerName(0), 0) })
		state, err := run.Observe(components.APIServerName(0))
		if err != nil || !state.Running {
			t.Fatalf("the process does not run: %v", err)
		}
		return state.PID
	}
	w := pulses{host: h}
	t.Cleanup(w.close)
	want := func(when string, got []types.NamespacedName, clusters ...types.NamespacedName) {
		t.Helper()
		if !slices.Equal(got, clusters) {
			t.Errorf("%s: changed are %v, want %v", when, got, clusters)
		}
	}
	pid := start("ns.blue")
	start("ns.green")
	blue, green := types.NamespacedName{Namespace: "ns", Name: "blue"},
		types.NamespacedName{Namespace: "ns", Name: "green"}
	want("at first sight", w.look(t.Context()), blue, green)
	want("when nothing changed", w.look(t.Context()))
	want("when nothing ends", w.await(time.Millisecond))
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	want("when a process is killed", w.await(time.Hour), blue)
	want("a second time", w.await(time.Millisecond))
	want("at the look after that", w.look(t.Context()), blue)
	want("while it is dead", w.look(t.Context()))
	start("ns.blue")
	want("after it was started", w.look(t.Context()), blue)
	want("while it runs", w.look(t.Context()))
}

// TestWatchUntilTheEnd runs a Watch as a controller does.
func TestWatchUntilTheEnd(t *testing.T) {
	h := plane.New(localtest.Data(t), localtest.NoPrograms(t), nil)
	at, err := h.Data.EnsureSite("ns.blue", "")
	if err != nil {
		t.Fatal(err)
	}
	run := h.Runner(at)
	t.Cleanup(func() { _ = run.Await(context.Background(), components.APIServerName(0), 0) })
	start := func() {
		t.Helper()
		if err := run.Start(process.Spec{Name: components.APIServerName(0), Path: sleep(t),
			Args: []string{"1000"}}); err != nil {
			t.Fatal(err)
		}
	}
	start()
	ctx, cancel := context.WithCancel(t.Context())
	woken, ended := make(chan types.NamespacedName), make(chan error)
	go func() {
		ended <- watch(ctx, h, func(ctx context.Context, cluster types.NamespacedName) {
			select {
			case woken <- cluster:
			case <-ctx.Done():
			}
		})
	}()
	<-woken // at first sight
	for blue := (types.NamespacedName{}); blue.Name == ""; {
		// The Watch notices the end of a process that it has seen: one that lives for a while, or the next.
		start()
		select {
		case blue = <-woken:
		case <-time.After(time.Second):
			if err := run.Await(t.Context(), components.APIServerName(0), 0); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if blue != (types.NamespacedName{Namespace: "ns", Name: "blue"}) {
			t.Errorf("woken is %v", blue)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func sleep(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// BenchmarkWatch checks a cluster with the processes of three API servers and their signers.
func BenchmarkWatch(b *testing.B) {
	h := plane.New(localtest.Data(b), localtest.NoPrograms(b), nil)
	at, err := h.Data.EnsureSite("ns.blue", "")
	if err != nil {
		b.Fatal(err)
	}
	run := h.Runner(at)
	names := []string{
		"etcd", "haproxy", "signer-0", "signer-1", "signer-2", "kcm-0", "kcm-1", "s-0", "s-1", "a-0", "a-1", "a-2",
	}
	for _, name := range names {
		if err := run.Start(process.Spec{Name: name, Path: "/bin/sleep", Args: []string{"1000"}}); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = run.Await(context.Background(), name, 0) })
	}
	w := pulses{host: h}
	for b.Loop() {
		w.look(b.Context())
	}
	w.close()
}
