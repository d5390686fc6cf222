package kubeadm

import (
	"crypto/rand"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
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
		return d.Blocked && !d.Done && strings.HasSuffix(d.Waiting, ask)
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

// TestBackWithForeignKey has a node come back after a rotation with its old key and a foreign one.
func TestBackWithForeignKey(t *testing.T) {
	w := newTestCluster(t, "a", "b", "c")
	c := w.host("c")
	public, kid := foreignKey()
	w.rotateWithoutLast()
	c.write(c.PKI+"/sa.pub", append([]byte(c.read(c.PKI+"/sa.pub")), public...))
	w.hosts, w.lagging = append(w.hosts, c), true
	w.blocked(kid)
	w.uc.Annotations = map[string]string{v1alpha1.AnnotationReleaseForeignKeys: kid}
	w.settle()
	w.have(2, false)
}

// TestForgottenRetiredKey has a node come back with the retired key, when the status of the UserCluster is lost, as
// after clusterctl move. Then nobody knows any more that this was a key version.
func TestForgottenRetiredKey(t *testing.T) {
	w := newTestCluster(t, "a", "b", "c")
	c := w.host("c")
	_, first := c.files()
	w.rotateWithoutLast()
	w.uc.Status.Infrastructure.Kubeadm = nil
	w.hosts, w.lagging = append(w.hosts, c), true
	w.blocked(first)
	w.uc.Annotations = map[string]string{v1alpha1.AnnotationReleaseForeignKeys: first}
	w.settle()
	w.have(2, false)
}
