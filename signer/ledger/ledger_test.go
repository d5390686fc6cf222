package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/lockfile/locktest"
)

func TestReportIsExact(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	r := rand.New(rand.NewPCG(1, 1))
	want := map[string]int64{}
	for range 200 {
		token := random(r, start)
		w.note(l, token)
		keys := covers(token)
		key := keys[0]
		switch {
		case len(token.Namespace) == 0:
			key = keys[3]
		case len(token.Audiences) > 0 && len(token.Audiences[0]) == maxText:
			key = keys[2]
		case token.Partial:
			key = keys[1]
		}
		want[key] = max(want[key], token.Expires)
	}
	got := map[string]int64{}
	for _, e := range w.read().Entries {
		got[keyOf(e)] = e.Expires.Unix()
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	stats, err := l.Tend()
	if err != nil || stats.Entries != len(want) {
		t.Errorf("%d entries are counted, %v; want %d", stats.Entries, err, len(want))
	}
}

func TestModeAndNoFile(t *testing.T) {
	w := newWorld(t)
	if _, err := Read(w.path, w.now()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading no file: %v", err)
	}
	w.open()
	if err := os.Chmod(w.path, 0o644); err != nil {
		t.Fatal(err)
	}
	w.open()
	if info, err := os.Stat(w.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
}

// TestBeginsWhileAnotherUserLocks has a user of the host lock the directory, which he can read.
func TestBeginsWhileAnotherUserLocks(t *testing.T) {
	w := newWorld(t)
	dir := locktest.Dir(t)
	w.path = filepath.Join(dir, "ledger")
	locktest.LockAsNobody(t, dir)
	w.open()
	locktest.CannotOpen(t, w.path)
}

// TestFull notes far more than there is room for: entries become coarse, and never claim less than there is.
func TestFull(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	r := rand.New(rand.NewPCG(2, 1))
	for i := range 5000 {
		token := random(r, start+10_000)
		token.Name = fmt.Appendf(nil, "pod-%d", i)
		token.Namespace = text("ns", i/20)
		w.note(l, token)
	}
	report := w.wantAll()
	levels := map[string]int{}
	for _, e := range report.Entries {
		switch {
		case !e.Coarse:
			levels["fine"]++
		case e.ServiceAccount != "":
			levels["account"]++
		case e.Namespace != "":
			levels["namespace"]++
		default:
			levels["key"]++
		}
	}
	if levels["fine"] == 0 || levels["account"] == 0 || levels["namespace"] == 0 || levels["key"] == 0 {
		t.Errorf("the levels of entries are %v", levels)
	}
	stats, err := l.Tend()
	if err != nil || stats.Coarse == 0 || stats.Entries != len(report.Entries) {
		t.Errorf("%+v, %v for %d entries", stats, err, len(report.Entries))
	}
}

// TestExpiry has the cells of dead tokens be used again, and none before that.
func TestExpiry(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	r := rand.New(rand.NewPCG(3, 1))
	for round := range 40 {
		for i := range 100 {
			token := random(r, w.now().Unix())
			token.Name = fmt.Appendf(nil, "pod-%d-%d", round, i)
			w.note(l, token)
		}
		w.pass(10 * time.Minute)
		w.wantAll()
		if _, err := l.Tend(); err != nil {
			t.Fatal(err)
		}
	}
	w.pass(3 * time.Hour)
	if stats, err := l.Tend(); err != nil || stats.Entries != 0 || len(stats.Expires) != 0 || len(w.read().Entries) != 0 {
		t.Errorf("at the end %+v, %v; read %+v", stats, err, w.read())
	}
	for i := range cells / 4 {
		w.note(l, Token{KeyID: "k", Namespace: text("n", 1), Kind: "Pod", Name: text("pod", i), Expires: w.now().Unix() + 60})
	}
	for _, e := range w.wantAll().Entries {
		if e.Coarse {
			t.Fatal("the ledger is full of dead entries")
		}
	}
}

// TestManyKeys has more keys than there are rows.
func TestManyKeys(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	for i := range 2 * keyRows {
		w.note(l, Token{KeyID: fmt.Sprint("key-", i), Namespace: text("n", 1), Expires: start + 60 + int64(i)})
	}
	w.note(l, Token{KeyID: strings.Repeat("k", 100), Namespace: text("n", 1), Expires: start + 500})
	w.wantAll()
	if stats, err := l.Tend(); err != nil || stats.Entries != keyRows+1 || stats.Coarse != 1 ||
		len(stats.Expires) != keyRows {
		t.Errorf("%+v, %v", stats, err)
	}
}

// TestClockThatJumps sets the clock ahead and back. What lives by the right clock is kept.
func TestClockThatJumps(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	opened := l.opened
	for i := range 200 {
		w.note(l, Token{KeyID: "k", Namespace: text("n", 1), Kind: "Pod", Name: text("early", i), Expires: start + 3600})
	}
	// The monotonic clock, which reusable goes by too, stays where it is.
	l.now = func() time.Time { return w.now() }
	l.opened = opened.Add(48 * time.Hour)
	w.pass(48 * time.Hour)
	if at := l.reusable(); at > start+48*3600 {
		t.Errorf("cells are reusable that were dead at %d", at)
	}
	l.now, l.opened = time.Now, time.Now()
	ahead := time.Now().Round(0).Add(48 * time.Hour)
	if at := l.reusable(); at > uint64(ahead.Unix()) {
		t.Errorf("cells are reusable that were dead at %d", at)
	}
}

// TestConcurrentUse notes by two ledgers of one file, as at a hand-over, while time passes and others read.
func TestConcurrentUse(t *testing.T) {
	w := newWorld(t)
	ledgers := []*Ledger{w.open(), w.open()}
	var noting, others sync.WaitGroup
	var over atomic.Bool
	for i := range 8 {
		noting.Go(func() {
			r := rand.New(rand.NewPCG(4, uint64(i)))
			for range 1500 {
				w.note(ledgers[i%2], random(r, w.now().Unix()))
			}
		})
	}
	for _, l := range ledgers {
		others.Go(func() {
			for !over.Load() {
				if _, err := l.Tend(); err != nil {
					t.Error(err)
				}
				w.pass(time.Second)
			}
		})
	}
	others.Go(func() {
		for !over.Load() {
			w.mu.Lock()
			noted, now := slices.Clone(w.noted), w.time
			w.mu.Unlock()
			r, err := read(w.path, now, w.env)
			if err != nil {
				t.Error(err)
				return
			}
			wantCovered(t, r, noted, w.now())
		}
	})
	noting.Wait()
	over.Store(true)
	others.Wait()
	w.wantAll()
}

// TestKills kills processes that note, two at a time, at any moment. Nothing that they had noted is lost.
func TestKills(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger")
	var noted []Token
	for seed := uint64(1); seed < 16; seed += 2 {
		one, two := startWriter(t, path, seed), startWriter(t, path, seed+1)
		noted = append(noted, one.await(t, int(50*seed))...)
		noted = append(noted, two.await(t, 50)...)
		noted = append(noted, one.kill(t)...)
		noted = append(noted, two.kill(t)...)
		r, err := Read(path, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		wantCovered(t, r, noted, time.Now())
	}
	l, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range l.table.used() {
		if l.table.cell(i).state().kind() == stateWriting {
			t.Error("a cell that nobody writes is not free")
		}
	}
}

// TestFilesThatCannotBeTrusted has a new ledger begin, from later on, and nobody believe the old one.
func TestFilesThatCannotBeTrusted(t *testing.T) {
	for name, test := range map[string]struct {
		spoil  func(*testing.T, *world, *Ledger)
		reason string
	}{
		"the machine stopped": {func(_ *testing.T, w *world, _ *Ledger) { w.boot = 2 }, "the machine stopped"},
		"a copy": {func(t *testing.T, w *world, _ *Ledger) {
			raw, err := os.ReadFile(w.path)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(w.path, w.path+".old"); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(w.path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "it is a copy"},
		"another version": {func(_ *testing.T, _ *world, l *Ledger) { l.table.head(headMagic).Add(1) }, "another version"},
		"another size": {func(t *testing.T, w *world, _ *Ledger) {
			if err := os.Truncate(w.path, 100); err != nil {
				t.Fatal(err)
			}
		}, "not a file of the size"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			l := w.open()
			w.note(l, Token{KeyID: "k", Namespace: text("n", 1), Expires: start + 3600})
			test.spoil(t, w, l)
			if _, err := read(w.path, w.now(), w.env); err == nil {
				t.Error("it is believed")
			}
			w.pass(time.Hour)
			w.open()
			if r := w.read(); len(r.Entries) > 0 || !r.Since.After(w.now().Add(time.Minute)) {
				t.Errorf("the new ledger is %+v", r)
			}
			if !strings.Contains(w.log.String(), test.reason) {
				t.Errorf("the log does not tell of it: %s", w.log.String())
			}
		})
	}
}

// TestOrderlyStop stops and starts the machine in order: the ledger goes on.
func TestOrderlyStop(t *testing.T) {
	w := newWorld(t)
	one, two := w.open(), w.open()
	since := w.read().Since
	w.note(one, Token{KeyID: "k", Namespace: text("n", 1), Expires: start + 3600})
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if two.table.head(headClean).Load() != 0 {
		t.Error("the file passes for whole while another ledger is open")
	}
	if err := two.Close(); err != nil {
		t.Fatal(err)
	}
	if err := two.Note(&Token{KeyID: "k"}); !errors.Is(err, ErrBroken) {
		t.Errorf("noting after the end: %v", err)
	}
	w.boot = 2
	w.wantAll()
	l := w.open()
	if r := w.wantAll(); !r.Since.Equal(since) || l.table.head(headClean).Load() != 0 {
		t.Errorf("since %v, and was since %v", r.Since, since)
	}
	w.boot = 3 // and in disorder
	if _, err := read(w.path, w.now(), w.env); err == nil {
		t.Error("it is believed after a disorderly stop")
	}
}

// TestTruncatedUnderIt takes the file's memory away while it is open.
func TestTruncatedUnderIt(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	if err := os.Truncate(w.path, 0); err != nil {
		t.Fatal(err)
	}
	if err := l.Note(&Token{KeyID: "k", Expires: start}); !errors.Is(err, ErrBroken) {
		t.Errorf("noting: %v", err)
	}
	if _, err := l.Tend(); !errors.Is(err, ErrBroken) {
		t.Errorf("tending: %v", err)
	}
}

// TestReplacedUnderIt has another file at the path.
func TestReplacedUnderIt(t *testing.T) {
	w := newWorld(t)
	l := w.open()
	if err := Remove(w.path); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Tend(); !errors.Is(err, ErrBroken) {
		t.Errorf("tending without a file: %v", err)
	}
	w.open()
	if _, err := l.Tend(); !errors.Is(err, ErrBroken) {
		t.Errorf("tending beside another file: %v", err)
	}
}

// TestDamage spoils cells. What cannot be read is coarse, and nothing makes Read fail or end.
func TestDamage(t *testing.T) {
	for seed := range uint64(50) {
		w := newWorld(t)
		l := w.open()
		r := rand.New(rand.NewPCG(5, seed))
		for range 100 {
			w.note(l, random(r, start+10))
		}
		for range 20 {
			s := l.table.cell(r.IntN(l.table.used()))
			s.words[1+r.IntN(cellWords-1)].Store(r.Uint64() & -(r.Uint64() & 1))
		}
		w.read()
	}
}

// TestUID reads and writes UIDs.
func TestUID(t *testing.T) {
	const usual = "3b2a06d5-6c3f-4d10-a0b0-a0f6f3f3b2a0"
	if uid, ok := parseUID([]byte(usual)); !ok || formatUID(uid) != usual {
		t.Errorf("%s is read as %s, %t", usual, formatUID(uid), ok)
	}
	for _, other := range []string{
		"", strings.ToUpper(usual), usual[1:], strings.Replace(usual, "-", "0", 1), usual[:35] + "g",
	} {
		if _, ok := parseUID([]byte(other)); ok {
			t.Errorf("%q passes for a UID of the usual form", other)
		}
	}
}
