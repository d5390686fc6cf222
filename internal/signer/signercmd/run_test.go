package signercmd

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keyturn/keyturn/internal/remnants"
	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/signer/keydir"
)

func TestServesAndEnds(t *testing.T) {
	for _, supervise := range []string{"true", "false"} {
		t.Run("supervise="+supervise, func(t *testing.T) {
			w := newWorld(t)
			w.start("--supervise=" + supervise)
			if err := w.sign(); err != nil {
				t.Fatal(err)
			}
			pid := w.cmd.Process.Pid
			if err := w.end(syscall.SIGTERM); err != nil {
				t.Errorf("ended with %v", err)
			}
			if n := w.log.logged("child did not end in order"); n != 0 {
				t.Error("the child did not end in order")
			}
			if _, err := os.Stat(w.socket()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the socket is left: %v", err)
			}
			if left := children(t, pid); len(left) > 0 {
				t.Errorf("children %v are left", left)
			}
		})
	}
}

// TestParentHoldsNoKey searches the memory of the parent.
func TestParentHoldsNoKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.eventuallySigns()
	forms := w.forms(w.key)
	if w.copies(w.awaitChild(0), forms) == 0 {
		t.Error("the private key is not found in the memory of the child either")
	}
	if n := w.copies(w.cmd.Process.Pid, forms); n != 0 {
		t.Errorf("the private key is %d times in the memory of the parent", n)
	}
}

// TestRetiredKeyLeavesMemory takes a private key out of the key directory. The child that had it ends, and no process
// of the signer has a copy any more.
func TestRetiredKeyLeavesMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	next := w.newKey(2)
	w.write(w.key, next)
	w.start("--reload-interval=10ms") // so that the keys are read many times
	w.eventuallySigns()
	pid := w.awaitChild(0)
	retired, kept := w.forms(w.key), w.forms(next)
	w.write(next, w.key)
	w.eventually("the next key to sign", func() bool { return w.serves(w.key, next) })
	if w.copies(pid, retired) == 0 {
		t.Error("the private key is not found in the memory of the child before")
	}
	if n := w.log.logged("hand-over"); n != 0 {
		t.Errorf("%d hand-overs before a key was retired", n)
	}
	w.write(next)
	w.eventually("a hand-over", func() bool { return w.log.logged("hand-over") == 1 })
	pid = w.awaitChild(pid)
	if n := w.copies(pid, retired) + w.copies(w.cmd.Process.Pid, retired); n != 0 {
		t.Errorf("the retired private key is %d times in memory", n)
	}
	if w.copies(pid, kept) == 0 {
		t.Error("the private key that signs is not found in the memory of the child")
	}
	w.eventuallySigns()
	if n := w.log.logged("child died"); n != 0 {
		t.Errorf("%d children died", n)
	}
}

func (w *world) forms(k keydir.Key) remnants.Forms {
	w.t.Helper()
	private, err := k.Signer()
	if err != nil {
		w.t.Fatal(err)
	}
	forms, err := remnants.FormsOf(private)
	if err != nil {
		w.t.Fatal(err)
	}
	return forms
}

// copies counts the copies of a private key in the memory of a process.
func (w *world) copies(pid int, forms remnants.Forms) int {
	w.t.Helper()
	counts, err := remnants.Count(pid, forms)
	if err != nil {
		w.t.Skip(err)
	}
	w.t.Logf("process %d: %s", pid, counts)
	if n := counts[remnants.Text]; n > 1 { // one may be in the buffer of a reading that is under way
		w.t.Errorf("process %d keeps %d copies of the file of a private key", pid, n)
	}
	return counts.Total()
}

func TestChildIsStartedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startWithMetrics()
	pid := 0
	for range 4 {
		pid = w.awaitChild(pid)
		w.eventuallySigns()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	w.awaitChild(pid)
	w.eventuallySigns()
	w.eventuallyShows("/metrics", http.StatusOK, "\nkeyturn_signer_restarts_total 4\n")
}

// TestHungChildIsKilled stops a child so that it does not even notice.
func TestHungChildIsKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.eventuallySigns()
	pid := w.awaitChild(0)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	w.awaitChild(pid)
	w.eventuallySigns()
	if !strings.Contains(w.log.String(), "it hung and was killed") {
		t.Error("the log does not say that it hung")
	}
}

func TestHandOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.eventuallySigns()
	pid := w.awaitChild(0)
	if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.awaitChild(pid)
	if err := w.sign(); err != nil {
		t.Errorf("after the hand-over: %v", err)
	}
	if w.log.logged("child died") != 0 {
		t.Error("the old child did not end in order")
	}
}

