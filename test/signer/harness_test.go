// Package signer_test runs keyturn-signer against the client code of kube-apiserver:
// k8s.io/kubernetes/pkg/serviceaccount/externaljwt/plugin, with kube-apiserver's version of gRPC.
//
// Run it with go test -count 1: the program is built while the tests run, so the cache of go test does not see that it
// changed.
package signer_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"gopkg.in/go-jose/go-jose.v2/jwt"
	"k8s.io/kubernetes/pkg/serviceaccount"
	"k8s.io/kubernetes/pkg/serviceaccount/externaljwt/plugin"

	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

// patience is how long a test waits for what must happen.
const patience = 2 * time.Minute

// program is keyturn-signer, built from the main module: with its gRPC, not kube-apiserver's.
var program string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "keyturn-signer-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "keyturn-signer")
	build := exec.Command("go", "build", "-o", program, "./cmd/keyturn-signer")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building keyturn-signer: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// world is a signer and its API server's client.
type world struct {
	t       testing.TB
	dir     string
	keys    map[int]keydir.Key
	hint    time.Duration
	log     *safeBuffer
	process *exec.Cmd
	// passed is the socket that the test holds, if it does.
	passed *os.File
}

// newWorld makes key versions 1 to 3 of an algorithm.
func newWorld(t testing.TB, algorithm string) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "kts") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, keys: map[int]keydir.Key{}, hint: time.Hour, log: &safeBuffer{}}
	w.generate(algorithm, 3)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the signer:\n%s", w.log)
		}
	})
	return w
}

// generate makes the key versions up to one of them.
func (w *world) generate(algorithm string, last int) {
	w.t.Helper()
	for version := 1; version <= last; version++ {
		private, err := token.GenerateKey(rand.Reader, algorithm)
		if err != nil {
			w.t.Fatal(err)
		}
		if w.keys[version], err = keydir.NewKey(version, private); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) socket() string { return filepath.Join(w.dir, "run", "s") }
func (w *world) keyDir() string { return filepath.Join(w.dir, "keys") }

// write makes the signer serve these versions, and sign with one of them.
func (w *world) write(signing int, versions ...int) {
	w.t.Helper()
	set := keydir.Set{
		SigningVersion: signing, RefreshHint: w.hint, RotationRefreshHint: w.hint, MaxTokenExpiration: 24 * time.Hour,
	}
	for _, version := range versions {
		set.Keys = append(set.Keys, w.keys[version])
	}
	if err := keydir.Write(w.keyDir(), set); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) kid(version int) string {
	w.t.Helper()
	kid, err := jwks.KeyID(w.keys[version].Public)
	if err != nil {
		w.t.Fatal(err)
	}
	return kid
}

// start starts the signer, to be ended with the test.
func (w *world) start(args ...string) {
	w.t.Helper()
	args = append(
		[]string{"--socket=" + w.socket(), "--key-dir=" + w.keyDir(), "--watchdog-interval=100ms", "--watchdog-timeout=1s"},
		args...,
	)
	cmd := exec.Command(program, args...)
	cmd.Stderr = w.log
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.process = cmd
	w.t.Cleanup(func() { w.stop(syscall.SIGTERM) })
}

// listen makes the socket, as systemd would.
func (w *world) listen() {
	w.t.Helper()
	l, err := socket.Listen(w.socket())
	if err != nil {
		w.t.Fatal(err)
	}
	if w.passed, err = socket.File(l.UnixListener); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { l.Close(); w.passed.Close() })
}

// startActivated starts the signer with the socket that the test holds.
func (w *world) startActivated() {
	w.t.Helper()
	// The shell knows its pid, which stays that of the program.
	const script = `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`
	cmd := exec.Command("/bin/sh", "-c", script, program, "--key-dir="+w.keyDir())
	cmd.Stderr = w.log
	cmd.ExtraFiles = []*os.File{w.passed}
	cmd.WaitDelay = patience
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.process = cmd
	w.t.Cleanup(func() { w.stop(syscall.SIGTERM) })
}

// stop ends the signer.
func (w *world) stop(by syscall.Signal) {
	_ = w.process.Process.Signal(by)
	_ = w.process.Wait()
}

// child returns the pid of the child; 0 when there is not exactly one.
func (w *world) child() int {
	pids := w.children()
	if len(pids) != 1 {
		return 0
	}
	return pids[0]
}

func (w *world) children() (pids []int) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", w.process.Process.Pid))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		for _, field := range strings.Fields(string(raw)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				w.t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// awaitChild returns the pid of a child other than the one given.
func (w *world) awaitChild(other int) int {
	w.t.Helper()
	pid := 0
	w.eventually("another child", func() bool {
		pid = w.child()
		return pid != 0 && pid != other
	})
	return pid
}

func (w *world) eventually(what string, is func() bool) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// apiServer is the part of kube-apiserver that talks to the signer.
type apiServer struct {
	t      testing.TB
	plugin *plugin.Plugin
	cache  serviceaccount.PublicKeysGetter
}

const issuer = "https://issuer.example"

// connect starts the client code as kube-apiserver does.
func (w *world) connect() *apiServer {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	w.t.Cleanup(cancel)
	p, cache, err := plugin.New(ctx, issuer, w.socket(), patience, false)
	if err != nil {
		w.t.Fatal(err)
	}
	return &apiServer{t: w.t, plugin: p, cache: cache}
}

// issue issues a token, and returns it with its kid.
func (a *apiServer) issue(ctx context.Context) (signed, kid string, err error) {
	now := time.Now()
	claims := &jwt.Claims{
		Subject: "system:serviceaccount:default:default", Audience: jwt.Audience{issuer},
		ID:       "6d5ac6b6-6c3f-4d10-a0b0-a0f6f3f3b2a0",
		IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(time.Hour)),
	}
	private := map[string]any{"kubernetes.io": map[string]any{
		"namespace":      "default",
		"serviceaccount": map[string]string{"name": "default", "uid": "b1b3c4d5-0000-4d10-a0b0-a0f6f3f3b2a0"},
		"pod":            map[string]string{"name": "a-pod-<&>", "uid": "c1b3c4d5-0000-4d10-a0b0-a0f6f3f3b2a0"},
	}}
	signed, err = a.plugin.GenerateToken(ctx, claims, private)
	if err != nil {
		return "", "", err
	}
	kid, err = token.KeyID(signed)
	return signed, kid, err
}

// accepts verifies a token as kube-apiserver does: with the keys of its cache that have the token's kid.
func (a *apiServer) accepts(ctx context.Context, signed string) error {
	kid, err := token.KeyID(signed)
	if err != nil {
		return err
	}
	parsed, err := jwt.ParseSigned(signed)
	if err != nil {
		return err
	}
	for _, k := range a.cache.GetPublicKeys(ctx, kid) {
		var claims map[string]any
		if parsed.Claims(k.PublicKey, &claims) == nil {
			return nil
		}
	}
	return errors.New("no key verifies it")
}

// serves returns the kids of the cache.
func (a *apiServer) serves(ctx context.Context) (kids []string) {
	for _, k := range a.cache.GetPublicKeys(ctx, "") {
		kids = append(kids, k.KeyID)
	}
	return kids
}

// mustIssue issues a token, and has it accepted.
func (a *apiServer) mustIssue() (kid string) {
	a.t.Helper()
	signed, kid, err := a.issue(a.t.Context())
	if err == nil {
		err = a.accepts(a.t.Context(), signed)
	}
	if err != nil {
		a.t.Fatal(err)
	}
	return kid
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
