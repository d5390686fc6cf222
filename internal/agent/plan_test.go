package agent

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/lockfile/locktest"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
)

// wantUnchanged carries out an order that is refused, and wants nothing to be written.
func (n node) wantUnchanged(o Order, want Answer) Report {
	n.t.Helper()
	before := snapshot(n.t, n.dir())
	r := n.apply(o, want)
	after := snapshot(n.t, n.dir())
	for name, content := range after {
		if before[name] != content {
			n.t.Errorf("%s was written", name)
		}
	}
	if len(after) != len(before) || len(r.Did) > 0 {
		n.t.Errorf("%d files, before %d; it did %q", len(after), len(before), r.Did)
	}
	return r
}

func (n node) dir() string { return strings.TrimSuffix(n.PKI, "/pki") }

// TestStale refuses every order of an earlier stage, also on a node that has no record of its own yet.
func TestStale(t *testing.T) {
	steps := []rotation.Keys{
		files(1, 1), files(1, 1, 2), files(2, 1, 2), files(2, 2), files(2, 2, 3), files(3, 2, 3), files(3, 3),
	}
	for i, held := range steps {
		for _, late := range steps[:i] {
			t.Run(fmt.Sprintf("%v to %v", held, late), func(t *testing.T) {
				n := newNode(t, held.Sign, held.Verify...)
				n.wantUnchanged(n.order(late, "late"), Stale)
			})
		}
	}
}

// TestStaleByRecord refuses a late order on a node whose files were put back by hand.
func TestStaleByRecord(t *testing.T) {
	n := newNode(t, 1, 1)
	n.settled(files(1, 1, 2))
	n.settled(files(2, 1, 2))
	n.write(n.PKI+"/sa.pub", testKeys[1].public, 0o600)
	n.write(n.PKI+"/sa.key", testKeys[1].private, 0o600)
	n.wantUnchanged(n.order(files(1, 1, 2), "late"), Stale)
	n.settled(files(2, 1, 2))
	n.wantKeys(files(2, 1, 2))
}

func TestUnknownKey(t *testing.T) {
	n := newNode(t, 1, 1)
	foreign := newKey(jwks.ES256)
	n.write(n.PKI+"/sa.pub", testKeys[1].public+foreign.public, 0o600)
	if r := n.wantUnchanged(n.order(files(1, 1, 2), "a"), Stale); !strings.Contains(r.Message, foreign.kid) {
		t.Errorf("the message is %q", r.Message)
	}
	o := n.order(files(1, 1, 2), "a")
	o.Foreign = []string{foreign.public}
	if r := n.apply(o, Done); !slices.Equal(r.Found.Public, []string{testKeys[1].kid, testKeys[2].kid, foreign.kid}) {
		t.Errorf("sa.pub has %q", r.Found.Public)
	}
	n.apply(n.settle("a"), Done)
	o = n.order(files(1, 1, 2), "b")
	o.Retired = []string{foreign.kid} // the user has released it
	if r := n.apply(o, Done); len(r.Found.Public) != 2 {
		t.Errorf("sa.pub has %q", r.Found.Public)
	}
	n.apply(n.settle("b"), Done)
	o = n.order(external(1, 1, 2), "c")
	o.Foreign = []string{foreign.public}
	if r := n.wantUnchanged(o, Failed); !strings.Contains(r.Message, "to accept the foreign keys "+foreign.kid) {
		t.Errorf("the message is %q", r.Message)
	}
}

