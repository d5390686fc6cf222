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
		after time.Duration
		phase Phase
		ready bool
		over  bool
	}{
		{0, Pending, true, false},
		{10 * time.Minute, Pending, false, false}, // the first time that it was seen
		{12 * time.Minute, Pending, false, false},
		{13 * time.Minute, Pending, true, false}, // its old process, or the new one: it counts from zero
		{14 * time.Minute, Pending, false, false},
		{19*time.Minute - 1, Pending, false, false},
		{19 * time.Minute, Pending, false, true},
		{20 * time.Minute, Undone, false, false},
		{30 * time.Minute, Pending, false, false}, // another change
		{36 * time.Minute, "", false, false},      // settled
		{37 * time.Minute, Pending, false, false},
		{38 * time.Minute, Undoing, true, true}, // a crash came in between
	} {
		if over := p.Over(start.Add(c.after), c.phase, c.ready); over != c.over {
			t.Errorf("%d, after %v: %v", i, c.after, over)
		}
	}
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
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	must(t, err)
	path := n.Manifests + "/kube-apiserver.yaml"
	n.write(path,
		strings.NewReplacer("host: 10.0.0.10", "host: 127.0.0.1", "containerPort: 6443",
			"containerPort: "+port).Replace(n.read(path)), 0o600)
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
