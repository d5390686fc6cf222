package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/signer/keydir"
)

// Options are what New needs. All but StateFile, Now, and BootClock must be given.
type Options struct {
	// KeyDir is the key directory.
	KeyDir string
	// StateFile keeps which keys the API server has. Without one, a new process signs nothing until it fetches again.
	StateFile string
	// Reload is how often the directory is read even if no change was noticed.
	Reload   time.Duration
	Backends Backends
	Log      *slog.Logger
	// Metrics is where the metrics are registered.
	Metrics prometheus.Registerer
	// Now is the wall clock, which only dates what was read.
	Now func() time.Time
	// BootClock is the clock that cannot be set.
	BootClock func() time.Duration
}

// validate names each option that is missing.
func (o Options) validate() error {
	var all []error
	for name, missing := range map[string]bool{
		"KeyDir": o.KeyDir == "", "Reload": o.Reload <= 0, "Backends.PEM": o.Backends.PEM == nil,
		"Backends.PKCS11": o.Backends.PKCS11 == nil, "Log": o.Log == nil, "Metrics": o.Metrics == nil,
	} {
		if missing {
			all = append(all, fmt.Errorf("option %s of the signer is missing", name))
		}
	}
	return errors.Join(all...)
}

// Signer implements the service. It is safe for concurrent use.
type Signer struct {
	externaljwt.UnimplementedExternalJWTSignerServer

	opts    Options
	file    servedFile
	metrics *metrics
	set     atomic.Pointer[keySet]
	// saving is held by the first FetchKeys that returns a key, to save that, and by nobody else.
	saving sync.Mutex

	// What follows belongs to reading and proving, which neither Sign nor FetchKeys waits for.
	mu       sync.Mutex
	lastBad  string
	lastTurn atomic.Int64
	problem  atomic.Pointer[string]
	// retired is true once a private key that was in memory is in the directory no more.
	retired atomic.Bool
}

var _ externaljwt.ExternalJWTSignerServer = (*Signer)(nil)