// TestKeep keeps a key in sa.pub that no API server was seen to accept, with files and with a signer, and refuses an
// order that knows the key of sa.key only as such a one: it may be of a later version.
func TestKeep(t *testing.T) {
	n := newNode(t, 1, 1)
	other := newKey(jwks.ES256)
	n.write(n.PKI+"/sa.pub", testKeys[1].public+other.public, 0o600)
	o := n.order(files(1, 1, 2), "a")
	o.Keep = []string{other.kid, "of no key that is there"}
	if r := n.apply(o, Done); !slices.Equal(r.Found.Public, []string{testKeys[1].kid, testKeys[2].kid, other.kid}) {
		t.Errorf("sa.pub has %q", r.Found.Public)
	}
	n.apply(n.settle("a"), Done)
	n.write(n.PKI+"/sa.key", other.private, 0o600)
	o = n.order(files(2, 1, 2), "b")
	o.Keep = []string{other.kid}
	n.wantUnchanged(o, Stale)
	o.Keep, o.Retired = nil, []string{other.kid}
	n.apply(o, Done)
	n.wantKeys(files(2, 1, 2))
}

// TestForeignPrivateKey replaces a sa.key whose public key is not in sa.pub, once its owner has released it.
func TestForeignPrivateKey(t *testing.T) {
	n := newNode(t, 1, 1)
	other := newKey(jwks.ES256)
	n.write(n.PKI+"/sa.key", other.private, 0o600)
	o := n.order(files(1, 1, 2), "a")
	n.wantUnchanged(o, Stale)
	o.Retired = []string{other.kid}
	n.apply(o, Done)
	n.wantKeys(files(1, 1, 2))
}

func TestOwner(t *testing.T) {
	n := newNode(t, 1, 1)
	n.settled(files(1, 1, 2))
	other := n.order(files(1, 1, 2), "a")
	other.Cluster = "another"
	for i, v := range other.Versions { // sealed for that cluster
		sealed, err := Seal([]byte(testKeys[v.Version].private), n.Instance(), "another", v.Version)
		must(t, err)
		other.Versions[i].Private = sealed
	}
	if r := n.wantUnchanged(other, Owned); !strings.Contains(r.Message, cluster) {
		t.Errorf("the message is %q", r.Message)
	}
	n.apply(n.do(Release), Done)
	n.apply(other, Done)
}

func TestUnsettled(t *testing.T) {
	n := newNode(t, 1, 1)
	n.apply(n.order(files(1, 1, 2), "a"), Done)
	n.wantUnchanged(n.order(files(2, 1, 2), "b"), Unsettled)
	n.wantUnchanged(n.order(files(2, 1, 2), ""), Unsettled)
	n.wantUnchanged(n.do(Release), Unsettled)
	n.apply(n.settle("a"), Done)
	n.apply(n.order(files(2, 1, 2), "b"), Done)
}

// TestLateSettle refuses to settle a change that nobody has proven, as a controller asks for it that proved the one
// before, was paused, and goes on.
func TestLateSettle(t *testing.T) {
	n := newNode(t, 1, 1)
	n.settled(files(1, 1, 2))
	n.apply(n.order(files(2, 1, 2), "b"), Done)
	for _, late := range []string{RestartMark(files(1, 1, 2), 1), ""} {
		if r := n.wantUnchanged(n.settle(late), Unsettled); r.Found.Change != Pending {
			t.Errorf("the change is %q", r.Found.Change)
		}
	}
	n.apply(n.do(Undo), Done)
	n.wantUnchanged(n.settle("b"), ChangeUndone)
	n.wantKeys(files(1, 1, 2))
}

// Without Restart the files change, and nobody restarts kube-apiserver.
func TestNoRestart(t *testing.T) {
	n := newNode(t, 1, 1)
	manifest := n.read(n.Manifests + "/kube-apiserver.yaml")
	n.apply(n.order(files(1, 1, 2), ""), Done)
	n.wantKeys(files(1, 1, 2))
	if n.read(n.Manifests+"/kube-apiserver.yaml") != manifest {
		t.Error("the manifest changed")
	}
	// kubeadm has dropped the annotation: that says nothing about keys.
	n.settled(files(1, 1, 2))
	n.write(n.Manifests+"/kube-apiserver.yaml", manifest, 0o600)
	n.wantUnchanged(n.order(files(1, 1, 2), ""), Done)
}

