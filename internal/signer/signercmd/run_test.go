package signercmd

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/keydir"
	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

// TestMain lets the test binary be keyturn-signer: the parent by a first argument, its child because the parent starts it with the same.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "--run-signer" && !slices.Contains(os.Args, "--key-dir="+os.Getenv("SIGNER_TEST_KEY_DIR")) {
		os.Exit(m.Run())
	}
	if os.Getenv("LISTEN_PID") == "self" { // exec.Cmd cannot know the pid before there is one
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	args := os.Args[1:]
	if args[0] == "--run-signer" {
		args = args[1:]
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	os.Exit(Run(ctx, args, hangUp, os.Stderr))
}

// world is a keyturn-signer that runs, with one key.
type world struct {
	t    *testing.T
	dir  string
	key  keydir.Key
	log  *safeBuffer
	cmd  *exec.Cmd
	conn *grpc.ClientConn
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "kts") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	private, err := token.GenerateKey(rand.Reader, jwks.ES256)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, log: &safeBuffer{}}
	if w.key, err = keydir.NewKey(1, private); err != nil {
		t.Fatal(err)
	}
	w.write(w.key)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the signer:\n%s", w.log)
		}
	})
	return w
}

func (w *world) write(k keydir.Key) {
	w.t.Helper()
	err := keydir.Write(w.keyDir(), keydir.Set{
		SigningVersion: k.Version, Keys: []keydir.Key{k}, RefreshHint: time.Hour, RotationRefreshHint: time.Second, MaxTokenExpiration: time.Hour,
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) keyDir() string  { return filepath.Join(w.dir, "keys") }
func (w *world) socket() string  { return filepath.Join(w.dir, "run", "s") }
func (w *world) metrics() string { return filepath.Join(w.dir, "run", "m") }

// command is keyturn-signer, not started yet.
func (w *world) command(args ...string) *exec.Cmd {
	args = append([]string{"--run-signer", "--key-dir=" + w.keyDir(), "--watchdog-interval=50ms", "--watchdog-timeout=1s"}, args...)
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "SIGNER_TEST_KEY_DIR="+w.keyDir())
	cmd.Stderr = w.log
	cmd.WaitDelay = patience
	return cmd
}

// start starts keyturn-signer and connects to it, as an API server would: it fetches the keys once.
func (w *world) start(args ...string) {
	w.t.Helper()
	w.begin(w.command(append([]string{"--socket=" + w.socket(), "--metrics-bind-address=" + w.metrics()}, args...)...))
}

func (w *world) begin(cmd *exec.Cmd) {
	w.t.Helper()
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.cmd = cmd
	w.t.Cleanup(func() { w.end(syscall.SIGTERM) })
	if w.conn == nil {
		w.connect()
	}
}

func (w *world) connect() {
	w.t.Helper()
	conn, err := grpc.NewClient("unix:"+w.socket(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	w.conn = conn
	w.eventually("keys", func() bool {
		_, err := w.client().FetchKeys(w.t.Context(), &externaljwt.FetchKeysRequest{})
		return err == nil
	})
}

func (w *world) client() externaljwt.ExternalJWTSignerClient {
	return externaljwt.NewExternalJWTSignerClient(w.conn)
}

// end ends keyturn-signer and returns what Wait says.
func (w *world) end(by syscall.Signal) error {
	_ = w.cmd.Process.Signal(by)
	return w.cmd.Wait()
}

func (w *world) sign() error {
	claims := base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"s"}`))
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := w.client().Sign(ctx, &externaljwt.SignJWTRequest{Claims: claims})
	return err
}

// eventuallySigns allows for what was in flight when something was killed.
func (w *world) eventuallySigns() {
	w.t.Helper()
	w.eventually("a signature", func() bool { return w.sign() == nil })
}

func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// children returns the pids of the children of a process.
func children(t *testing.T, pid int) (pids []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		for _, field := range strings.Fields(string(raw)) {
			n, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, n)
		}
	}
	return pids
}

// awaitChild returns the pid of the only child, other than the one given.
func (w *world) awaitChild(other int) (pid int) {
	w.t.Helper()
	w.eventually("another child", func() bool {
		pids := children(w.t, w.cmd.Process.Pid)
		if len(pids) == 1 {
			pid = pids[0]
		}
		return len(pids) == 1 && pid != other
	})
	return pid
}

// get asks the socket of the metrics.
func (w *world) get(path string) (int, string) {
	w.t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", w.metrics())
	}}}
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, "http://signer"+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		w.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// safeBuffer is what a process says, readable while it runs.
type safeBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// logged counts the lines with this message.
func (b *safeBuffer) logged(message string) (n int) {
	for line := range strings.Lines(b.String()) {
		var entry struct{ Msg string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == message {
			n++
		}
	}
	return n
}

func TestServesAndEnds(t *testing.T) {
	for _, supervise := range []string{"true", "false"} {
		t.Run("supervise="+supervise, func(t *testing.T) {
			w := newWorld(t)
			w.start("--supervise=" + supervise)
			if err := w.sign(); err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/metrics": `result="signed"} 1`} {
				if code, body := w.get(path); code != http.StatusOK || !strings.Contains(body, want) {
					t.Errorf("%s: %d %s", path, code, body)
				}
			}
			if info, err := os.Stat(w.metrics()); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("socket of the metrics: %v, %v", info.Mode(), err)
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

// TestParentHoldsNoKey looks at what the parent has open, and at its memory.
func TestParentHoldsNoKey(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.eventuallySigns()
	pem := []byte(strings.Split(string(w.key.Private), "\n")[1])
	if memory(t, w.awaitChild(0), pem) == 0 {
		t.Skip("the private key is not found in the memory of the child either")
	}
	if n := memory(t, w.cmd.Process.Pid, pem); n != 0 {
		t.Errorf("the private key is %d times in the memory of the parent", n)
	}
}

// memory counts how often a text is in the memory of a process.
func memory(t *testing.T, pid int, text []byte) (n int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Skip("the memory of another process cannot be read here")
	}
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		raw := make([]byte, to-from)
		read, _ := mem.ReadAt(raw, from)
		n += bytes.Count(raw[:read], text)
	}
	return n
}

func TestChildIsStartedAgain(t *testing.T) {
	w := newWorld(t)
	w.start()
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
	if _, body := w.get("/metrics"); !strings.Contains(body, "keyturn_signer_restarts_total 4") {
		t.Errorf("the metrics do not count 4 restarts: %s", body)
	}
}

// TestHungChildIsKilled stops a child so that it does not even notice.
func TestHungChildIsKilled(t *testing.T) {
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
	w.eventually("the end of the unfit child", func() bool { return w.log.logged("no hand-over: the next child ended") == 1 })
	if got := w.awaitChild(0); got != pid {
		t.Errorf("child %d serves, want still %d", got, pid)
	}
	if err := w.sign(); err != nil {
		t.Error(err)
	}
}

// TestParentKilled kills the parent: no child may be left, and a new parent must find the way free at once.
func TestParentKilled(t *testing.T) {
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
		"--metrics-bind-address \":9090\"": {"--key-dir=k", "--metrics-bind-address=:9090"},
	} {
		var stderr strings.Builder
		if code := Run(t.Context(), args, nil, &stderr); code != 2 || !strings.Contains(stderr.String(), want) || !strings.Contains(stderr.String(), "\nhint: ") {
			t.Errorf("%v: %d, %s; want 2 and %q", args, code, stderr.String(), want)
		}
	}
	var stderr strings.Builder
	if code := Run(t.Context(), []string{"--help"}, nil, &stderr); code != 0 || !strings.Contains(stderr.String(), "watchdog-timeout") {
		t.Errorf("--help: %d, %s", code, stderr.String())
	}
	if code := Run(t.Context(), []string{"--key-dir=k"}, nil, &stderr); code != 1 || !strings.Contains(stderr.String(), "--socket is needed") {
		t.Errorf("without a socket: %d, %s", code, stderr.String())
	}
}
