package signer

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/lockfile/locktest"
	"github.com/keyturn/keyturn/jwks"
)

// TestSignsOnlyWhatWasServed goes through a rotation.
func TestSignsOnlyWhatWasServed(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.wantSigner(0, "before the first fetch")
	w.fetch()
	w.wantSigner(1, "after it")
	w.write(1, 1, 2)
	w.wantSigner(1, "published")
	w.write(2, 1, 2)
	w.wantSigner(1, "switched, but version 2 was not fetched")
	w.uptime += 48 * time.Hour
	w.wantSigner(1, "long after that")
	w.fetch()
	w.wantSigner(2, "switched and fetched")
	w.write(2, 2)
	w.wantSigner(2, "retired")
	w.write(3, 3)
	w.wantSigner(0, "replaced by a key that was not fetched")
	w.fetch()
	w.wantSigner(3, "replaced and fetched")
}

func TestPreviousGoesOn(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1, 2)
	w.start()
	w.fetch()
	w.wantSigner(1, "at the start")
	w.write(3, 1, 2, 3)
	w.wantSigner(1, "version 2 was fetched too and is newer, but it is not the one that signed")
}

// TestWantedGoesFirst names an older key as the signing one, which was fetched long ago.
func TestWantedGoesFirst(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(2, 1, 2)
	w.start()
	w.fetch()
	w.wantSigner(2, "at the start")
	w.write(1, 1, 2)
	w.wantSigner(1, "the older key is wanted")
}

func TestNeverSignsVerifyOnly(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	old := w.keys[1]
	old.VerifyOnly = true
	w.keys[1] = old
	w.write(2, 1, 2)
	w.wantSigner(0, "the old key is verify-only, and the new one was not fetched")
	w.fetch()
	w.wantSigner(2, "fetched")
}

// TestKeyThatComesBackIsNew takes a key away, so that a fetch in the meantime takes it from the API server, and puts it
// back.
func TestKeyThatComesBackIsNew(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1, 2)
	w.start()
	w.fetch()
	w.write(1, 1)
	w.fetch()
	w.write(2, 1, 2)
	w.wantSigner(1, "version 2 has come back")
	w.fetch()
	w.wantSigner(2, "fetched again")
}

// TestExcludedKeyIsNewInDiscovery: the API server refuses signatures of a key that it was given as excluded.
func TestExcludedKeyIsNewInDiscovery(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	plain, excluded := w.keys[2], w.keys[2]
	excluded.VerifyOnly, excluded.ExcludeFromOIDCDiscovery = true, true
	w.keys[2] = excluded
	w.write(1, 1, 2)
	w.start()
	w.fetch()
	w.keys[2] = plain
	w.write(2, 1, 2)
	w.wantSigner(1, "version 2 was fetched, but as excluded")
	w.fetch()
	w.wantSigner(2, "fetched again")
}

func TestLeadIn(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	w.set.LeadIn = 30 * time.Second
	w.write(2, 1, 2)
	w.wantSigner(0, "version 1 was served just now")
	w.uptime += 29 * time.Second
	w.fetch()
	w.wantSigner(0, "after 29 s of 30")
	w.now = w.now.Add(48 * time.Hour) // somebody sets the clock
	w.wantSigner(0, "the clock was set")
	w.uptime += time.Second
	w.wantSigner(1, "version 1 was served for 30 s, version 2 for 1 s")
	w.fetch() // once more does not start it again
	w.uptime += 29 * time.Second
	w.wantSigner(2, "version 2 was served for 30 s")
}

// TestServedOutlivesProcess restarts signers whose API server does not fetch again.
func TestServedOutlivesProcess(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	if w.logged(`"level":"ERROR"`) > 0 {
		t.Errorf("errors are logged at the first start: %s", w.log.String())
	}
	w.start()
	w.wantSigner(1, "restarted")
	w.write(2, 1, 2)
	w.start()
	w.wantSigner(1, "restarted with a key that was not fetched")
	w.now = w.now.Add(-48 * time.Hour)
	w.fetch()
	w.now = w.now.Add(96 * time.Hour)
	w.start()
	w.wantSigner(2, "restarted after that, with the clock stepped back and forth")
	info, err := os.Stat(w.stateFile())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state file: %v, %v", info.Mode(), err)
	}
}

// TestServedInHandOver fetches from the process that hands over, after the next one has read which keys were served.
// The next key set comes before the next process has read that again.
func TestServedInHandOver(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	old := w.client
	w.write(1, 1, 2)
	w.start()
	if _, err := old.FetchKeys(t.Context(), &externaljwt.FetchKeysRequest{}); err != nil {
		t.Fatal(err)
	}
	w.write(2, 1, 2)
	w.wantSigner(2, "version 2 was fetched from the process before")
	w.start()
	w.wantSigner(2, "started again")
}

