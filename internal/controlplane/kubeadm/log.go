package kubeadm

import (
	"cmp"
	"context"
	"io"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/printable"
)

// logged is the end of the log of an API server.
type logged struct {
	// mark names the change, at is when the log was read last, and end has its last lines in one; empty if nothing could
	// be read.
	mark, end string
	at        time.Time
}

// logInterval is how long after the log of an API server was read it is read again.
const logInterval = 10 * time.Second

// readLog keeps the end of the log of an API server that does not come up with a change. Its kubelet has that log only
// until the change is undone: then it runs another static pod, and removes the one before.
func (c *Cluster) readLog(ctx context.Context, n *node) {
	if n.report == nil || n.report.Change != agent.Pending || n.ready || n.Server.Mark != n.report.Mark {
		return // its mirror pod shows that the kubelet runs the change, or there is nothing to read
	}
	c.memory.mu.Lock()
	was, now := c.memory.nodes[n.Node].logged, c.now()
	c.memory.mu.Unlock()
	if was.mark != n.report.Mark {
		was = logged{mark: n.report.Mark}
	}
	if now.Sub(was.at) < logInterval {
		return
	}
	was.at = now
	if text, err := c.plane.lastLog(ctx, n.Node); err == nil {
		was.end = cmp.Or(lastLines(text), was.end)
	}
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	memory := c.memory.nodes[n.Node]
	memory.logged = was
	c.memory.nodes[n.Node] = memory
}

// logEnd adds to a text about a change that was undone how the log of its API server ended, if that is known.
func (c *Cluster) logEnd(n *node) string {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	if l := c.memory.nodes[n.Node].logged; l.mark == n.report.Mark && l.end != "" {
		return "; its log ended with: " + l.end
	}
	return ""
}

// Bounds of a log.
const (
	logLines = 10
	maxLog   = 1 << 16
	// maxLines are the lines that are quoted.
	maxLines = 3
)

// lastLines returns the last lines of a log in one.
func lastLines(text string) string {
	var lines []string
	for line := range strings.Lines(text) {
		if line = printable.Line(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-maxLines):], " | ")
}

func (r *reach) lastLog(ctx context.Context, node string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client, err := r.client()
	if err != nil {
		return "", err
	}
	read := func(previous bool) ([]byte, error) {
		lines := int64(logLines)
		o := &corev1.PodLogOptions{Container: apiServer, Previous: previous, TailLines: &lines}
		stream, err := client.CoreV1().Pods(metav1.NamespaceSystem).GetLogs(apiServer+"-"+node, o).Stream(ctx)
		if err != nil {
			return nil, err
		}
		defer stream.Close()
		return io.ReadAll(io.LimitReader(stream, maxLog))
	}
	text, err := read(true) // what ended says why
	if err != nil {
		text, err = read(false)
	}
	return string(text), err
}
