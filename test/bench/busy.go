package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// busy has so many clients do something again and again for a while, and returns how often a second they did it, and
// the 99th percentile of how long it took, in milliseconds. What has begun may end, and counts, so that no slow one is
// left out.
func busy(ctx context.Context, clients int, long time.Duration, do func(ctx context.Context, client int) error) (perSecond, p99 float64, err error) {
	began := time.Now()
	var mu sync.Mutex
	var all []time.Duration
	var errs []error
	var work sync.WaitGroup
	for i := range clients {
		work.Go(func() {
			times, err := repeat(began.Add(long), func() error { return do(ctx, i) })
			mu.Lock()
			defer mu.Unlock()
			all, errs = append(all, times...), append(errs, err)
		})
	}
	work.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return 0, 0, err
	}
	slices.Sort(all)
	return float64(len(all)) / took.Seconds(), all[len(all)*99/100].Seconds() * 1000, nil
}

// repeat does something, at least once, until it is too late to begin again, and returns how long each time took.
func repeat(until time.Time, do func() error) (times []time.Duration, err error) {
	for began := time.Now(); len(times) == 0 || began.Before(until); began = time.Now() {
		if err := do(); err != nil {
			return nil, err
		}
		times = append(times, time.Since(began))
	}
	return times, nil
}
