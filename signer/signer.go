package signer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	externaljwt "k8s.io/externaljwt/apis/v1"

	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/signer/keydir"
)

// Signer implements externaljwt.ExternalJWTSignerServer. It is safe for concurrent use. Create it with New.
type Signer struct {
	externaljwt.UnimplementedExternalJWTSignerServer

	opts    Options
	env     environment
	file    servedFile
	metrics *metrics
	tokens  *tokens
	set     atomic.Pointer[keySet]
	// saving is held only by the first FetchKeys that returns a key, while it records that.
	saving sync.Mutex

	// The rest is for reading and proving, for which neither Sign nor FetchKeys waits.
	mu       sync.Mutex
	lastBad  string
	lastTurn atomic.Int64
	problem  atomic.Pointer[string]
	// retired is true once a private key that was in memory is no longer in the directory.
	retired atomic.Bool
}

var _ externaljwt.ExternalJWTSignerServer = (*Signer)(nil)

// New returns a signer that has read its key directory once. If an option is invalid, the error names it. New succeeds
// even if the directory cannot be read: the signer logs why, and answers Unavailable until Serve has read a good key
// set.
func New(o Options) (*Signer, error) { return newSigner(o, systemEnvironment()) }

func newSigner(o Options, env environment) (*Signer, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	s := &Signer{opts: o.withDefaults(), env: env, file: servedFile{path: o.StateFile, boot: boot}}
	s.tokens = newTokens(s.opts)
	if s.metrics, err = newMetrics(s, o.Metrics); err != nil {
		return nil, err
	}
	s.noteTurn()
	s.reload()
	return s, nil
}

// Sign signs claims with the current signing key. It implements externaljwt.ExternalJWTSignerServer.
func (s *Signer) Sign(_ context.Context, r *externaljwt.SignJWTRequest) (*externaljwt.SignJWTResponse, error) {
	began := time.Now()
	token, err := readClaims(r.GetClaims())
	if err != nil {
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
	token.KeyID = k.KeyID
	if err := s.tokens.note(&token); err != nil {
		s.metrics.count(k, resultError)
		return nil, err
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
	return set.signing(s.env.bootClock)
}

var errNoKeys = errors.New("there is no good key set")

// FetchKeys returns the public keys, after which they may sign. It implements externaljwt.ExternalJWTSignerServer.
func (s *Signer) FetchKeys(
	ctx context.Context, _ *externaljwt.FetchKeysRequest,
) (*externaljwt.FetchKeysResponse, error) {
	s.metrics.fetches.Inc()
	set := s.set.Load()
	if set == nil {
		return nil, status.Error(codes.Unavailable, errNoKeys.Error())
	}
	if err := ctx.Err(); err != nil { // the caller has gone
		return nil, status.FromContextError(err).Err()
	}
	if set.noteServed(s.env.bootClock) {
		s.saveServed(set)
	}
	return set.fetched, nil
}

// saveServed records which keys the API server has, before it is answered, so that the next process knows if this one
// is killed right after. If the answer is lost instead, no harm is done, as the package comment explains.
func (s *Signer) saveServed(set *keySet) {
	s.saving.Lock()
	defer s.saving.Unlock()
	if err := s.file.save(set, s.env.bootClock()); err != nil {
		s.opts.Log.Error("after a restart, the signer will wait for the API server to fetch keys", "error", err)
	}
}

// Metadata returns how long tokens may live. It implements externaljwt.ExternalJWTSignerServer.
func (s *Signer) Metadata(context.Context, *externaljwt.MetadataRequest) (*externaljwt.MetadataResponse, error) {
	set := s.set.Load()
	if set == nil {
		return nil, status.Error(codes.Unavailable, errNoKeys.Error())
	}
	return set.metadata, nil
}

// reload reads the directory, and takes its key set if that is new and good.
func (s *Signer) reload() {
	s.mu.Lock()
	defer s.mu.Unlock()
	at, old := s.env.now(), s.set.Load()
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

// confirm keeps a set that was read again unchanged.
func (s *Signer) confirm(set *keySet, at time.Time) {
	again := set.dated(at)
	if !again.served.Load() { // the process that hands over to this one may have served it
		s.loadServed(again)
	}
	s.set.Store(again)
}

// adopt replaces the old set by the one in the directory.
func (s *Signer) adopt(old *keySet, dir keydir.Set, digest keydir.Digest, at time.Time) error {
	set, err := newKeySet(dir, backends{s.env.files, s.opts.PKCS11}, old)
	if err != nil {
		return err
	}
	wrong, err := set.prove()
	if wrong || err != nil && old != nil {
		return err
	}
	if err != nil {
		s.opts.Log.Error("serving the key set, although some of its keys cannot sign", "error", err)
	}
	set.digest = digest
	set = set.dated(at)
	s.loadServed(set)
	s.saveServed(set) // without the keys that are gone
	s.set.Store(set)
	if old != nil && set.lacks(old) {
		s.retired.Store(true)
	}
	s.opts.Log.Info("loaded key set", "keys", set.describe(), "signingVersion", dir.SigningVersion)
	s.metrics.forget(old, set)
	return nil
}

// loadServed reads which keys another process served.
func (s *Signer) loadServed(set *keySet) {
	if err := s.file.load(set, s.env.bootClock()); err != nil {
		s.opts.Log.Error("cannot read which keys were served before", "error", err)
	}
}

// keepLast keeps the last good set, and logs the reason once.
func (s *Signer) keepLast(err error) {
	s.metrics.reloadErrors.Inc()
	if err.Error() == s.lastBad {
		return
	}
	s.lastBad = err.Error()
	s.opts.Log.Error("the key directory is invalid; keeping the last good key set",
		slog.Any("error", err), hint.Attr(err), slog.Bool("serving", s.set.Load() != nil))
}

// describe describes the keys, and shows none of their bytes.
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
