package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// refillTimeout is how long kube-controller-manager may take to fill the Secrets that were cleared.
const refillTimeout = 5 * time.Minute

// clear takes the tokens out of a sample of the Secrets, waits until kube-controller-manager has put new ones in, and
// returns how many were done a second. This is how tokens are renewed by hand; each Secret is without one in between.
func (s *secretsOf) clear(ctx context.Context, sample int) (rate float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, refillTimeout)
	defer cancel()
	o := ofTokens
	o.Limit = int64(sample)
	list, err := s.client.CoreV1().Secrets("").List(ctx, o)
	if err != nil {
		return 0, err
	}
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{WatchFuncWithContext: s.watch})
	if err != nil {
		return 0, err
	}
	defer w.Stop()
	waiting := map[types.UID]bool{}
	for i := range list.Items {
		waiting[list.Items[i].UID] = true
		delete(list.Items[i].Data, corev1.ServiceAccountTokenKey)
		list.Items[i].ManagedFields = nil
	}
	began := time.Now()
	cleared := make(chan error, 1)
	go func() { cleared <- s.write(ctx, list.Items) }()
	if err := awaitTokens(ctx, w, waiting, cleared); err != nil {
		return 0, fmt.Errorf("waiting for kube-controller-manager to fill %d Secrets: %w", len(list.Items), err)
	}
	return float64(len(list.Items)) / time.Since(began).Seconds(), nil
}

// watch watches the Secrets that hold tokens. The API server may end it early, when its watcher is slow.
func (s *secretsOf) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	o.FieldSelector = ofTokens.FieldSelector
	return s.client.CoreV1().Secrets("").Watch(ctx, o)
}

// awaitTokens returns when the watch has shown each Secret with a token. Every change that it shows of them came after
// they were read, so kube-controller-manager made the first with a token.
func awaitTokens(ctx context.Context, w watch.Interface, waiting map[types.UID]bool, cleared <-chan error) error {
	for len(waiting) > 0 || cleared != nil {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-cleared:
			if err != nil {
				return err
			}
			cleared = nil
		case event, ok := <-w.ResultChan():
			if !ok {
				return errors.New("the watch has ended")
			}
			if s, ok := event.Object.(*corev1.Secret); ok && len(s.Data[corev1.ServiceAccountTokenKey]) > 0 {
				delete(waiting, s.UID)
			}
		}
	}
	return nil
}
