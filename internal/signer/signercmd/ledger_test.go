package signercmd

import (
	"context"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/signer/ledger"
)

// TestLedgerOutlivesKills signs tokens of one pod after the other, while children and parents are killed and children
// hand over. Every token that was given out is in the ledger.
func TestLedgerOutlivesKills(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.eventuallySigns()
	var mu sync.Mutex
	signed := map[string]bool{}
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(signed)
	}
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				pod := fmt.Sprintf("web-%d-%d", client, i)
				if w.signFor(ctx, pod) == nil {
					mu.Lock()
					signed[pod] = true
					mu.Unlock()
				}
			}
		})
	}
	more := func() {
		t.Helper()
		enough := count() + 100
		w.eventually("signatures", func() bool { return count() >= enough })
	}
	more()
	for range 3 {
		pid := w.awaitChild(0)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		more()
		pid = w.awaitChild(pid)
		if err := w.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		w.awaitChild(pid)
		more()
		_ = w.end(syscall.SIGKILL)
		w.begin(w.command("--socket=" + w.socket()))
		more()
	}
	stop()
	clients.Wait()
	report, err := ledger.Read(filepath.Join(w.dir, "run", "ledger"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range report.Entries {
		if e.Bound != nil {
			delete(signed, e.Bound.Name)
		}
	}
	if len(signed) > 0 {
		t.Errorf("%d tokens that were given out are in none of %d entries", len(signed), len(report.Entries))
	}
}

// signFor has a token of a pod signed.
func (w *world) signFor(ctx context.Context, pod string) error {
	claims := fmt.Sprintf(`{"aud":["a"],"exp":%d,"kubernetes.io":{"namespace":"default","pod":{"name":%q,"uid":"u"}},`+
		`"sub":"system:serviceaccount:default:web"}`,
		time.Now().Add(time.Hour).Unix(), pod)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := w.client().Sign(ctx,
		&externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(claims))})
	return err
}
