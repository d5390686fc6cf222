package kubeadm

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// foreignKey is a public key in PEM that is no version of ours, and its kid.
func foreignKey() (public []byte, kid string) {
	signer := must(token.GenerateKey(rand.Reader, jwks.ES256))
	return must(jwks.MarshalPublicKey(signer.Public())), must(jwks.KeyID(signer.Public()))
}

// blocked does rounds until the release of some keys is asked for, and some more.
func (w *testCluster) blocked(kids ...string) {
	w.t.Helper()
	ask := v1alpha1.AnnotationReleaseForeignKeys + "=" + strings.Join(kids, ",")
	asked := func() bool {
		d := w.round()
		first := w.uc.Spec.KSASigningKey.Version == 1 // beside it, foreign keys count as done
		return d.Blocked && !d.Settled && (!d.Done || first) && strings.HasSuffix(d.Waiting, ask)
	}
	w.until("a person to be asked for "+ask, asked)
	w.restarts()
	for range 40 {
		if w.check(); !asked() {
			w.t.Fatalf("it goes on:\n%s", strings.Join(w.log, "\n"))
		}
	}
	if r := w.restarts(); r[0]+r[1] > 0 {
		w.t.Errorf("API servers were restarted: %v", r)
	}
}

// addForeignKey adds a key to the files of a node, with which its API server starts again.
func (h *host) addForeignKey() (kid string) {
	public, kid := foreignKey()
	file := h.PKI + "/sa.pub"
	h.write(file, append([]byte(h.read(file)), public...))
	h.restart()
	return kid
}

// TestForeignKeyAfterRotation has somebody add a key to the files of a node when no rotation runs. It stays until it is
// released, and then one restart removes it.
func TestForeignKeyAfterRotation(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	w.settle()
	b := w.host("b")
	kid := b.addForeignKey()
	w.until("the key to be read", func() bool {
		w.round()
		return b.served.Keys.Len() == 2
	})
	w.blocked(kid)
	w.uc.Annotations = map[string]string{v1alpha1.AnnotationReleaseForeignKeys: kid}
	w.settle()
	w.have(2, false)
	if r := w.restarts(); r[0] != 0 || r[1] != 1 {
		t.Errorf("API servers were restarted: %v", r)
	}
}

// TestForeignKeyAndMissedManifest has the kubelet miss the change of the manifest that takes a foreign key away. The
// change is not settled while the old process goes on.
func TestForeignKeyAndMissedManifest(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	w.settle()
	a := w.host("a")
	kid := a.addForeignKey()
	w.blocked(kid)
	w.uc.Annotations = map[string]string{v1alpha1.AnnotationReleaseForeignKeys: kid}
	a.deaf = true
	for range 40 {
		if d := w.round(); d.Settled {
			t.Fatal("it is settled with the old process")
		}
	}
	w.clock = w.clock.Add(ignoredFor + 1)
	w.settle()
	w.have(2, false)
	if r := w.restarts(); r[0] != 1 || r[1] != 0 {
		t.Errorf("API servers were restarted: %v", r)
	}
}

// sources are both.
var sources = []v1alpha1.KeySource{v1alpha1.KeySourceFiles, v1alpha1.KeySourceExternal}

// TestBackWithForeignKey has a node come back after a rotation with its old key and a foreign one.
func TestBackWithForeignKey(t *testing.T) {
	for _, source := range sources {
		w := newTestCluster(t, "a", "b", "c")
		c := w.host("c")
		public, kid := foreignKey()
		w.rotateWithoutLast()
		w.uc.Spec.KSASigningKey.Source = source
		w.settle()
		c.write(c.PKI+"/sa.pub", append([]byte(c.read(c.PKI+"/sa.pub")), public...))
		w.comesBackWith(c, kid)
	}
}

// comesBackWith adds a node that came back after the rotation to version 2 with a key that its owner then releases.
func (w *testCluster) comesBackWith(h *host, kid string) {
	w.t.Helper()
	w.hosts, w.lagging = append(w.hosts, h), true
	w.blocked(kid)
	w.comesUp(h, 2)
	w.uc.Annotations = map[string]string{v1alpha1.AnnotationReleaseForeignKeys: kid}
	w.settle()
	w.have(2, w.uc.Spec.KSASigningKey.Source == v1alpha1.KeySourceExternal)
}

// comesUp wants a node to accept tokens of a version, which are in use.
func (w *testCluster) comesUp(h *host, version int) {
	w.t.Helper()
	for _, k := range w.keys() {
		if _, ok := h.served.Keys.Lookup(k.KeyID); k.Version == version && !ok {
			w.t.Errorf("the API server on %s refuses tokens of key version %d until somebody releases a key", h.name, version)
		}
	}
}

