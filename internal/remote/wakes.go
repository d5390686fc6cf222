package remote

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	wakesPath         = "/v1/wakes"
	heartbeatInterval = 10 * time.Second
	// silence is how long a stream may be silent before the client opens a new one.
	silence = 3 * heartbeatInterval
	// reopenAfter is how long the client waits before it opens a stream again.
	reopenAfter = time.Second
	// maxLine is the longest line of the stream in bytes: two names of Kubernetes objects.
	maxLine = 1 << 10
)

// wakeLine is one line of the stream; without a name it is a heartbeat.
type wakeLine struct {
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name,omitempty"`
}

// Wakes calls wake for each cluster in which the server saw a change, until ctx ends. It reconnects when it loses the
// server, and misses changes meanwhile: it saves time, but replaces no interval.
func (c *Client) Wakes(ctx context.Context, wake func(context.Context, types.NamespacedName)) {
	for ctx.Err() == nil {
		_ = c.stream(ctx, wake) // other calls fail for the same reason, and report it
		select {
		case <-ctx.Done():
		case <-time.After(reopenAfter):
		}
	}
}

// stream reads one stream to its end.
func (c *Client) stream(ctx context.Context, wake func(context.Context, types.NamespacedName)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	resp, err := c.get(ctx, wakesPath)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		watchdog.Reset(silence)
		var line wakeLine
		if err := decode(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("reading wakes: %w", err)
		}
		if line.Name != "" {
			wake(ctx, types.NamespacedName{Namespace: line.Namespace, Name: line.Name})
		}
	}
	return lines.Err()
}

// serveWakes streams the names of clusters in which something changes, and heartbeats.
func (s *Server) serveWakes(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	changed := newWakeSet()
	if s.Watch != nil {
		var watching sync.WaitGroup
		defer watching.Wait()
		defer cancel()
		watching.Go(func() {
			defer cancel() // a stream without a watch is opened again
			_ = s.Watch(ctx, changed.add)
		})
	}
	beat := time.NewTicker(heartbeatInterval)
	defer beat.Stop()
	w.Header().Set("Content-Type", "application/jsonl")
	lines := []wakeLine{{}} // the client learns at once that the stream is open
	for writeLines(w, lines) == nil {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			lines = []wakeLine{{}}
		case <-changed.some:
			lines = changed.take()
		}
	}
}

func writeLines(w http.ResponseWriter, lines []wakeLine) error {
	control := http.NewResponseController(w)
	if err := control.SetWriteDeadline(time.Now().Add(silence)); err != nil {
		return err
	}
	for _, line := range lines {
		if err := json.NewEncoder(w).Encode(line); err != nil {
			return err
		}
	}
	return control.Flush()
}

// wakeSet holds the clusters to send next, without duplicates, so that a slow client delays nobody.
type wakeSet struct {
	// some has a value when the set may not be empty.
	some chan struct{}

	mu       sync.Mutex
	clusters map[types.NamespacedName]struct{}
}

func newWakeSet() *wakeSet {
	return &wakeSet{some: make(chan struct{}, 1), clusters: map[types.NamespacedName]struct{}{}}
}

func (s *wakeSet) add(_ context.Context, cluster types.NamespacedName) {
	s.mu.Lock()
	s.clusters[cluster] = struct{}{}
	s.mu.Unlock()
	select {
	case s.some <- struct{}{}:
	default: // there is a value already
	}
}

func (s *wakeSet) take() (lines []wakeLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cluster := range s.clusters {
		lines = append(lines, wakeLine{Namespace: cluster.Namespace, Name: cluster.Name})
	}
	clear(s.clusters)
	return lines
}
