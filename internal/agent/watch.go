package agent

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/keyturn/keyturn/internal/agent/manifest"
	"github.com/keyturn/keyturn/internal/atomicfile"
)

// Patience decides when a change is undone: when kube-apiserver was not ready for Limit without a break, as often as it
// was asked, while the change is pending. Its old process may go on for a while, so one answer settles nothing: only a
// controller, which proves which keys it has, does.
type Patience struct {
	Limit time.Duration

	// since is when it was first seen not ready during the change with this mark; zero when it was ready last.
	since time.Time
	mark  string
}

// Over takes what was seen at a moment, by a clock that nobody sets, and reports whether the change is to be undone
// now. Without a change it is called with the zero Change.
func (p *Patience) Over(now time.Time, c Change, ready bool) bool {
	if c.Phase == Undoing {
		return true // a crash came in between
	}
	if c.Phase != Pending || ready || c.Restart != p.mark {
		p.since, p.mark = time.Time{}, c.Restart
	}
	if c.Phase != Pending || ready {
		return false
	}
	if p.since.IsZero() {
		p.since = now
	}
	return now.Sub(p.since) >= p.Limit
}

// How often and for how long kube-apiserver is asked.
const (
	askInterval  = 2 * time.Second
	readyTimeout = 5 * time.Second
)

// Watch undoes a change with which kube-apiserver is not ready for limit, until ctx ends. It is the agent's own, since
// a controller reaches the agent through an API server.
func (a Agent) Watch(ctx context.Context, limit time.Duration, log *slog.Logger) {
	patience := Patience{Limit: limit}
	tick := time.NewTicker(askInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := a.checkChange(ctx, &patience, log); err != nil && !errors.Is(err, atomicfile.ErrBusy) {
			log.Error("watching kube-apiserver", "error", err)
		}
	}
}

func (a Agent) checkChange(ctx context.Context, patience *Patience, log *slog.Logger) error {
	change, err := a.change()
	if err != nil {
		return err
	}
	if !patience.Over(time.Now(), change, change.Phase != Pending || ready(ctx, change)) {
		return nil
	}
	log.Warn("kube-apiserver is not ready: putting back what the last change replaced", "change", change.Restart)
	did, err := a.undo(ctx)
	log.Warn("put back", "did", did)
	return err
}

// change reads undo.json; zero when there is none.
func (a Agent) change() (c Change, err error) {
	text, err := os.ReadFile(a.pathOf(File{State, undoFile}))
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return c, fmt.Errorf("reading %v: it is damaged", File{State, undoFile})
	}
	return c, nil
}

// ready asks kube-apiserver as the kubelet does, by the readiness probe of the manifest before the change. Without one
// nobody can tell, and nothing is undone.
func ready(ctx context.Context, c Change) bool {
	m, err := manifest.Parse(c.Before[File{Manifests, serverManifest}])
	if err != nil {
		return true
	}
	probe, ok := m.Readiness()
	if !ok {
		return true
	}
	client := http.Client{Timeout: readyTimeout, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // as kubelets probe: nothing secret is sent
	}}
	url := "https://" + net.JoinHostPort(probe.Host, strconv.Itoa(probe.Port)) + probe.Path
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return true
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	return response.StatusCode == http.StatusOK
}
