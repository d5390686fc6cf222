package probe

import (
	"context"
	"crypto/sha256"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

const hashSize = sha256.Size

// lag compares the Secret of the legacy token with its file, by hashes of their contents.
type lag struct {
	secret, file [hashSize]byte
	// since is when the Secret began to differ from the file; zero while they are equal.
	since time.Time
}

// secretChanged records that the Secret of the legacy token has held this token since at. The first one is not a
// change; later ones are compared with it.
func (r *recorder) secretChanged(token string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	hash := sha256.Sum256([]byte(token))
	first := r.lag.secret == [hashSize]byte{}
	changed := hash != r.lag.secret
	r.lag.secret = hash
	switch {
	case first || !changed:
	case hash == r.lag.file:
		r.closeLag(at)
	case r.lag.since.IsZero():
		r.lag.since = at
	}
}

// fileRead records that the file of the legacy token held this token at a time.
func (r *recorder) fileRead(token string, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lag.file = sha256.Sum256([]byte(token))
	if r.lag.file == r.lag.secret && !r.lag.since.IsZero() {
		r.closeLag(at)
	}
}

func (r *recorder) closeLag(at time.Time) {
	r.report.FileLag.Changes++
	if !r.lag.since.IsZero() {
		r.report.FileLag.MaxSeconds = max(r.report.FileLag.MaxSeconds, at.Sub(r.lag.since).Seconds())
	}
	r.lag.since = time.Time{}
}

// followSecret reports every change of the Secret to the recorder, until ctx ends. It restarts a broken watch; changes
// in between count from then on.
func followSecret(ctx context.Context, secrets typedcorev1.SecretInterface, name string, rec *recorder) {
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		watchSecret(ctx, secrets, name, rec)
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
	}
}

func watchSecret(ctx context.Context, secrets typedcorev1.SecretInterface, name string, rec *recorder) {
	w, err := secrets.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, name).String(),
	})
	if err != nil {
		return
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		secret, ok := event.Object.(*corev1.Secret)
		if ok && (event.Type == watch.Added || event.Type == watch.Modified) {
			rec.secretChanged(string(secret.Data[corev1.ServiceAccountTokenKey]), time.Now())
		}
	}
}
