package ledger

import (
	"bufio"
	"bytes"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// world is a ledger file with a clock and a machine that a test sets, and the truth about it.
type world struct {
	t    testing.TB
	path string
	env  environment
	log  bytes.Buffer

	mu   sync.Mutex
	time time.Time
	// boot is the number of the boot.
	boot uint64
	// noted are the tokens of the truth.
	noted []Token
}

const start = 1_800_000_000

// cells are few, so that tests can fill them.
const cells = 1024

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, path: filepath.Join(t.TempDir(), "ledger"), time: time.Unix(start, 0), boot: 1}
	w.env = environment{now: w.now, boot: func() ([2]uint64, error) { return [2]uint64{w.boot, 0}, nil }, cells: cells}
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func (w *world) open() *Ledger {
	w.t.Helper()
	l, err := open(w.path, Options{Overlap: time.Minute, Log: slog.New(slog.NewTextHandler(&w.log, nil))}, w.env)
	if err != nil {
		w.t.Fatal(err)
	}
	return l
}

func (w *world) note(l *Ledger, tokens ...Token) {
	w.t.Helper()
	for _, token := range tokens {
		if err := l.Note(&token); err != nil {
			w.t.Fatal(err)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noted = append(w.noted, tokens...)
}

func (w *world) read() Report {
	w.t.Helper()
	r, err := read(w.path, w.now(), w.env)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// wantAll wants the report to claim no less than there is.
func (w *world) wantAll() Report {
	w.t.Helper()
	w.mu.Lock()
	noted := slices.Clone(w.noted)
	w.mu.Unlock()
	r := w.read()
	wantCovered(w.t, r, noted, w.now())
	return r
}

// wantCovered wants an entry for each token that lives.
func wantCovered(t testing.TB, r Report, tokens []Token, now time.Time) {
	t.Helper()
	known := map[string]time.Time{}
	for _, e := range r.Entries {
		known[keyOf(e)] = e.Expires
	}
	missing := 0
	for _, token := range tokens {
		if token.Expires < now.Add(-Leeway).Unix() {
			continue
		}
		if !slices.ContainsFunc(covers(token), func(key string) bool { return known[key].Unix() >= token.Expires }) {
			if missing++; missing < 5 {
				t.Errorf("a token is in no entry: %s", describe(token))
			}
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d tokens are in no entry of %d", missing, len(tokens), len(r.Entries))
	}
}

func keyOf(e Entry) string {
	var o Object
	if e.Bound != nil {
		o = *e.Bound
	}
	return fmt.Sprintf("%q %q %q %q %q %t", e.KeyID, e.Namespace, e.ServiceAccount, e.Audiences, o, e.Coarse)
}

// covers are the keys of the entries that may stand for a token.
func covers(t Token) []string {
	account := Entry{
		KeyID: t.KeyID, Namespace: string(t.Namespace), ServiceAccount: string(t.ServiceAccount), Coarse: true,
	}
	for _, audience := range t.Audiences {
		account.Audiences = append(account.Audiences, string(audience))
	}
	fine := account
	fine.Coarse = false
	if t.Kind != "" {
		fine.Bound = &Object{t.Kind, string(t.Name), string(t.UID)}
	}
	namespace := Entry{KeyID: t.KeyID, Namespace: account.Namespace, Coarse: true}
	key := Entry{KeyID: t.KeyID, Coarse: true}
	return []string{keyOf(fine), keyOf(account), keyOf(namespace), keyOf(key), keyOf(Entry{Coarse: true})}
}

func describe(t Token) string {
	return fmt.Sprintf(
		"%s %s/%s %q %s %s %s until %d", t.KeyID, t.Namespace, t.ServiceAccount, t.Audiences, t.Kind, t.Name, t.UID,
		t.Expires,
	)
}

// random returns a token like those of clusters, and now and then an odd one.
func random(r *rand.Rand, from int64) Token {
	t := Token{
		KeyID: "key-" + strconv.Itoa(r.IntN(3)), Namespace: text("ns", r.IntN(5)), ServiceAccount: text("account", r.IntN(9)),
		Audiences: [][]byte{[]byte("https://kubernetes.default.svc.cluster.local")}, Expires: from + r.Int64N(4000),
	}
	if r.IntN(3) == 0 {
		t.Audiences = [][]byte{[]byte("a"), []byte("b")}
	}
	if i := r.IntN(5); i < 4 {
		n := r.IntN(200)
		t.Kind, t.Name = kindNames[1+i%3], text("web-5d78c9869d-", n)
		t.UID = fmt.Appendf(nil, "3b2a06d5-6c3f-4d10-a0b0-%012x", n)
	}
	switch r.IntN(40) {
	case 0:
		t.UID = []byte("no UID of the usual form")
	case 1:
		t.Name = bytes.Repeat([]byte("x"), 253)
	case 2:
		t.Audiences = [][]byte{bytes.Repeat([]byte("y"), maxText)}
	case 3:
		t.Namespace, t.ServiceAccount = nil, nil
	case 4:
		t.Partial = true
	case 5:
		t.Audiences = nil
	}
	if t.Kind == "" {
		t.Name, t.UID = nil, nil
	}
	return t
}

func text(name string, i int) []byte { return fmt.Appendf(nil, "%s-%d", name, i) }

// TestMain lets the test binary be a process that notes until it is killed: see writer.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "-note" {
		if err := noteForever(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// noteForever notes random tokens, and writes the number of each after it.
func noteForever(path, seed string) error {
	n, err := strconv.ParseUint(seed, 10, 64)
	if err != nil {
		return err
	}
	l, err := Open(path, Options{})
	if err != nil {
		return err
	}
	for i := uint64(0); ; i++ {
		token := numbered(n, i)
		if err := l.Note(&token); err != nil {
			return err
		}
		if _, err := fmt.Println(i); err != nil {
			return err
		}
		if i%500 == 0 {
			if _, err := l.Tend(); err != nil {
				return err
			}
		}
	}
}

// numbered is a token of a process.
func numbered(seed, i uint64) Token {
	return random(rand.New(rand.NewPCG(seed, i)), time.Now().Add(24*time.Hour).Truncate(24*time.Hour).Unix())
}

// writer is a process that notes.
type writer struct {
	seed  uint64
	cmd   *exec.Cmd
	lines *bufio.Scanner
}

func startWriter(t *testing.T, path string, seed uint64) *writer {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-note", path, strconv.FormatUint(seed, 10))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return &writer{seed, cmd, bufio.NewScanner(out)}
}

// await reads until the process has noted so many tokens.
func (w *writer) await(t *testing.T, n int) (tokens []Token) {
	t.Helper()
	for len(tokens) < n && w.lines.Scan() {
		tokens = append(tokens, w.parse(t, w.lines.Text())...)
	}
	if len(tokens) < n {
		t.Fatalf("the process noted %d tokens and ended", len(tokens))
	}
	return tokens
}

// kill kills the process, and returns what it had noted since await.
func (w *writer) kill(t *testing.T) (tokens []Token) {
	t.Helper()
	if err := w.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for w.lines.Scan() {
		tokens = append(tokens, w.parse(t, w.lines.Text())...)
	}
	_ = w.cmd.Wait()
	return tokens
}

// parse returns no token of a line that was cut off.
func (w *writer) parse(t *testing.T, line string) []Token {
	t.Helper()
	i, err := strconv.ParseUint(strings.TrimSpace(line), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return []Token{numbered(w.seed, i)}
}
