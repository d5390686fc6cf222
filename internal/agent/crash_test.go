package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/rotation"
)

var errCrash = errors.New("crashed")

// crashAt makes the agent crash before its action number step, counted from 0, in the middle of it: a part of a new
// file is left. It calls at with the action, if there are so many.
func (n node) crashAt(step int, at func(Action)) node {
	i := 0
	n.fault = func(a Action) error {
		if i++; i <= step {
			return nil
		}
		if a.Content != nil {
			path := n.pathOf(File{a.File.Dir, "." + a.File.Name + ".ABCDEFGHIJKLMNOPQRSTUVWXYZ"})
			n.write(path, string(a.Content[:len(a.Content)/2]), 0o600)
		}
		at(a)
		return errCrash
	}
	return n
}

// changes are the steps of rotations, of conversions, and of a node that missed some.
var changes = []struct{ from, to rotation.Keys }{
	{files(1, 1), files(1, 1)},
	{files(1, 1), files(1, 1, 2)},
	{files(1, 1, 2), files(2, 1, 2)},
	{files(2, 1, 2), files(2, 2)},
	{files(1, 1), files(2, 2)},
	{files(1, 1), files(3, 3)},
	{files(1, 1, 2), files(4, 3, 4)},
	{external(1, 1), files(1, 1)},
	{external(2, 1, 2), files(2, 1, 2)},
	{external(1, 1), files(2, 2)},
}

func TestCrash(t *testing.T) {
	for _, c := range changes {
		t.Run(fmt.Sprintf("%v to %v", c.from, c.to), func(t *testing.T) {
			t.Parallel()
			steps := 0
			for crashed := true; crashed; steps++ {
				crashed = crash(t, steps, c.from, c.to)
			}
			if steps < 3 {
				t.Errorf("only %d steps", steps)
			}
		})
	}
}

// startAt returns a node that has keys, settled.
func startAt(t *testing.T, k rotation.Keys) node {
	n := newNode(t, k.Sign, k.Verify...)
	if k.External {
		stop := n.startSigner(k)
		n.settled(k)
		stop()
	}
	return n
}

// crash crashes in one step of a change, wants a kube-apiserver that anybody restarts then to be right, and wants the
// next order to finish.
func crash(t *testing.T, step int, from, to rotation.Keys) (crashed bool) {
	n := startAt(t, from)
	o := n.order(to, RestartMark(to, 2))
	r := n.crashAt(step, func(next Action) {
		crashed = true
		checkBetween(n, next, from, to)
	}).Apply(t.Context(), o)
	if crashed != (r.Answer == Failed) {
		t.Errorf("step %d: %s %s", step, r.Answer, r.Message)
	}
	n.apply(o, Done)
	n.wantKeys(to)
	n.apply(n.settle(RestartMark(to, 2)), Done)
	n.apply(n.settle(RestartMark(to, 2)), Done)
	n.wantKeys(to)
	wantNoRests(n, to)
	return crashed
}

// checkBetween wants a restart at this moment to be right.
func checkBetween(n node, next Action, from, to rotation.Keys) {
	n.t.Helper()
	got := n.restart()
	if got.signs != from.Sign && got.signs != to.Sign {
		n.t.Errorf("before %v it would sign with %d", next, got.signs)
	}
	for _, version := range append([]int{got.signs}, from.Verify...) {
		if !slices.Contains(got.accepts, version) && (version == got.signs || slices.Contains(to.Verify, version)) {
			n.t.Errorf("before %v it would accept %v and sign with %d", next, got.accepts, got.signs)
		}
	}
	if !n.firstBlock() && next.File != (File{PKI, privateFile}) {
		n.t.Errorf("before %v the first key of sa.pub is not that of sa.key", next)
	}
}

// wantNoRests wants nothing to be left of a change, and no private key but the one that signs.
func wantNoRests(n node, to rotation.Keys) {
	n.t.Helper()
	for name, content := range snapshot(n.t, filepath.Dir(n.PKI)) {
		base := filepath.Base(name)
		if strings.HasPrefix(base, ".") && !strings.Contains(name, "/keys/") || base == undoFile {
			n.t.Errorf("%s is left", name)
		}
		for version, k := range testKeys {
			if version != to.Sign && strings.Contains(content, k.private) && !to.External {
				n.t.Errorf("%s holds private key %d", name, version)
			}
		}
	}
}

// TestCrashOfConversion crashes in one step of a conversion to a signer, before its pod is there and after.
func TestCrashOfConversion(t *testing.T) {
	to := external(1, 1)
	for step, crashed := 0, true; crashed; step++ {
		crashed = false
		n := newNode(t, 1, 1)
		check := func(next Action) {
			crashed = true
			if got := n.restart(); got.external || got.signs != 1 {
				t.Errorf("before %v it would have %+v", next, got)
			}
		}
		n.crashAt(step, check).Apply(t.Context(), n.order(to, RestartMark(to, 1)))
		stop := n.startSigner(to)
		if !crashed {
			// The manifest of kube-apiserver is the only step that is left.
			n.crashAt(0, check).Apply(t.Context(), n.order(to, RestartMark(to, 1)))
			crashed = false
		}
		n.settled(to)
		n.wantKeys(to)
		stop()
	}
}

// TestUndoOfConversion puts back a kube-apiserver that did not become ready with its signer.
func TestUndoOfConversion(t *testing.T) {
	n := newNode(t, 1, 1)
	before := snapshot(t, n.dir())
	stop := n.startSigner(external(1, 1))
	n.apply(n.order(external(1, 1), RestartMark(external(1, 1), 1)), Done)
	n.apply(n.do(Undo), Done)
	n.wantKeys(files(1, 1))
	n.apply(n.do(Settle), Done)
	stop()
	must(t, os.RemoveAll(n.Paths().SignerDir)) // the signer's own files
	after := snapshot(t, n.dir())
	for name, content := range before {
		if after[name] != content {
			t.Errorf("%s is not as before:\n%s", name, after[name])
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files, before %d", len(after), len(before))
	}
}

// TestCrashOfUndo crashes in one step of putting back a change, and wants the next undo to finish.
func TestCrashOfUndo(t *testing.T) {
	for _, c := range changes {
		t.Run(fmt.Sprintf("%v to %v", c.from, c.to), func(t *testing.T) {
			t.Parallel()
			for step, crashed := 0, true; crashed; step++ {
				crashed = crashUndo(t, step, c.from, c.to)
			}
		})
	}
}

func crashUndo(t *testing.T, step int, from, to rotation.Keys) (crashed bool) {
	n := startAt(t, from)
	before := snapshot(t, filepath.Dir(n.PKI))
	n.apply(n.order(to, RestartMark(to, 2)), Done)
	r := n.crashAt(step, func(next Action) {
		crashed = true
		checkBetween(n, next, to, from)
	}).Apply(t.Context(), n.do(Undo))
	if crashed != (r.Answer == Failed) {
		t.Errorf("step %d: %s %s", step, r.Answer, r.Message)
	}
	if r := n.apply(n.do(Undo), Done); r.Found.Change != Undone {
		t.Errorf("the change is %q", r.Found.Change)
	}
	n.wantKeys(from)
	n.apply(n.order(to, RestartMark(to, 2)), ChangeUndone)
	n.apply(n.do(Settle), Done)
	after := snapshot(t, filepath.Dir(n.PKI))
	for name, content := range before {
		if after[name] != content {
			t.Errorf("%s is not as before:\n%s", name, after[name])
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files, before %d", len(after), len(before))
	}
	n.apply(n.order(to, RestartMark(to, 3)), Done)
	n.wantKeys(to)
	return crashed
}
