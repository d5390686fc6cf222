package probe

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What an API server says of a token while it says of itself that it is not ready is not about the token.
func TestRefusalBeforeReady(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	for readyz, want := range map[int]Counts{
		http.StatusInternalServerError: {Unavailable: 1},
		http.StatusOK:                  {Refused: 1},
		http.StatusUnauthorized:        {Refused: 1}, // who may not ask learns nothing
	} {
		t.Run(fmt.Sprint(readyz), func(t *testing.T) {
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/readyz" {
					w.WriteHeader(readyz)
					return
				}
				w.WriteHeader(http.StatusUnauthorized)
			}))
			defer server.Close()
			rec := newRecorder("pod", "node", time.Now())
			u := &user{server: server.URL, http: server.Client(), files: Files{Bound: file}, rec: rec}
			u.use(t.Context(), Bound)
			if got := rec.snapshot().Lines[0].Counts(); got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
		})
	}
}

// An API server that starts may not know yet who may ask whether it is ready.
func TestRefusalBeforeReadyIsKnown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("token"), 0o600); err != nil {
		t.Fatal(err)
	}
	review, readyz := http.StatusForbidden, http.StatusOK // forbidden is somebody whom it knows
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			w.WriteHeader(readyz)
			return
		}
		w.WriteHeader(review)
	}))
	defer server.Close()
	rec := newRecorder("pod", "node", time.Now())
	u := &user{server: server.URL, http: server.Client(), files: Files{Bound: file}, rec: rec}
	u.use(t.Context(), Bound)
	review, readyz = http.StatusUnauthorized, http.StatusForbidden
	u.use(t.Context(), Bound)
	readyz = http.StatusOK
	u.use(t.Context(), Bound)
	if got, want := rec.snapshot().Lines[0].Counts(), (Counts{Accepted: 1, Unavailable: 1, Refused: 1}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}
}