// A manifest that somebody else wrote after the change is not put back by an undo.
func TestUndoAfterUpgrade(t *testing.T) {
	n := newNode(t, 1, 1, 2)
	n.apply(n.order(files(2, 1, 2), "a"), Done)
	upgraded := strings.ReplaceAll(n.read(n.Manifests+"/kube-apiserver.yaml"), "v1.36.4", "v1.36.5")
	n.write(n.Manifests+"/kube-apiserver.yaml", upgraded, 0o600)
	n.apply(n.do(Undo), Done)
	if n.read(n.Manifests+"/kube-apiserver.yaml") != upgraded {
		t.Error("the manifest of before the upgrade is back")
	}
	n.wantKeys(files(1, 1, 2))
}

// TestLeftovers reports copies of a key, and deletes those of a retired one, but no file that holds something else too.
func TestLeftovers(t *testing.T) {
	n := newNode(t, 1, 1)
	must(t, os.Mkdir(n.PKI+"/old", 0o700))
	n.write(n.PKI+"/sa.key.bak", testKeys[1].private, 0o600)
	n.write(n.PKI+"/old/sa.key", testKeys[1].private, 0o600)
	n.write(n.PKI+"/bundle.pem", testKeys[1].public+testKeys[1].private, 0o600)
	for _, k := range []rotation.Keys{files(1, 1, 2), files(2, 1, 2), files(2, 2)} {
		n.settled(k)
	}
	var paths []string
	o := n.do(Settle)
	o.Versions = n.order(files(2, 2), "").Versions
	for _, l := range n.apply(o, Done).Found.Leftovers {
		paths = append(paths, strings.TrimPrefix(l.Path, n.PKI))
	}
	if want := []string{"/bundle.pem", "/old/sa.key", "/sa.key.bak"}; !slices.Equal(paths, want) {
		t.Errorf("leftovers %q, want %q", paths, want)
	}
	o.Retired = []string{testKeys[1].kid}
	want := []Leftover{{n.PKI + "/bundle.pem", testKeys[1].kid}}
	if r := n.apply(o, Done); !slices.Equal(r.Found.Leftovers, want) {
		t.Errorf("leftovers %+v", r.Found.Leftovers)
	}
	n.read(n.PKI + "/ca.key")
	n.wantKeys(files(2, 2))
}

// Files keep the owner, group and mode that kubeadm gave them, as with RootlessControlPlane.
func TestOwnersOfFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	n := newNode(t, 1, 1, 2)
	must(t, os.Chown(n.PKI+"/sa.pub", 104, 107), os.Chmod(n.PKI+"/sa.pub", 0o600))
	must(t, os.Chown(n.PKI+"/sa.key", 0, 110), os.Chmod(n.PKI+"/sa.key", 0o640))
	n.settled(files(2, 1, 2))
	for name, want := range map[string]string{"sa.pub": "104:107 -rw-------", "sa.key": "0:110 -rw-r-----"} {
		info, err := os.Stat(n.PKI + "/" + name)
		must(t, err)
		owner := info.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%d:%d %v", owner.Uid, owner.Gid, info.Mode()); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestBadFiles(t *testing.T) {
	for name, c := range map[string]struct{ file, content, want string }{
		"no PEM": {"/pki/sa.pub", "x", "is not PEM"},
		"a certificate": {
			"/pki/sa.pub", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "PEM block 1",
		},
		"two private keys":   {"/pki/sa.key", testKeys[1].private + testKeys[2].private, "several private keys"},
		"no manifest":        {"/manifests/kube-apiserver.yaml", "", "it is missing or empty"},
		"a damaged record":   {"/keyturn/agent/configured.json", "{", "it is damaged"},
		"a damaged undo":     {"/keyturn/agent/undo.json", `{"before":{"0/../x":""}}`, "it is damaged"},
		"another key's file": {"/pki/sa.pub", testKeys[1].private, "PEM block 1"},
	} {
		n := newNode(t, 1, 1)
		must(t, os.MkdirAll(n.path(State), 0o700))
		n.write(n.dir()+c.file, c.content, 0o600)
		r := n.Apply(t.Context(), n.order(files(1, 1, 2), "a"))
		if r.Answer != Failed || !strings.Contains(r.Message, c.want) || len(r.Did) > 0 {
			t.Errorf("%s: %s %q, did %q", name, r.Answer, r.Message, r.Did)
		}
	}
}

