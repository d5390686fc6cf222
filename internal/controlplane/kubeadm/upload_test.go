package kubeadm

import (
	"context"
	"testing"

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
	w.uploaded = nil
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
				if w.uploaded == nil {
					keys, signs := w.hosts[uploads%len(w.hosts)].files()
					w.uploaded = &upload{keys, signs}
					uploads++
				}
				settled := w.round().Settled
				if w.checkUpload(); settled && !w.asked {
					break
				}
			}
			w.have(2, source == v1alpha1.KeySourceExternal)
			if uploads != 3 {
				t.Errorf("%d uploads were made, want one before the rotation, and one after each time that it was deleted", uploads)
			}
		})
	}
}

// checkUpload compares what is uploaded with the API servers that run.
func (w *testCluster) checkUpload() {
	w.t.Helper()
	if w.uploaded == nil {
		return
	}
	for _, h := range w.hosts {
		if _, ok := w.uploaded.keys.Lookup(h.served.SigningKeyID); !ok && h.down == 0 {
			w.t.Errorf("a node that joins would refuse the tokens of the API server on %s", h.name)
		}
		if _, ok := h.served.Keys.Lookup(w.uploaded.signs); !ok && h.down == 0 {
			w.t.Errorf("the API server on %s would refuse the tokens of a node that joins", h.name)
		}
	}
}
