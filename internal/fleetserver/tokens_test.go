package fleetserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// filling is a table of access tokens at a time that the test sets.
type filling struct {
	*testing.T
	*tokens
	at time.Time
}

func newFilling(t *testing.T) *filling {
	t.Helper()
	f := &filling{T: t, at: time.Unix(1_800_000_000, 0)}
	var err error
	if f.tokens, err = openTokens(filepath.Join(t.TempDir(), "tokens"), func() time.Time { return f.at }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.close() })
	return f
}

func (f *filling) grant(membership, principal string) grant {
	return grant{
		principal: principal, scope: "s", membership: membership, account: membership == "", expires: f.at.Add(time.Hour),
	}
}

// fill issues tokens until no more are given, and returns how many there were.
func (f *filling) fill(g grant) int {
	f.Helper()
	for n := 0; ; n++ {
		switch _, _, err := f.issue(g, fmt.Sprint(g.membership, g.principal, n, f.at)); {
		case errors.Is(err, errTooManyTokens):
			return n
		case err != nil:
			f.Fatal(err)
		}
	}
}

// wantRoom wants one more token to be given, or not.
func (f *filling) wantRoom(what string, g grant, room bool) {
	f.Helper()
	if _, _, err := f.issue(g, what); errors.Is(err, errTooManyTokens) == room {
		f.Errorf("%s: %v, want room: %v", what, err, room)
	}
}

// TestSharesOfTokens has one pod, and then one cluster, that takes all that it gets: nobody else is refused for it.
func TestSharesOfTokens(t *testing.T) {
	f := newFilling(t)
	if n := f.fill(f.grant("m", "pod")); n != maxPerPrincipal {
		t.Errorf("one principal got %d tokens, want %d", n, maxPerPrincipal)
	}
	f.wantRoom("another pod", f.grant("m", "other"), true)
	f.wantRoom("its name in another cluster", f.grant("n", "pod"), true)
	f.wantRoom("a registrar", f.grant("", "register"), true)
	for i := range maxPerMembership / maxPerPrincipal {
		f.fill(f.grant("m", fmt.Sprint("pod ", i)))
	}
	f.wantRoom("a cluster that has taken its share", f.grant("m", "last"), false)
	f.wantRoom("another cluster", f.grant("n", "other"), true)
	f.at = f.at.Add(time.Hour)
	f.wantRoom("after they expired", f.grant("m", "pod"), true)
	if len(f.live) != 1 || len(f.answers) != 1 {
		t.Errorf("%d access tokens and %d answers are in memory, want one of each", len(f.live), len(f.answers))
	}
}

// TestFullTable has many clusters fill the table: registrars still get tokens, and no refusal writes the file.
func TestFullTable(t *testing.T) {
	f := newFilling(t)
	for m := range maxTokens / maxPerMembership {
		for p := range maxPerMembership / maxPerPrincipal {
			f.fill(f.grant(fmt.Sprint("m", m), fmt.Sprint("pod ", p)))
		}
	}
	if n := len(f.live); n != maxTokens-reserved {
		t.Errorf("%d tokens are good, want %d", n, maxTokens-reserved)
	}
	before, err := os.Stat(f.path)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		f.at = f.at.Add(2 * time.Second)
		f.wantRoom("a cluster", f.grant("new", "pod"), false)
	}
	after, err := os.Stat(f.path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) || after.Size() != before.Size() {
		t.Error("refusing tokens wrote the file")
	}
	f.wantRoom("a registrar", f.grant("", "register"), true)

	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	if f.tokens, err = openTokens(f.path, func() time.Time { return f.at }); err != nil {
		t.Fatal(err)
	}
	f.wantRoom("a cluster, after a restart", f.grant("new", "pod"), false)
	f.wantRoom("a registrar, after a restart", f.grant("", "register"), true)
}
