package agent

import (
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestPatience(t *testing.T) {
	start := time.Unix(1000, 0)
	p := Patience{Limit: 5 * time.Minute}
	for i, c := range []struct {
		after  time.Duration
		change Change
		ready  bool
		over   bool
	}{
		{0, Change{Restart: "a", Phase: Pending}, true, false},
		{10 * time.Minute, Change{Restart: "a", Phase: Pending}, false, false}, // the first time that it was seen
		{12 * time.Minute, Change{Restart: "a", Phase: Pending}, false, false},
		// Its old process, or the new one: it counts from zero.
		{13 * time.Minute, Change{Restart: "a", Phase: Pending}, true, false},
		{14 * time.Minute, Change{Restart: "a", Phase: Pending}, false, false},
		{19*time.Minute - 1, Change{Restart: "a", Phase: Pending}, false, false},
		{19 * time.Minute, Change{Restart: "a", Phase: Pending}, false, true},
		{20 * time.Minute, Change{Restart: "a", Phase: Undone}, false, false},
		{30 * time.Minute, Change{Restart: "b", Phase: Pending}, false, false}, // another change
		{36 * time.Minute, Change{}, false, false},                             // settled
		{37 * time.Minute, Change{Restart: "c", Phase: Pending}, false, false},
		{45 * time.Minute, Change{Restart: "d", Phase: Pending}, false, false}, // nobody saw that it was settled
		{46 * time.Minute, Change{Restart: "d", Phase: Undoing}, true, true},   // a crash came in between
	} {
		if over := p.Over(start.Add(c.after), c.change, c.ready); over != c.over {
			t.Errorf("%d, after %v: %v", i, c.after, over)
		}
	}
}

// probeAt has the readiness probe of kube-apiserver ask at an address of this host.
func (n node) probeAt(address net.Addr) {
	n.t.Helper()
	_, port, err := net.SplitHostPort(address.String())
	must(n.t, err)
	path := n.Manifests + "/kube-apiserver.yaml"
	n.write(path, strings.NewReplacer("host: 10.0.0.10", "host: 127.0.0.1", "containerPort: 6443",
		"containerPort: "+port).Replace(n.read(path)), 0o600)
}

// TestWatchAfterAChange has a controller settle a change while kube-apiserver was last seen not ready. The next change
// gets all of its time.
func TestWatchAfterAChange(t *testing.T) {
	n := newNode(t, 1, 1, 2)
	gone := httptest.NewTLSServer(http.NotFoundHandler())
	n.probeAt(gone.Listener.Addr())
	gone.Close()
	p := &Patience{Limit: time.Nanosecond}
	check := func() {
		t.Helper()
		must(t, n.checkChange(t.Context(), p, slog.New(slog.DiscardHandler)))
	}
	n.apply(n.order(files(2, 1, 2), "a"), Done)
	check()
	n.apply(n.settle("a"), Done)
	check()
	n.apply(n.order(files(2, 2), "b"), Done)
	check()
	n.wantKeys(files(2, 2))
	check()
	n.wantKeys(files(2, 1, 2))
}

// TestWatch undoes a change when the readiness probe of the manifest fails, and not before.
func TestWatch(t *testing.T) {
	var status atomic.Int64
	status.Store(http.StatusOK)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			t.Errorf("it asked for %s", r.URL.Path)
		}
		w.WriteHeader(int(status.Load()))
	}))
	t.Cleanup(server.Close)
	n := newNode(t, 1, 1, 2)
	n.probeAt(server.Listener.Addr())
	check := func(p *Patience) {
		t.Helper()
		must(t, n.checkChange(t.Context(), p, slog.New(slog.DiscardHandler)))
	}
	soon := &Patience{}
	check(soon) // there is no change
	n.apply(n.order(files(2, 1, 2), "a"), Done)
	check(soon)
	n.wantKeys(files(2, 1, 2))
	status.Store(http.StatusInternalServerError)
	check(&Patience{Limit: time.Hour})
	n.wantKeys(files(2, 1, 2))
	check(soon)
	n.wantKeys(files(1, 1, 2))
	if r := n.apply(n.do(Observe), Done); r.Found.Change != Undone {
		t.Errorf("the change is %q", r.Found.Change)
	}
}
