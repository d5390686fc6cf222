package ledger

import (
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"
)

// BenchmarkNote notes tokens of 20,000 pods with two audiences: first all of them, and then later ones of the same
// pods. It reports the memory that the ledger uses.
func BenchmarkNote(b *testing.B) {
	const pods = 20_000
	l, err := Open(filepath.Join(b.TempDir(), "ledger"), Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	var tokens []Token
	for i := range 2 * pods {
		tokens = append(tokens, Token{
			KeyID: "CzTpcKx8vH4wH4uQ0y6jz5zVnMpmVvKZ2vRrKmPz1aA", Namespace: text("team", i/2/20), ServiceAccount: []byte("web"),
			Audiences: [][]byte{[]byte([]string{"https://kubernetes.default.svc.cluster.local", "vault"}[i%2])},
			Kind:      "Pod", Name: fmt.Appendf(nil, "web-5d78c9869d-%05d", i/2),
			UID:     fmt.Appendf(nil, "4d10a0b0-6c3f-4d10-a0b0-%012x", i/2),
			Expires: time.Now().Add(time.Hour).Unix(),
		})
	}
	for i := range tokens {
		if err := l.Note(&tokens[i]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		token := &tokens[i*7919%len(tokens)]
		token.Expires++
		if err := l.Note(token); err != nil {
			b.Fatal(err)
		}
	}
	stats, err := l.Tend()
	if err != nil || stats.Entries != len(tokens) {
		b.Fatalf("%+v, %v", stats, err)
	}
	b.ReportMetric(float64(stats.Bytes)/(1<<20), "MiB")
}

// BenchmarkRead reads the ledger of 20,000 pods with two audiences.
func BenchmarkRead(b *testing.B) {
	path := filepath.Join(b.TempDir(), "ledger")
	l, err := Open(path, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	for i := range 40_000 {
		err := l.Note(&Token{
			KeyID: "k", Namespace: []byte("n"), Kind: "Pod", Name: text("pod", i), Expires: time.Now().Add(time.Hour).Unix(),
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if r, err := Read(path, time.Now()); err != nil || len(r.Entries) != 40_000 {
			b.Fatalf("%d entries, %v", len(r.Entries), err)
		}
	}
}
