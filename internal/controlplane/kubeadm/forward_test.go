package kubeadm

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"k8s.io/client-go/rest"
)

// TestForwardEnds has an API server, or a proxy before it, never answer the request for a tunnel. Nothing of it is left.
func TestForwardEnds(t *testing.T) {
	gone := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(gone)
	}))
	t.Cleanup(silent.Close)
	dial, err := forward(&rest.Config{Host: silent.URL}, "kube-apiserver-a", securePort)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	var late interface{ Timeout() bool }
	if conn, err := dial(ctx, "", ""); !errors.As(err, &late) || !late.Timeout() {
		t.Errorf("a connection that nobody answers: %v, %v", conn, err)
	}
	<-gone
}
