package kubeadm

import (
	"context"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/jwks"
)

// upload is what a node that joins starts with: a copy of the files of another one.
type upload struct {
	keys  jwks.Set
	signs string
}

func (w *testCluster) dropUpload(context.Context) error {
	w.uploading.Lock()
	defer w.uploading.Unlock()
	w.upload = nil
	return nil
}

func (w *testCluster) uploaded(context.Context) (bool, error) {
	w.uploading.Lock()
	defer w.uploading.Unlock()
	return w.upload != nil, nil
}

func (w *testCluster) noteUpload(_ context.Context, at time.Time) error {
	w.uploading.Lock()
	defer w.uploading.Unlock()
	w.dropped = at
	return nil
}

// TestUpload has the owner upload the files of a node whenever there is no upload. At any time of a rotation, an API
// server that started with it would accept all tokens, and have its own accepted.
func TestUpload(t *testing.T) {
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceFiles, v1alpha1.KeySourceExternal} {
		t.Run(string(source), func(t *testing.T) {
			w := newTestCluster(t, "a", "b", "c")
			w.uc.Spec.KSASigningKey.Source = source
			w.settle()
			w.uc.Spec.KSASigningKey.Version = 2
			uploads := 0
			for range 400 {
				if w.upload == nil {
					keys, signs := w.hosts[uploads%len(w.hosts)].files()
					w.upload = &upload{keys, signs}
					uploads++
				}
				w.clock = w.clock.Add(time.Second)
				settled := w.round().Settled
				if w.checkUpload(); settled && !w.asked {
					break
				}
			}
			w.have(2, source == v1alpha1.KeySourceExternal)
			if uploads != 4 {
				t.Errorf("%d uploads were made, want one before the rotation, and one after each time that it was deleted", uploads)
			}
		})
	}
}

// TestJoinInProgress has a node read the upload right before that is deleted, and show its API server most of a minute
// later, with keys from before the rotation.
func TestJoinInProgress(t *testing.T) {
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceFiles, v1alpha1.KeySourceExternal} {
		t.Run(string(source), func(t *testing.T) {
			w := newTestCluster(t, "a", "b", "c")
			w.uc.Spec.KSASigningKey.Source = source
			w.settle()
			a := w.hosts[0]
			private, public := []byte(a.read(a.PKI+"/sa.key")), []byte(a.read(a.PKI+"/sa.pub"))
			keys, signs := a.files()
			w.upload = &upload{keys, signs}
			w.uc.Spec.KSASigningKey.Version = 2
			w.until("the upload to be deleted", func() bool {
				w.round()
				return w.upload == nil
			})
			for range 50 {
				w.clock = w.clock.Add(time.Second)
				w.round()
				w.check()
			}
			w.join("d", private, public).unmarked = true
			w.clock = w.clock.Add(joinTime)
			w.settle()
			w.have(2, source == v1alpha1.KeySourceExternal)
		})
	}
}

// checkUpload compares what is uploaded with the API servers that run.
func (w *testCluster) checkUpload() {
	w.t.Helper()
	if w.upload == nil {
		return
	}
	for _, h := range w.hosts {
		if _, ok := w.upload.keys.Lookup(h.served.SigningKeyID); !ok && h.down == 0 {
			w.t.Errorf("a node that joins would refuse the tokens of the API server on %s", h.name)
		}
		if _, ok := h.served.Keys.Lookup(w.upload.signs); !ok && h.down == 0 {
			w.t.Errorf("the API server on %s would refuse the tokens of a node that joins", h.name)
		}
	}
}
