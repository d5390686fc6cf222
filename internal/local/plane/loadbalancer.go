package plane

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/datadir"
)

// loadBalancer controls a running HAProxy through its admin socket (HAProxy management guide, section 9.3).
type loadBalancer struct {
	// dir holds the socket.
	dir string
}

// serverStates returns for each API server whether new connections go to it.
func (lb loadBalancer) serverStates(ctx context.Context) (map[string]bool, error) {
	out, err := lb.command(ctx, "show servers state apiservers")
	if err != nil {
		return nil, err
	}
	return parseServerStates(out)
}

// take sends new connections to an API server at once, without waiting for HAProxy's health check.
func (lb loadBalancer) take(ctx context.Context, server string) error {
	return lb.set(ctx, "set server apiservers/"+server+" health up; set server apiservers/"+server+" state ready")
}

// drain sends no new connections to an API server; existing ones continue.
func (lb loadBalancer) drain(ctx context.Context, server string) error {
	return lb.set(ctx, "set server apiservers/"+server+" state drain")
}

// set runs commands that print nothing if they succeed.
func (lb loadBalancer) set(ctx context.Context, commands string) error {
	out, err := lb.command(ctx, commands)
	if err != nil {
		return err
	}
	if msg := strings.TrimSpace(out); msg != "" {
		return fmt.Errorf("load balancer refused %q: %s", commands, msg)
	}
	return nil
}

// command reaches the socket through its open directory, since a socket's path may have only 107 bytes.
func (lb loadBalancer) command(ctx context.Context, commands string) (string, error) {
	dir, err := os.Open(lb.dir)
	if err != nil {
		return "", fmt.Errorf("reaching load balancer: %w", err)
	}
	defer dir.Close()
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), components.AdminSocket))
	if err != nil {
		return "", fmt.Errorf("reaching load balancer: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return "", fmt.Errorf("reaching load balancer: %w", err)
	}
	if _, err := io.WriteString(conn, commands+"\n"); err != nil {
		return "", fmt.Errorf("commanding load balancer: %w", err)
	}
	out, err := io.ReadAll(conn)
	if err != nil {
		return "", fmt.Errorf("reading from load balancer: %w", err)
	}
	return string(out), nil
}

// parseServerStates parses "show servers state": a version, a header and one line per server. srv_name is the fourth
// field, srv_op_state the sixth (2: running) and srv_admin_state the seventh (0: neither drained nor in maintenance).
func parseServerStates(out string) (map[string]bool, error) {
	states := map[string]bool{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 7 || f[0] == "#" {
			continue
		}
		op, err := strconv.Atoi(f[5])
		if err != nil {
			return nil, fmt.Errorf("state of load balancer has a line %q", line)
		}
		states[f[3]] = op == 2 && f[6] == "0"
	}
	return states, nil
}

// Balanced returns for each API server of a site whether the load balancer sends new connections to it.
func Balanced(ctx context.Context, site datadir.Site) (map[string]bool, error) {
	return loadBalancer{dir: site.Path("run")}.serverStates(ctx)
}
