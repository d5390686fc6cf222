package signercmd

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
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

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

// patience is how long a test waits for what must happen.
const patience = 2 * time.Minute

// TestMain lets the test binary be keyturn-signer: the parent by a first argument, its child because the parent starts
// it with the same.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 || os.Args[1] != "--run-signer" &&
		!slices.Contains(os.Args, "--key-dir="+os.Getenv("SIGNER_TEST_KEY_DIR")) {
		os.Exit(m.Run())
	}
	if os.Getenv("LISTEN_PID") == "self" { // exec.Cmd cannot know the pid before there is one
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	limitFiles()
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

// limitFiles limits how many files this process may have, if the test wants that.
func limitFiles() {
	n, err := strconv.ParseUint(os.Getenv("SIGNER_TEST_FILES"), 10, 64)
	if err != nil {
		return
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}); err != nil {
		panic(err)
	}
}

// world is a keyturn-signer that runs, with one key.
type world struct {
	t   testing.TB
	dir string
	key keydir.Key
	log *safeBuffer
	// env is added to the environment of the signer.
	env  []string
	cmd  *exec.Cmd
	conn *grpc.ClientConn
	// metricsSocket is set by tests that want it elsewhere.
	metricsSocket string
}

func newWorld(t testing.TB) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "kts") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, log: &safeBuffer{}}
	w.key = w.newKey(1)
	w.write(w.key)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the signer:\n%s", w.log)
		}
	})
	return w
}

func (w *world) newKey(version int) keydir.Key {
	w.t.Helper()
	private, err := token.GenerateKey(rand.Reader, jwks.ES256)
	if err != nil {
		w.t.Fatal(err)
	}
	k, err := keydir.NewKey(version, private)
	if err != nil {
		w.t.Fatal(err)
	}
	return k
}

// write writes keys; the first is to sign.
func (w *world) write(keys ...keydir.Key) {
	w.t.Helper()
	err := keydir.Write(w.keyDir(), keydir.Set{
		SigningVersion: keys[0].Version, Keys: slices.SortedFunc(slices.Values(keys), byVersion), RefreshHint: time.Hour,
		RotationRefreshHint: time.Second, MaxTokenExpiration: time.Hour,
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func byVersion(a, b keydir.Key) int { return a.Version - b.Version }

// serves reports whether exactly these keys are served.
func (w *world) serves(keys ...keydir.Key) bool {
	w.t.Helper()
	r, err := w.client().FetchKeys(w.t.Context(), &externaljwt.FetchKeysRequest{})
	if err != nil || len(r.Keys) != len(keys) {
		return false
	}
	for i, k := range keys {
		kid, err := jwks.KeyID(k.Public)
		if err != nil {
			w.t.Fatal(err)
		}
		if r.Keys[i].KeyId != kid {
			return false
		}
	}
	return true
}

func (w *world) keyDir() string { return filepath.Join(w.dir, "keys") }
func (w *world) socket() string { return filepath.Join(w.dir, "run", "s") }
func (w *world) metrics() string {
	if w.metricsSocket != "" {
		return w.metricsSocket
	}
	return filepath.Join(w.dir, "run", "m")
}

// command is keyturn-signer, not started yet.
func (w *world) command(args ...string) *exec.Cmd {
	args = append([]string{"--run-signer", "--key-dir=" + w.keyDir(), "--watchdog-interval=50ms", "--watchdog-timeout=3s"},
		args...)
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = slices.Concat(os.Environ(), []string{"SIGNER_TEST_KEY_DIR=" + w.keyDir()}, w.env)
	cmd.Stderr = w.log
	cmd.WaitDelay = patience
	return cmd
}

// start starts keyturn-signer and connects to it, as an API server would: it fetches the keys once.
func (w *world) start(args ...string) {
	w.t.Helper()
	w.begin(w.command(append([]string{"--socket=" + w.socket()}, args...)...))
	if w.conn == nil {
		w.connect()
	}
}

// startWithMetrics is start, with metrics on a socket.
func (w *world) startWithMetrics(args ...string) {
	w.t.Helper()
	w.start(append([]string{"--metrics-bind-address=" + w.metrics()}, args...)...)
}

func (w *world) begin(cmd *exec.Cmd) {
	w.t.Helper()
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.cmd = cmd
	w.t.Cleanup(func() { w.end(syscall.SIGTERM) })
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
		ctx, cancel := context.WithTimeout(w.t.Context(), patience)
		defer cancel()
		_, err := w.client().FetchKeys(ctx, &externaljwt.FetchKeysRequest{})
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
func children(t testing.TB, pid int) (pids []int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		for field := range strings.FieldsSeq(string(raw)) {
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

// get asks the socket of the metrics; 0 if nobody answers.
func (w *world) get(path string) (int, string) {
	w.t.Helper()
	client := http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", w.metrics())
		},
	}}
	return get(w.t, &client, "http://signer"+path)
}

func get(t testing.TB, client *http.Client, url string) (int, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(body)
}

// eventuallyShows allows for the time until the child's next report.
func (w *world) eventuallyShows(path string, code int, want string) {
	w.t.Helper()
	w.eventually(path+" with "+want, func() bool {
		got, body := w.get(path)
		return got == code && strings.Contains(body, want)
	})
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