// TestMissingFiles makes the files of a node that has none.
func TestMissingFiles(t *testing.T) {
	n := newNode(t, 1, 1)
	must(t, os.Remove(n.PKI+"/sa.pub"), os.Remove(n.PKI+"/sa.key"))
	if r := n.apply(n.do(Observe), Done); r.Found.Private != "" || len(r.Found.Public) != 0 {
		t.Errorf("found %+v", r.Found)
	}
	n.settled(files(1, 1, 2))
	n.wantKeys(files(1, 1, 2))
}

// TestWritesNothing wants nothing to be written by the orders that an adoption is made of.
func TestWritesNothing(t *testing.T) {
	n := newNode(t, 1, 1)
	o := n.do(Send)
	o.Recipient = n.Key.Public()
	for _, o := range []Order{n.do(Observe), o, n.do(Undo), n.do(Settle)} {
		n.wantUnchanged(o, Done)
	}
	if entries, err := os.ReadDir(n.StateDir); err != nil || len(entries) > 0 {
		t.Errorf("the state directory has %v, %v", entries, err)
	}
	must(t, os.Remove(n.PKI+"/sa.key"))
	n.wantUnchanged(o, Failed)
}

// TestReleaseOfNothing releases a node whose manifest the agent cannot edit, and on which it has only noted a turn.
func TestReleaseOfNothing(t *testing.T) {
	n := newNode(t, 1, 1)
	file := n.Manifests + "/kube-apiserver.yaml"
	flag := "    - --service-account-key-file=" + n.PKI
	n.write(file, strings.Replace(n.read(file), flag, flag+"/old.pub\n"+flag, 1), 0o600)
	n.apply(n.order(files(1, 1, 2), "a"), Failed)
	fence := n.do(Fence)
	fence.Turn = 1
	n.apply(fence, Done)
	n.apply(n.do(Release), Done)
	if left, err := os.ReadDir(n.path(State)); err != nil || len(left) > 0 {
		t.Errorf("the state directory has %v, %v", left, err)
	}
}

func TestBusy(t *testing.T) {
	n := newNode(t, 1, 1)
	n.settled(files(1, 1, 2))
	d, err := n.open()
	must(t, err)
	n.apply(n.do(Observe), Busy)
	must(t, d.close())
	n.apply(n.do(Observe), Done)
}

// TestBusyBeforeTheFirstChange has another order carried out between reading a new node and changing it.
func TestBusyBeforeTheFirstChange(t *testing.T) {
	n := newNode(t, 1, 1)
	d, err := n.open()
	must(t, err)
	var other dirs
	var did []string
	plan := func(Host) ([]Action, error) {
		must(t, n.makeDirs(&other))
		return []Action{{File: File{State, turnFile}, Content: []byte("{}")}}, nil
	}
	if _, err := n.converge(t.Context(), d, plan, &did); !errors.Is(err, atomicfile.ErrBusy) || did != nil {
		t.Errorf("while another order is carried out: %v, did %q", err, did)
	}
	must(t, d.close(), other.close())
}

// TestLockedByAnotherUser has a user of the host lock every directory that he can open.
func TestLockedByAnotherUser(t *testing.T) {
	n := newNode(t, 1, 1)
	must(t, os.Chmod(n.dir(), 0o755))
	for _, path := range []string{n.dir(), n.PKI, n.Manifests, n.StateDir} {
		locktest.LockAsNobody(t, path)
	}
	n.settled(files(1, 1, 2))
	locktest.CannotOpen(t, n.path(State))
}
