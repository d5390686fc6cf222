package signer

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/jwks"
)

// serve starts a signer with Serve. The returned function ends it and returns what Serve returned.
func (w *world) serve() (end func() error) {
	w.t.Helper()
	w.start()
	w.socket = filepath.Join(shortDir(w.t), "s")
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		w.t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+w.socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	w.client = externaljwt.NewExternalJWTSignerClient(conn)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func(s *Signer) { served <- s.Serve(ctx, l) }(w.signer)
	w.signer = nil // from here on, it reads the key directory without help
	w.t.Cleanup(cancel)
	return func() error {
		cancel()
		return <-served
	}
}

func TestServeTakesNewKeys(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	end := w.serve()
	w.fetch()
	w.wantSigner(1, "at the start")
	w.write(1, 1, 2)
	for deadline := time.Now().Add(time.Minute); len(w.fetch().Keys) != 2; {
		if time.Now().After(deadline) {
			t.Fatal("the new key set is not served")
		}
	}
	if err := end(); err != nil {
		t.Errorf("Serve: %v, want nil after its context ended", err)
	}
}

// TestServeFinishes ends Serve while a call is under way.
func TestServeFinishes(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.write(1, 1)
	end := w.serve()
	w.fetch()
	hang := make(chan struct{})
	w.hardware.set(nil, hang)
	signed := make(chan error, 1)
	go func() {
		_, err := w.sign()
		signed <- err
	}()
	<-w.hardware.waits
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	w.awaitRefused()
	close(hang)
	if err := <-signed; err != nil {
		t.Errorf("the call under way failed: %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("Serve: %v", err)
	}
}

// awaitRefused returns once nobody listens on the socket of serve.
func (w *world) awaitRefused() {
	w.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		conn, err := net.Dial("unix", w.socket)
		if err != nil {
			return
		}
		conn.Close()
		if time.Now().After(deadline) {
			w.t.Fatal("Serve still listens after its context ended")
		}
	}
}

func TestServeFailsWithListener(t *testing.T) {
	w := newWorld(t, jwks.ES256)
	w.start()
	l, err := net.Listen("unix", filepath.Join(shortDir(t), "s"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := w.signer.Serve(t.Context(), l); err == nil {
		t.Error("Serve with a closed listener: no error")
	}
}
