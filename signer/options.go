package signer

import (
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyturn/keyturn/internal/signer/backend"
	"github.com/keyturn/keyturn/signer/keydir"
)

// Options are the options of New. Only KeyDir is required.
type Options struct {
	// KeyDir is the path of the key directory. Its parent directory must exist for changes to be noticed at once.
	KeyDir string

	// StateFile is the path of the file that records which keys the API server has. It must be outside the key
	// directory. If it is empty, a new process signs nothing until the API server fetches its keys again, which may
	// take as long as the refresh hint.
	StateFile string

	// LedgerFile is the path of the ledger, which records until when signed tokens are valid (package ledger). It must
	// be outside the key directory, on a local disk. If it is empty, tokens are not recorded.
	LedgerFile string

	// ReloadInterval is how often the directory is read without a change notification, and how often the ledger is
	// maintained. Zero means 5 seconds.
	ReloadInterval time.Duration

	// DrainTimeout is how long pending calls may take after Serve is stopped. Zero means 10 seconds.
	DrainTimeout time.Duration

	// PKCS11 opens the keys that a PKCS #11 URI names. If it is nil, a key set with such a key is refused.
	PKCS11 Backend

	// Log receives errors, and the key sets that are taken. Nil means slog.Default().
	Log *slog.Logger

	// Metrics registers the metrics of the signer. If it is nil, there are none.
	Metrics prometheus.Registerer
}

// Backend opens private keys that are not in files.
type Backend interface {
	// Open returns the private key of k. Several goroutines use it at once, also after k was wiped. Its Public must
	// return the public key of k. Open fails if k can never be opened. It succeeds for a key that is only out of reach:
	// Sign of such a key fails quickly, and works again once the key is back. No error contains any part of a private
	// key or a PIN.
	Open(k keydir.Key) (crypto.Signer, error)
}

// The defaults of Options.
const (
	defaultReloadInterval = 5 * time.Second
	defaultDrainTimeout   = 10 * time.Second
)

// validate returns an error that names each invalid option.
func (o Options) validate() error {
	var all []error
	bad := func(option, why string) { all = append(all, fmt.Errorf("option %s of the signer %s", option, why)) }
	if o.KeyDir == "" {
		bad("KeyDir", "is missing")
	} else if o.StateFile != "" && within(o.KeyDir, o.StateFile) {
		bad("StateFile", "is in the key directory, where the next key set removes it")
	}
	if o.KeyDir != "" && o.LedgerFile != "" && within(o.KeyDir, o.LedgerFile) {
		bad("LedgerFile", "is in the key directory, where the next key set removes it")
	}
	if o.ReloadInterval < 0 {
		bad("ReloadInterval", "is negative")
	}
	if o.DrainTimeout < 0 {
		bad("DrainTimeout", "is negative")
	}
	return errors.Join(all...)
}

// within reports whether a path is inside a directory, judging by names only.
func within(dir, path string) bool {
	absDir, errDir := filepath.Abs(dir)
	absPath, errPath := filepath.Abs(path)
	if errDir != nil || errPath != nil {
		return false
	}
	relative, err := filepath.Rel(absDir, absPath)
	return err == nil && filepath.IsLocal(relative)
}

// withDefaults replaces zero values by the defaults.
func (o Options) withDefaults() Options {
	if o.ReloadInterval == 0 {
		o.ReloadInterval = defaultReloadInterval
	}
	if o.DrainTimeout == 0 {
		o.DrainTimeout = defaultDrainTimeout
	}
	if o.Log == nil {
		o.Log = slog.Default()
	}
	return o
}

// environment is what a signer uses of its process. Tests replace it.
type environment struct {
	// files opens keys that are in files.
	files Backend
	// now is the wall clock. It only dates what was read.
	now func() time.Time
	// bootClock is the clock that nobody can set.
	bootClock func() time.Duration
}

func systemEnvironment() environment {
	return environment{files: backend.PEM{}, now: time.Now, bootClock: bootClock}
}

// backends open the keys of a directory, by where they are stored.
type backends struct{ files, pkcs11 Backend }

var errNoPKCS11 = errors.New("it is in a PKCS #11 token, and option PKCS11 of the signer is not set")

func (b backends) open(k keydir.Key) (crypto.Signer, error) {
	switch {
	case k.PKCS11 == "":
		return b.files.Open(k)
	case b.pkcs11 == nil:
		return nil, errNoPKCS11
	}
	return b.pkcs11.Open(k)
}