// TestSaveKeepsWhatOthersServed saves by two processes, of which each has served another key.
func TestSaveKeepsWhatOthersServed(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1, 2)
	w.start()
	earlier := w.signer
	w.start()
	for i, s := range []*Signer{earlier, w.signer} {
		set := s.set.Load()
		set.keys[i].served.note(w.uptime)
		s.saveServed(set)
	}
	w.start()
	for _, k := range w.signer.set.Load().keys {
		if k.served.Load() == nil {
			t.Errorf("version %d was served, and that is lost", k.version)
		}
	}
}

// TestOldVersionServedLater fetches a version that is older than all that were served, and restarts the signer.
func TestOldVersionServedLater(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(2, 2)
	w.start()
	w.fetch()
	w.write(2, 1, 2)
	w.fetch()
	w.start()
	w.write(1, 1, 2)
	w.wantSigner(1, "restarted, and version 1 was fetched before")
}

// TestOrderOfCandidates wants the key that signs to go on until the wanted one may, and not a third one to start.
func TestOrderOfCandidates(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	w.write(2, 1, 2) // version 2 is not fetched
	w.write(3, 1, 2, 3)
	var order []int
	for _, k := range w.signer.set.Load().candidates {
		order = append(order, k.version)
	}
	if !slices.Equal(order, []int{3, 1, 2}) {
		t.Errorf("the candidates are %v, want the wanted version 3, then version 1, which signs", order)
	}
}

func TestStateFileThatCannotBeRead(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	if err := os.Mkdir(w.stateFile(), 0o700); err != nil {
		t.Fatal(err)
	}
	w.start()
	if w.logged(w.stateFile()+": is a directory") != 1 {
		t.Errorf("the log does not say why the state file cannot be read: %s", w.log.String())
	}
	w.wantSigner(0, "nothing is known of what was served")
	w.fetch()
	w.wantSigner(1, "fetched")
}

func TestServedOfAnotherBootDoesNotCount(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	w.fetch()
	raw, err := os.ReadFile(w.stateFile())
	if err != nil {
		t.Fatal(err)
	}
	boot, err := bootID()
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"another boot": strings.Replace(string(raw), boot, "another", 1), "half": string(raw[:len(raw)/2]), "empty": "",
	} {
		if err := os.WriteFile(w.stateFile(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		w.log.Reset()
		w.start()
		w.wantSigner(0, name)
		if n := w.logged("cannot read which keys were served before"); (n == 0) != (name == "another boot") {
			t.Errorf("%s: %d lines of log about the state file", name, n)
		}
	}
}

// TestServedAsExcludedDoesNotCount restarts a signer that served a key as excluded, with the key no longer excluded.
func TestServedAsExcludedDoesNotCount(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	plain, excluded := w.keys[2], w.keys[2]
	excluded.VerifyOnly, excluded.ExcludeFromOIDCDiscovery = true, true
	w.keys[2] = excluded
	w.write(1, 1, 2)
	w.start()
	w.fetch()
	w.keys[2] = plain
	// so that the signer that runs does not save what it knows of the next set
	if err := os.RemoveAll(w.keyDir()); err != nil {
		t.Fatal(err)
	}
	w.signer = nil
	w.write(2, 1, 2)
	w.start()
	w.wantSigner(1, "restarted")
	w.fetch()
	w.wantSigner(2, "fetched again")
}

// TestServedWhileAnotherUserLocks has a user of the host lock the directory of the state file, which he can read.
func TestServedWhileAnotherUserLocks(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.dir = locktest.Dir(t)
	locktest.LockAsNobody(t, w.dir)
	w.write(1, 1)
	w.start()
	w.fetch()
	w.start()
	w.wantSigner(1, "restarted after the first fetch")
}

// TestWithoutStateFile restarts a signer that keeps nothing.
func TestWithoutStateFile(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.noState = true
	w.write(1, 1)
	w.start()
	w.fetch()
	w.wantSigner(1, "fetched")
	w.start()
	w.wantSigner(0, "restarted")
	if w.logged(`"level":"ERROR"`) > 0 {
		t.Errorf("errors are logged: %s", w.log.String())
	}
}

// TestServedInTheFuture starts the lead-in again for a time that the boot clock has not come to.
func TestServedInTheFuture(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.set.LeadIn = 10 * time.Second
	w.write(1, 1)
	w.start()
	w.uptime += time.Hour
	w.fetch()
	w.uptime -= time.Hour
	w.start()
	w.wantSigner(0, "served in the future")
	w.uptime += 10 * time.Second
	w.wantSigner(1, "a lead-in later")
}
