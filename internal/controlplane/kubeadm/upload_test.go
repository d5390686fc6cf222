package kubeadm

import (
	"context"
	"testing"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/rotation"
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

func (w *testCluster) noteUpload(_ context.Context, at time.Time, stage int) error {
	w.uploading.Lock()
	defer w.uploading.Unlock()
	w.dropped, w.droppedFor = at, stage
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
			for range 600 {
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
// later, with keys from before the step. The upload is made before the rotation, in Publish or in Switch, on a node
// that this step has not come to yet.
func TestJoinInProgress(t *testing.T) {
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceFiles, v1alpha1.KeySourceExternal} {
		for _, step := range []rotation.Step{"", rotation.StepPublish, rotation.StepSwitch} {
			t.Run(string(source)+"/"+string(step), func(t *testing.T) {
				w := newTestCluster(t, "a", "b", "c")
				w.uc.Spec.KSASigningKey.Source = source
				w.settle()
				w.uc.Spec.KSASigningKey.Version = 2
				if step != "" {
					w.upTo(step)
				}
				c := w.hosts[2]
				private, public := []byte(c.read(c.PKI+"/sa.key")), []byte(c.read(c.PKI+"/sa.pub"))
				keys, signs := c.files()
				w.upload = &upload{keys, signs}
				if step == rotation.StepPublish { // what was there at its begin is gone
					w.until("the first API server to be changed", func() bool {
						keys, _ := w.hosts[0].files()
						return w.tick() && keys.Len() == 2
					})
					w.upload = &upload{keys, signs}
				}
				w.until("the upload to be deleted", func() bool { return w.tick() && w.upload == nil })
				for range 50 {
					w.tick()
					w.check()
				}
				w.join("d", private, public).unmarked = true
				w.clock = w.clock.Add(joinTime)
				w.log = nil // the node that came brings a step back that had ended
				w.settle()
				w.have(2, source == v1alpha1.KeySourceExternal)
			})
		}
	}
}

// tick does a round that takes a second.
func (w *testCluster) tick() bool {
	w.t.Helper()
	w.clock = w.clock.Add(time.Second)
	w.round()
	return true
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
