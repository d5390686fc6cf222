package signercmd

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestMetricsAndHealth(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startWithMetrics()
	if err := w.sign(); err != nil {
		t.Fatal(err)
	}
	w.eventuallyShows("/healthz", http.StatusOK, "ok")
	w.eventuallyShows("/readyz", http.StatusOK, "ok")
	w.eventuallyShows("/metrics", http.StatusOK, `result="signed"} 1`)
	w.eventuallyShows("/metrics", http.StatusOK, "\nkeyturn_signer_restarts_total 0\n")
	w.eventuallyShows("/metrics", http.StatusOK, "\nprocess_open_fds ")
	if info, err := os.Stat(w.metrics()); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket of the metrics: %v, %v", info.Mode(), err)
	}
	if code, _ := w.get("/debug/pprof/"); code != http.StatusNotFound {
		t.Errorf("an unknown path: %d", code)
	}
	if err := w.end(syscall.SIGTERM); err != nil {
		t.Errorf("ended with %v", err)
	}
	if _, err := os.Stat(w.metrics()); !os.IsNotExist(err) {
		t.Errorf("the socket of the metrics is left: %v", err)
	}
}

// TestHealthWithoutChild has a child without keys, and one that does not answer.
func TestHealthWithoutChild(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if err := os.RemoveAll(w.keyDir()); err != nil {
		t.Fatal(err)
	}
	w.begin(w.command("--socket="+w.socket(), "--metrics-bind-address="+w.metrics(), "--watchdog-timeout=5m"))
	w.eventuallyShows("/readyz", http.StatusServiceUnavailable, "no good key set")
	pid := w.awaitChild(0)
	w.write(w.key)
	w.connect()
	w.eventuallyShows("/readyz", http.StatusOK, "ok")
	// Nobody needs the child to know the numbers.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.eventuallyShows("/metrics", http.StatusOK, "\nkeyturn_signer_fetch_keys_total ")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.eventuallyShows("/metrics", http.StatusOK, "\nkeyturn_signer_restarts_total 1\n")
	w.eventuallyShows("/readyz", http.StatusOK, "ok")
}

// TestTakenAddress has another program listen where the metrics should be. The signer signs, and serves its metrics
// once it can.
func TestTakenAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.Addr().String()
	w.start("--metrics-bind-address=" + address)
	if err := w.sign(); err != nil {
		t.Fatal(err)
	}
	w.eventually("a line of log", func() bool {
		return w.log.logged("metrics and health are not served, and it is tried again") == 1
	})
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: patience}
	w.eventually("metrics", func() bool {
		code, _ := get(t, client, "http://"+address+"/metrics")
		return code == http.StatusOK
	})
}

// TestUnusableAddress names a socket for the metrics that cannot be made, in a directory that others can enter. The
// signer signs, and serves its metrics once it can.
func TestUnusableAddress(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := filepath.Dir(w.metrics()) + "2"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.metricsSocket = filepath.Join(dir, "m")
	w.startWithMetrics()
	if err := w.sign(); err != nil {
		t.Fatal(err)
	}
	w.eventually("a line of log", func() bool {
		return w.log.logged("metrics and health are not served, and it is tried again") == 1
	})
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	w.eventuallyShows("/readyz", http.StatusOK, "ok")
}

// TestFloodOfMetricsConnections opens more connections to the metrics than the signer may have files. It must go on
// signing for new connections and reading keys, also after its child died.
func TestFloodOfMetricsConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	port, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := port.Addr().String()
	port.Close()
	const files = 64
	w.limit(files)
	w.start("--metrics-bind-address=" + address)
	w.eventually("metrics", func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	flood(t, "tcp", address, 10*files)
	if err := syscall.Kill(w.awaitChild(0), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.checkWorks()
}

// TestFloodOfSilentConnections is the same on the socket of the API, where only the signer's own user can connect.
func TestFloodOfSilentConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const files = 64
	w.limit(files)
	w.start()
	flood(t, "unix", w.socket(), files+files/4)
	w.checkWorks()
}

// limit bounds how many files the signer may have.
func (w *world) limit(files int) {
	w.env = append(w.env, fmt.Sprintf("SIGNER_TEST_FILES=%d", files))
}

// flood opens connections that say nothing until the test ends.
func flood(t *testing.T, network, address string, n int) {
	t.Helper()
	for range n {
		conn, err := net.Dial(network, address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
}

// checkWorks has a new client sign, with a key that was not there before.
func (w *world) checkWorks() {
	w.t.Helper()
	next := w.newKey(2)
	w.write(w.key, next)
	w.conn = nil
	w.connect()
	w.eventually("the new key", func() bool { return w.serves(w.key, next) })
	if err := w.sign(); err != nil {
		w.t.Error(err)
	}
}

// TestOnlyParentListens looks up which process has the socket of the metrics.
func TestOnlyParentListens(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startWithMetrics()
	w.eventuallyShows("/readyz", http.StatusOK, "ok")
	inode := listening(t, w.metrics())
	if !has(t, w.cmd.Process.Pid, inode) {
		t.Error("the parent does not have the socket of the metrics")
	}
	if has(t, w.awaitChild(0), inode) {
		t.Error("the child, which has the keys, has the socket of the metrics")
	}
}

// listening returns how /proc/PID/fd names the listening socket of a path, which may have been renamed.
func listening(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) == 8 && strings.TrimSuffix(fields[7], ".new") == path && fields[5] == "01" {
			return "socket:[" + fields[6] + "]"
		}
	}
	t.Fatalf("nobody listens on %s", path)
	return ""
}

func has(t *testing.T, pid int, file string) bool {
	t.Helper()
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(links) == 0 {
		t.Fatalf("the files of process %d cannot be read: %v", pid, err)
	}
	return slices.ContainsFunc(links, func(link string) bool {
		target, err := os.Readlink(link)
		return err == nil && target == file
	})
}