// TestUnfitChildDoesNotTakeOver hands over to a child that finds no good keys. The old one has them still.
func TestUnfitChildDoesNotTakeOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.eventuallySigns()
	pid := w.awaitChild(0)
	if err := os.Truncate(filepath.Join(w.keyDir(), "..data", "1.key"), 20); err != nil {
		t.Fatal(err)
	}
	if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of the unfit child",
		func() bool { return w.log.logged("no hand-over: the next child ended") == 1 })
	if got := w.awaitChild(0); got != pid {
		t.Errorf("child %d serves, want still %d", got, pid)
	}
	if err := w.sign(); err != nil {
		t.Error(err)
	}
}

// TestParentKilled kills the parent: no child may be left, and a new parent must find the way free at once.
func TestParentKilled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	for range 3 {
		w.eventuallySigns()
		pid := w.awaitChild(0)
		_ = w.end(syscall.SIGKILL)
		w.start()
		w.eventuallySigns()
		if pids := children(t, w.cmd.Process.Pid); slices.Contains(pids, pid) {
			t.Error("the old child serves under the new parent")
		}
		w.eventually("the end of the old child", func() bool {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || strings.Contains(string(raw), ") Z ")
		})
	}
}

func TestSecondParentIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.eventuallySigns()
	second := w.command("--socket=" + w.socket())
	if err := second.Run(); second.ProcessState.ExitCode() != 1 {
		t.Errorf("a second signer on one socket ends with %v", err)
	}
	if err := w.sign(); err != nil {
		t.Errorf("the first one after that: %v", err)
	}
}

// TestBackOff has a child that dies again and again wait, but not the first times.
func TestBackOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	for range 8 {
		pid := w.awaitChild(0)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		w.awaitChild(pid)
	}
	var waits []string
	for line := range strings.Lines(w.log.String()) {
		var entry struct{ Msg, StartedAgainIn string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "child died" {
			waits = append(waits, entry.StartedAgainIn)
		}
	}
	if want := []string{"0s", "0s", "0s", "0s", "0s", "50ms", "100ms", "200ms"}; !slices.Equal(waits, want) {
		t.Errorf("the child was started again after %v, want %v", waits, want)
	}
	w.eventuallySigns()
}

// TestSocketActivation passes the socket as systemd does, and restarts the whole signer: the socket goes on listening.
func TestSocketActivation(t *testing.T) {
	for _, supervise := range []string{"true", "false"} {
		t.Run("supervise="+supervise, func(t *testing.T) {
			w := newWorld(t)
			l, err := socket.Listen(w.socket())
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			for range 2 {
				f, err := socket.File(l.UnixListener)
				if err != nil {
					t.Fatal(err)
				}
				cmd := w.command("--supervise="+supervise, "--state-file="+filepath.Join(w.dir, "served.json"))
				cmd.Env = append(cmd.Env, "LISTEN_PID=self", "LISTEN_FDS=1")
				cmd.ExtraFiles = []*os.File{f}
				w.begin(cmd)
				f.Close()
				if w.conn == nil {
					w.connect()
				}
				w.eventuallySigns()
				if err := w.end(syscall.SIGTERM); err != nil {
					t.Errorf("ended with %v", err)
				}
				if _, err := os.Stat(w.socket()); err != nil {
					t.Errorf("the socket of somebody else was removed: %v", err)
				}
			}
		})
	}
}

func TestBadFlags(t *testing.T) {
	for want, args := range map[string][]string{
		"--key-dir is needed":              {},
		"unexpected argument":              {"--key-dir=k", "x"},
		"not defined":                      {"--key-dir=k", "--nonsense"},
		"neither an absolute path nor":     {"--key-dir=k", "--metrics-bind-address=0.0.0.0:80"},
		"must be above zero":               {"--key-dir=k", "--watchdog-timeout=0s"},
		"must be an absolute path":         {"--key-dir=k", "--pkcs11-module=lib.so"},
		"needs --supervise":                {"--key-dir=k", "--supervise=false", "--metrics-bind-address=127.0.0.1:9402"},
		"--metrics-bind-address \":9090\"": {"--key-dir=k", "--metrics-bind-address=:9090"},
	} {
		var stderr strings.Builder
		if code := Run(t.Context(), args, nil, &stderr); code != 2 || !strings.Contains(stderr.String(), want) ||
			!strings.Contains(stderr.String(), "\nhint: ") {
			t.Errorf("%v: %d, %s; want 2 and %q", args, code, stderr.String(), want)
		}
	}
	var stderr strings.Builder
	if code := Run(t.Context(), []string{"--help"}, nil, &stderr); code != 0 ||
		!strings.Contains(stderr.String(), "watchdog-timeout") {
		t.Errorf("--help: %d, %s", code, stderr.String())
	}
	if code := Run(t.Context(), []string{"--key-dir=k"}, nil, &stderr); code != 1 ||
		!strings.Contains(stderr.String(), "--socket is needed") {
		t.Errorf("without a socket: %d, %s", code, stderr.String())
	}
}
