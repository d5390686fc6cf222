package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/signer"
	"github.com/keyturn/keyturn/signer/ledger"
)

// Ledger is what a signer's ledger costs.
type Ledger struct {
	// Signed has one for each algorithm.
	Signed []Noting `json:"signed"`
	// Memory is the memory of a ledger with the tokens of many pods, in MiB.
	Memory float64 `json:"memoryMiB"`
}

// Noting compares the signer's Sign, of tokens of many pods, with a ledger and without one. The n-th of each make a
// round.
type Noting struct {
	Algorithm v1alpha1.Algorithm `json:"algorithm"`
	With      []Rate             `json:"with"`
	Without   []Rate             `json:"without"`
}

// measureLedger signs without any cluster.
func (p *place) measureLedger(ctx context.Context) (l Ledger, err error) {
	for _, algorithm := range algorithms {
		p.say("signing with and without a ledger, %s, %d rounds", algorithm, signRounds)
		n, err := p.compareNoting(ctx, algorithm)
		if err != nil {
			return l, fmt.Errorf("%s: %w", algorithm, err)
		}
		l.Signed = append(l.Signed, n)
	}
	l.Memory, err = ledgerMemory(p.dir)
	return l, err
}

func (p *place) compareNoting(ctx context.Context, algorithm v1alpha1.Algorithm) (Noting, error) {
	n := Noting{Algorithm: algorithm}
	dir := filepath.Join(p.dir, "noting-"+string(algorithm))
	if _, err := writeKey(dir, algorithm); err != nil {
		return n, err
	}
	without, err := newSigner(ctx, dir, "")
	if err != nil {
		return n, err
	}
	with, err := newSigner(ctx, dir, filepath.Join(dir, "ledger"))
	if err != nil {
		return n, err
	}
	pods := podRequests()
	for i := range signRounds + 1 {
		err := inTurn(i,
			func() error { return note(&n.With)(signFor(signAll(ctx, with, pods))) },
			func() error { return note(&n.Without)(signFor(signAll(ctx, without, pods))) })
		if err != nil {
			return n, err
		}
	}
	n.With, n.Without = n.With[1:], n.Without[1:] // the first ones warmed up
	return n, nil
}

// The pods whose tokens the ledger notes.
const (
	ledgerPods      = 20_000
	ledgerNamespace = 20 // pods in each
)

// The audiences of each pod's tokens.
var ledgerAudiences = [...]string{"https://kubernetes.default.svc.cluster.local", "vault"}

// podName and podUID return the name and the UID of the i-th pod, and podNamespace its namespace.
func podName(i int) string      { return fmt.Sprintf("web-%08x-%05d", i*2654435761, i) }
func podUID(i int) string       { return fmt.Sprintf("4d10a0b0-6c3f-4d10-a0b0-%012x", i) }
func podNamespace(i int) string { return fmt.Sprintf("team-%d", i/ledgerNamespace) }

// podRequests are for a token of each pod and audience.
func podRequests() (all []*externaljwt.SignJWTRequest) {
	for i := range ledgerPods {
		for _, audience := range ledgerAudiences {
			claims := strings.NewReplacer(
				`"https://kubernetes.default.svc.cluster.local"]`, `"`+audience+`"]`, "web-5d78c9869d-2xk7q", podName(i),
				"4d10a0b0-6c3f-4d10-a0b0-a0f6f3f3b2a0", podUID(i), ":default:", ":"+podNamespace(i)+":",
				"1831536000", strconv.FormatInt(time.Now().Add(time.Hour).Unix()+int64(i), 10),
			).Replace(podClaims)
			all = append(all, &externaljwt.SignJWTRequest{Claims: base64.RawURLEncoding.EncodeToString([]byte(claims))})
		}
	}
	return all
}

// signAll signs one request after the other, again and again.
func signAll(ctx context.Context, s *signer.Signer, all []*externaljwt.SignJWTRequest) func() error {
	var next atomic.Int64
	return func() error {
		_, err := s.Sign(ctx, all[int(next.Add(1))%len(all)])
		return err
	}
}

// ledgerMemory returns the memory that a ledger uses of a token of each pod and audience, in MiB.
func ledgerMemory(dir string) (float64, error) {
	l, err := ledger.Open(filepath.Join(dir, "ledger-of-pods"), ledger.Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	for i := range ledgerPods {
		for _, audience := range ledgerAudiences {
			err := l.Note(&ledger.Token{
				KeyID: "CzTpcKx8vH4wH4uQ0y6jz5zVnMpmVvKZ2vRrKmPz1aA", Namespace: []byte(podNamespace(i)),
				ServiceAccount: []byte("web"),
				Audiences:      [][]byte{[]byte(audience)}, Kind: "Pod", Name: []byte(podName(i)), UID: []byte(podUID(i)),
				Expires: time.Now().Add(time.Hour).Unix(),
			})
			if err != nil {
				return 0, errors.Join(err, l.Close())
			}
		}
	}
	stats, err := l.Tend()
	if err == nil && (stats.Coarse > 0 || stats.Entries != ledgerPods*len(ledgerAudiences)) {
		err = fmt.Errorf("the ledger has %d entries, %d of them coarse", stats.Entries, stats.Coarse)
	}
	return float64(stats.Bytes) / (1 << 20), errors.Join(err, l.Close())
}
