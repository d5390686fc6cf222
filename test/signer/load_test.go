package signer_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// clients ask for tokens at once, as many as kube-apiserver serves requests of a busy cluster.
const clients = 16

// outcome is one TokenRequest: when it ended, and how.
type outcome struct {
	began, ended time.Time
	kid          string
	err          error
}

// load asks for tokens from many clients until it is ended.
type load struct {
	t      testing.TB
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu  sync.Mutex
	all []outcome
}

// begin has each token that was issued accepted too.
func (a *apiServer) begin() *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: a.t, cancel: cancel}
	for range clients {
		l.done.Go(func() {
			for ctx.Err() == nil {
				l.one(a)
			}
		})
	}
	a.t.Cleanup(func() { l.end() })
	return l
}

// one does not use the context of the load: what has begun may end.
func (l *load) one(a *apiServer) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	o := outcome{began: time.Now()}
	var signed string
	signed, o.kid, o.err = a.issue(ctx)
	o.ended = time.Now()
	if o.err == nil {
		o.err = a.accepts(ctx, signed)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, o)
}

func (l *load) issued() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.all {
		if o.err == nil {
			n++
		}
	}
	return n
}

// awaitMore waits until some hundred more tokens were issued.
func (l *load) awaitMore(w *world) {
	l.t.Helper()
	before := l.issued()
	w.eventually("more tokens", func() bool { return l.issued() >= before+200 })
}

// end returns what happened, in the order in which it ended.
func (l *load) end() []outcome {
	l.cancel()
	l.done.Wait()
	slices.SortFunc(l.all, func(a, b outcome) int { return a.ended.Compare(b.ended) })
	return l.all
}

// failed returns the requests that failed.
func failed(all []outcome) (bad []outcome) {
	for _, o := range all {
		if o.err != nil {
			bad = append(bad, o)
		}
	}
	return bad
}

// longestPause returns the longest time in which no token was issued.
func longestPause(all []outcome) (longest time.Duration) {
	var last time.Time
	for _, o := range all {
		if o.err != nil {
			continue
		}
		if !last.IsZero() {
			longest = max(longest, o.ended.Sub(last))
		}
		last = o.ended
	}
	return longest
}