// TestForgottenRetiredKey has a node come back with the retired key, when the status of the UserCluster is lost, as
// after clusterctl move. Then nobody knows any more that this was a key version.
func TestForgottenRetiredKey(t *testing.T) {
	for _, source := range sources {
		w := newTestCluster(t, "a", "b", "c")
		w.uc.Spec.KSASigningKey.Source = source
		c := w.host("c")
		_, first := c.files()
		w.rotateWithoutLast()
		w.uc.Status.Infrastructure.Kubeadm = nil
		w.comesBackWith(c, first)
	}
}

// TestForgottenInRotation has that node come back when the next rotation is in its Publish and in its Refresh. The key
// that its owner has released goes at once.
func TestForgottenInRotation(t *testing.T) {
	for _, source := range sources {
		for _, step := range []rotation.Step{rotation.StepPublish, rotation.StepRefresh} {
			w := newTestCluster(t, "a", "b", "c")
			w.uc.Spec.KSASigningKey.Source = source
			c := w.host("c")
			_, first := c.files()
			w.rotateWithoutLast()
			w.uc.Status.Infrastructure.Kubeadm = nil
			w.uc.Annotations = map[string]string{v1alpha1.AnnotationReleaseForeignKeys: first}
			w.uc.Spec.KSASigningKey.Version, w.slow, w.legacy = 3, true, rotation.Legacy{}
			w.until("the step", func() bool { return w.round().Step == step })
			w.hosts, w.lagging = append(w.hosts, c), true
			w.until("the node to come up", func() bool {
				w.round()
				_, ok := c.served.Keys.Lookup(first)
				return !ok
			})
			w.comesUp(c, 2)
			w.slow, w.log = false, nil // the plan names Switch while the node comes up
			w.settle()
			w.have(3, source == v1alpha1.KeySourceExternal)
		}
	}
}

// TestForeignKeyAndSigners gives a cluster signers whose API servers accept a foreign key, of which no signer has any.
func TestForeignKeyAndSigners(t *testing.T) {
	for _, version := range []int32{1, 2} {
		w := newTestCluster(t, "a", "b")
		kid := w.host("b").addForeignKey()
		w.settle()
		w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
		w.uc.Spec.KSASigningKey.Version = version
		w.blocked(kid)
		if _, ok := w.host("b").served.Keys.Lookup(kid); !ok {
			t.Error("a foreign key is dropped that nobody has released")
		}
		w.uc.Annotations = map[string]string{v1alpha1.AnnotationReleaseForeignKeys: kid}
		w.settle()
		w.have(int(version), true)
		if r := w.restarts(); r[0] > 1 || r[1] != 1 {
			t.Errorf("API servers were restarted: %v", r)
		}
	}
}

// TestUnservedKey has somebody add a key to sa.pub that no API server has read: it stays, and is a foreign key once one
// has.
func TestUnservedKey(t *testing.T) {
	for _, source := range sources {
		w := newTestCluster(t, "a", "b")
		w.uc.Spec.KSASigningKey.Source = source
		w.settle()
		a := w.host("a")
		public, kid := foreignKey()
		a.write(a.PKI+"/sa.pub", append([]byte(a.read(a.PKI+"/sa.pub")), public...))
		w.uc.Spec.KSASigningKey.Version = 2
		if source == v1alpha1.KeySourceFiles {
			w.blocked(kid)
			w.uc.Annotations = map[string]string{v1alpha1.AnnotationReleaseForeignKeys: kid}
			w.settle()
			w.have(2, false)
			continue
		}
		w.settle()
		if set, _ := a.files(); set.Len() != 2 || a.served.Keys.Len() != 1 {
			t.Errorf("sa.pub has %v, and the API server has %v", set, a.served.Keys)
		}
	}
}

// TestUnservedPrivateKey has somebody replace sa.key, with which no API server was started.
func TestUnservedPrivateKey(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.settle()
	a := w.host("a")
	other := must(token.GenerateKey(rand.Reader, jwks.ES256))
	a.write(a.PKI+"/sa.key", must(token.MarshalPrivateKey(other)))
	w.uc.Spec.KSASigningKey.Version = 2
	kid := must(jwks.KeyID(other.Public()))
	w.blocked(kid)
	w.uc.Annotations = map[string]string{v1alpha1.AnnotationReleaseForeignKeys: kid}
	w.settle()
	w.have(2, false)
}
