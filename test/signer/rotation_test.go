package signer_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/keyturn/keyturn/jwks"
)

// plane is two API servers of one cluster, each with a signer of its own.
type plane struct {
	t       *testing.T
	worlds  []*world
	servers []*apiServer
}

func newPlane(t *testing.T, algorithm string) *plane {
	t.Helper()
	p := &plane{t: t, worlds: []*world{newWorld(t, algorithm), newWorld(t, algorithm)}}
	p.worlds[1].keys = p.worlds[0].keys
	p.write(1, 1)
	for _, w := range p.worlds {
		w.start()
		p.servers = append(p.servers, w.connect())
	}
	return p
}

func (p *plane) write(signing int, versions ...int) {
	p.t.Helper()
	for _, w := range p.worlds {
		w.write(signing, versions...)
	}
}

// everyServer waits until something is so at each API server.
func (p *plane) everyServer(what string, is func(a *apiServer) bool) {
	p.t.Helper()
	for i, a := range p.servers {
		p.worlds[i].eventually(what, func() bool { return is(a) })
	}
}

// served asks for a kid as a canary token with it does, and reports whether the API server has the key.
func served(t *testing.T, a *apiServer, kid string) bool {
	return len(a.cache.GetPublicKeys(t.Context(), kid)) > 0
}

// TestRotate goes through two rotations under load. Each token is used at both API servers as soon as it is issued;
// none may be refused, although the refresh hint is an hour all the time.
func TestRotate(t *testing.T) {
	for _, algorithm := range []string{jwks.ES256, jwks.RS256} {
		t.Run(algorithm, func(t *testing.T) {
			p := newPlane(t, algorithm)
			stop := p.use(t)
			for old := 1; old <= 2; old++ {
				began := time.Now()
				p.rotate(t, old)
				t.Logf("from version %d to %d in %s", old, old+1, time.Since(began).Round(time.Millisecond))
			}
			stop()
		})
	}
}

func (p *plane) rotate(t *testing.T, old int) {
	kid, next := p.worlds[0].kid(old), p.worlds[0].kid(old+1)
	p.write(old, old, old+1)
	p.everyServer("the new key to be served", func(a *apiServer) bool { return served(t, a, next) })
	p.write(old+1, old, old+1)
	p.everyServer("a token of the new key", func(a *apiServer) bool { return a.mustIssue() == next })
	p.write(old+1, old+1)
	p.everyServer("the old key to be gone", func(a *apiServer) bool {
		return !served(t, a, "unknown") && !slices.Contains(a.serves(t.Context()), kid)
	})
}

// use has each API server issue tokens, and each accept them, until the function that it returns is called.
func (p *plane) use(t *testing.T) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	for _, from := range p.servers {
		for range 4 {
			work.Go(func() {
				for ctx.Err() == nil {
					if err := p.issueAndUse(from); err != nil {
						t.Errorf("a token was refused: %v", err)
						return
					}
				}
			})
		}
	}
	stop = sync.OnceFunc(func() { cancel(); work.Wait() })
	t.Cleanup(stop)
	return stop
}

// issueAndUse leaves out tokens whose key was retired before they could be used: refusing those is right.
func (p *plane) issueAndUse(from *apiServer) error {
	signed, kid, err := from.issue(context.Background())
	if err != nil {
		return err
	}
	for _, a := range p.servers {
		err := a.accepts(context.Background(), signed)
		if err != nil && !slices.Contains(from.serves(context.Background()), kid) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestSwitchWithoutPublishing names a new key as the signing one in the moment in which it appears. kube-apiserver
// would issue tokens that it refuses itself; the signer waits until the API server has fetched it.
func TestSwitchWithoutPublishing(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	a := w.connect()
	l := a.begin()
	l.awaitMore(w)
	w.write(2, 1, 2)
	l.awaitMore(w)
	if kid := a.mustIssue(); kid != w.kid(1) {
		t.Error("a token of a key that was never fetched was issued")
	}
	if !served(t, a, w.kid(2)) {
		t.Error("the new key is not served, although it was asked for")
	}
	if kid := a.mustIssue(); kid != w.kid(2) {
		t.Error("after the fetch, a token of the old key was issued")
	}
	for _, o := range failed(l.end()) {
		t.Errorf("a request failed: %v", o.err)
	}
}

// TestBadDirectoryUnderLoad breaks the key directory in several ways. Nothing may fail.
func TestBadDirectoryUnderLoad(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start("--reload-interval=20ms")
	a := w.connect()
	l := a.begin()
	data := filepath.Join(w.keyDir(), "..data")
	for _, damage := range []func() error{
		func() error { return os.Truncate(filepath.Join(data, "1.key"), 100) },
		func() error { return os.Truncate(filepath.Join(data, "keys.json"), 0) },
		func() error { return os.Chmod(filepath.Join(data, "1.key"), 0o644) },
		func() error { return os.Remove(data) },
		func() error { return os.RemoveAll(w.keyDir()) },
		func() error { return os.Chmod(w.keyDir(), 0o777) },
		func() error { return errors.Join(os.RemoveAll(w.keyDir()), os.WriteFile(w.keyDir(), nil, 0o600)) },
		func() error { return errors.Join(os.Remove(data), os.MkdirAll(data, 0o700)) },
	} {
		l.awaitMore(w)
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		l.awaitMore(w)
		w.write(1, 1)
	}
	w.write(1, 1, 2)
	w.eventually("the new key to be served", func() bool { return served(t, a, w.kid(2)) })
	for _, o := range failed(l.end()) {
		t.Errorf("a request failed: %v", o.err)
	}
}

// TestFloodOfUnknownKids forges kids while tokens are issued. Each makes the API server fetch the keys; nothing may
// fail.
func TestFloodOfUnknownKids(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	w.start()
	a := w.connect()
	calm := a.begin()
	calm.awaitMore(w)
	before := calm.end()
	ctx, cancel := context.WithCancel(context.Background())
	var flood sync.WaitGroup
	forged := make([]int, 8)
	for i := range forged {
		flood.Go(func() {
			for ctx.Err() == nil {
				a.cache.GetPublicKeys(ctx, "forged")
				forged[i]++
			}
		})
	}
	l := a.begin()
	l.awaitMore(w)
	during := l.end()
	cancel()
	flood.Wait()
	for _, o := range failed(during) {
		t.Errorf("a request failed: %v", o.err)
	}
	n := 0
	for _, f := range forged {
		n += f
	}
	t.Logf("longest pause %s without and %s with %d forged kids", longestPause(before).Round(time.Millisecond),
		longestPause(during).Round(time.Millisecond), n)
}
