package signer

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

// world is a signer with a key directory, clocks that a test sets, and a client.
type world struct {
	t        testing.TB
	dir      string
	keys     map[int]keydir.Key
	set      keydir.Set
	log      bytes.Buffer
	now      time.Time
	uptime   time.Duration
	registry *prometheus.Registry
	hardware *hardware
	// noState runs signers without a state file.
	noState bool
	// ledgerFile is empty for signers without a ledger.
	ledgerFile string
	signer     *Signer
	client     externaljwt.ExternalJWTSignerClient
	// socket is where serve serves.
	socket string
}

// newWorld has key versions 1 to 3, of which none is in the directory yet.
func newWorld(t testing.TB, algorithm string) *world {
	t.Helper()
	w := &world{
		t: t, dir: t.TempDir(), keys: map[int]keydir.Key{}, now: time.Unix(1_800_000_000, 0), uptime: time.Hour,
		hardware: &hardware{waits: make(chan struct{}, 1)},
		set: keydir.Set{
			RefreshHint: time.Hour, RotationRefreshHint: 3 * time.Second, MaxTokenExpiration: 24 * time.Hour,
		},
	}
	for version := 1; version <= 3; version++ {
		private, err := token.GenerateKey(rand.Reader, algorithm)
		if err != nil {
			t.Fatal(err)
		}
		if w.keys[version], err = keydir.NewKey(version, private); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

func (w *world) keyDir() string { return filepath.Join(w.dir, "keys") }
func (w *world) stateFile() string {
	if w.noState {
		return ""
	}
	return filepath.Join(w.dir, "served.json")
}

// write writes these versions, one of which is to sign, and has the signer read them.
func (w *world) write(signing int, versions ...int) {
	w.t.Helper()
	w.set.SigningVersion, w.set.Keys = signing, nil
	for _, version := range versions {
		w.set.Keys = append(w.set.Keys, w.keys[version])
	}
	if err := keydir.Write(w.keyDir(), w.set); err != nil {
		w.t.Fatal(err)
	}
	if w.signer != nil {
		w.signer.reload()
	}
}

// start starts a signer, in place of the last one, and connects a client to it.
func (w *world) start() {
	w.t.Helper()
	w.registry = prometheus.NewRegistry()
	s, err := newSigner(Options{
		KeyDir: w.keyDir(), StateFile: w.stateFile(), LedgerFile: w.ledgerFile, ReloadInterval: time.Minute,
		Log:    slog.New(slog.NewJSONHandler(&w.log, nil)),
		PKCS11: w.hardware, Metrics: w.registry,
	}, environment{
		files: w.hardware, now: func() time.Time { return w.now }, bootClock: func() time.Duration { return w.uptime },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	w.signer = s
	w.client = connect(w.t, s)
}

// shortDir is a temporary directory for a socket, whose path must be short.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kts") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// connect has a signer answer on a socket. The tests have it read the key directory.
func connect(t testing.TB, s *Signer) externaljwt.ExternalJWTSignerClient {
	t.Helper()
	dir := shortDir(t)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.answer(ctx, l); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "s"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		stop()
		serving.Wait()
	})
	return externaljwt.NewExternalJWTSignerClient(conn)
}

// fetch fetches the keys, as the API server does.
func (w *world) fetch() *externaljwt.FetchKeysResponse {
	w.t.Helper()
	r, err := w.client.FetchKeys(w.t.Context(), &externaljwt.FetchKeysRequest{})
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// claims are the claims of a token, with what an encoder might change.
const claims = `{"iss":"https://issuer.example","sub":"system:serviceaccount:ns:name","z":"<&> ",  "exp":1800003600}`

// sign signs, and verifies with the keys of the world. It returns the version that signed.
func (w *world) sign() (version int, err error) {
	w.t.Helper()
	payload := base64.RawURLEncoding.EncodeToString([]byte(claims))
	r, err := w.client.Sign(w.t.Context(), &externaljwt.SignJWTRequest{Claims: payload})
	if err != nil {
		return 0, err
	}
	signed, err := jose.ParseSignedCompact(r.Header+"."+payload+"."+r.Signature,
		[]jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.ES384})
	if err != nil {
		w.t.Fatal(err)
	}
	header := signed.Signatures[0].Protected
	for version, k := range w.keys {
		if kid, err := jwks.KeyID(k.Public); err != nil || kid != header.KeyID {
			continue
		}
		if got, err := signed.Verify(k.Public); err != nil || string(got) != claims {
			w.t.Errorf("key version %d: %v, claims %s", version, err, got)
		}
		return version, nil
	}
	w.t.Errorf("signed with the unknown kid %s", header.KeyID)
	return 0, nil
}

// wantSigner has the signer sign with a version; with none for 0.
func (w *world) wantSigner(want int, when string) {
	w.t.Helper()
	if got, err := w.sign(); got != want || (err == nil) != (want != 0) {
		w.t.Errorf("%s: key version %d signs (%v), want %d", when, got, err, want)
	}
}

// hardware opens keys in memory that fail or hang when a test says so.
type hardware struct {
	mu sync.Mutex
	// fail is what signing fails with, and hang what it waits for.
	fail error
	hang chan struct{}
	// waits gets a value when signing waits for hang.
	waits chan struct{}
}

var errHardware = errors.New("the hardware is away")

func (h *hardware) Open(k keydir.Key) (crypto.Signer, error) {
	s, err := backend.PEM{}.Open(k)
	return &hardwareKey{s, h}, err
}

func (h *hardware) set(fail error, hang chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fail, h.hang = fail, hang
}

type hardwareKey struct {
	crypto.Signer
	at *hardware
}

func (k *hardwareKey) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.at.mu.Lock()
	fail, hang := k.at.fail, k.at.hang
	k.at.mu.Unlock()
	if hang != nil {
		select {
		case k.at.waits <- struct{}{}:
		default:
		}
		<-hang
	}
	if fail != nil {
		return nil, fail
	}
	return k.Signer.Sign(r, digest, opts)
}

// logged counts the lines of the log that hold a text.
func (w *world) logged(text string) int {
	n := 0
	for line := range strings.Lines(w.log.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}