// New returns a signer that has read its key directory once. If that failed, the signer says so in its log and answers
// Unavailable until Keep has read it.
func New(o Options) (*Signer, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.BootClock == nil {
		o.BootClock = bootClock
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	s := &Signer{opts: o, file: servedFile{path: o.StateFile, boot: boot}}
	if s.metrics, err = newMetrics(s, o.Metrics); err != nil {
		return nil, err
	}
	s.noteTurn()
	s.reload()
	return s, nil
}

// Sign implements externaljwt.ExternalJWTSignerServer.
func (s *Signer) Sign(_ context.Context, r *externaljwt.SignJWTRequest) (*externaljwt.SignJWTResponse, error) {
	began := time.Now()
	if err := checkClaims(r.GetClaims()); err != nil {
		s.metrics.noKey.invalid.Inc()
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	k, err := s.signing()
	if err != nil {
		s.metrics.noKey.unavailable.Inc()
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	signature, err := k.sign(r.GetClaims())
	if err != nil {
		s.metrics.count(k, resultError)
		return nil, status.Errorf(codes.Unavailable, "key version %d does not sign: %v", k.version, err)
	}
	s.metrics.count(k, resultSigned)
	s.metrics.duration.Observe(time.Since(began).Seconds())
	return &externaljwt.SignJWTResponse{Header: k.header, Signature: signature}, nil
}

func (s *Signer) signing() (*key, error) {
	set := s.set.Load()
	if set == nil {
		return nil, errNoKeys
	}
	return set.signing(s.opts.BootClock)
}

var errNoKeys = errors.New("there is no good key set")

// FetchKeys implements externaljwt.ExternalJWTSignerServer.
func (s *Signer) FetchKeys(ctx context.Context, _ *externaljwt.FetchKeysRequest) (*externaljwt.FetchKeysResponse, error) {
	s.metrics.fetches.Inc()
	set := s.set.Load()
	if set == nil {
		return nil, status.Error(codes.Unavailable, errNoKeys.Error())
	}
	if err := ctx.Err(); err != nil { // nobody waits for this answer
		return nil, status.FromContextError(err).Err()
	}
	if set.noteServed(s.opts.BootClock) {
		s.saveServed(set)
	}
	return set.fetched, nil
}

// saveServed saves which keys the API server has, before it is answered: if this process is killed right after that,
// the next one knows. Should the answer get lost instead, no harm is done either, as the package comment says.
func (s *Signer) saveServed(set *keySet) {
	s.saving.Lock()
	defer s.saving.Unlock()
	if err := s.file.save(set); err != nil {
		s.opts.Log.Error("after a restart, the signer will wait for the API server to fetch keys", "error", err)
	}
}

// Metadata implements externaljwt.ExternalJWTSignerServer.
func (s *Signer) Metadata(context.Context, *externaljwt.MetadataRequest) (*externaljwt.MetadataResponse, error) {
	set := s.set.Load()
	if set == nil {
		return nil, status.Error(codes.Unavailable, errNoKeys.Error())
	}
	return set.metadata, nil
}

// Keep reads the directory whenever it changes, and at least as often as Options.Reload says, until ctx ends.
func (s *Signer) Keep(ctx context.Context) {
	watcher, err := keydir.NewWatcher(s.opts.KeyDir)
	if err != nil {
		s.opts.Log.Warn("the key directory is only read from time to time", "error", err)
		s.poll(ctx)
		return
	}
	defer watcher.Close()
	// What changed before the watch began:
	for s.reload(); ctx.Err() == nil; s.reload() {
		watcher.Wait(ctx, s.opts.Reload)
		s.noteTurn()
	}
}

// poll is Keep without a watch.
func (s *Signer) poll(ctx context.Context) {
	ticker := time.NewTicker(s.opts.Reload)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.noteTurn()
			s.reload()
		}
	}
}

// noteTurn notes that Keep goes on.
func (s *Signer) noteTurn() { s.lastTurn.Store(int64(s.opts.BootClock())) }

// reload reads the directory, and takes what is there if it is new and good.
func (s *Signer) reload() {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, old := s.opts.Now(), s.set.Load()
	known := keydir.Digest{}
	if old != nil {
		known = old.digest
	}
	dir, digest, err := keydir.ReadChange(s.opts.KeyDir, known)
	switch {
	case errors.Is(err, keydir.ErrUnchanged):
		s.confirm(old, at)
		err = nil
	case err == nil:
		err = s.adopt(old, dir, digest, at)
		dir.Wipe()
	}
	if err != nil {
		s.keepLast(err)
		return
	}
	s.lastBad = ""
	s.metrics.reloaded(at)
}

// confirm goes on with a set that was read again.
func (s *Signer) confirm(set *keySet, at time.Time) {
	again := set.dated(at)
	if !again.served.Load() { // but perhaps by the process that hands over to this one
		s.loadServed(again)
	}
	s.set.Store(again)
}

// adopt serves the set of a directory in place of the old one.
func (s *Signer) adopt(old *keySet, dir keydir.Set, digest keydir.Digest, at time.Time) error {
	set, err := newKeySet(dir, s.opts.Backends, old)
	if err != nil {
		return err
	}
	wrong, err := set.prove()
	if wrong || err != nil && old != nil {
		return err
	}
	if err != nil {
		s.opts.Log.Error("the key set is served, although not all of it signs", "error", err)
	}
	set.digest = digest
	set = set.dated(at)
	if old == nil {
		s.loadServed(set)
	}
	s.saveServed(set) // without the keys that are gone
	s.set.Store(set)
	if old != nil && set.lacks(old) {
		s.retired.Store(true)
	}
	s.opts.Log.Info("key set taken", "keys", set.describe(), "signingVersion", dir.SigningVersion)
	s.metrics.forget(old, set)
	return nil
}

// loadServed notes what another process served.
func (s *Signer) loadServed(set *keySet) {
	if err := s.file.load(set, s.opts.BootClock()); err != nil {
		s.opts.Log.Error("what was served before is not known", "error", err)
	}
}

// keepLast keeps the last good set, and logs why once.
func (s *Signer) keepLast(err error) {
	s.metrics.reloadErrors.Inc()
	if err.Error() == s.lastBad {
		return
	}
	s.lastBad = err.Error()
	s.opts.Log.Error("the key directory is bad, and the last good key set is kept", "error", err, "serving", s.set.Load() != nil)
}

// describe names the keys without any of their bytes.
func (s *keySet) describe() []string {
	all := make([]string, 0, len(s.keys))
	for _, k := range s.keys {
		kind := "verifies"
		if k.signer != nil {
			kind = "can sign"
		}
		all = append(all, fmt.Sprintf("version %d: %s, kid %s, %s", k.version, k.Algorithm, k.KeyID, kind))
	}
	return all
}
