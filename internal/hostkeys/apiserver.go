package hostkeys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/signer/keydir"
)

// The settings of a signer besides its keys.
const (
	// refreshHint and rotationRefreshHint are how often API servers fetch the keys on their own. A rotation does not
	// wait for that, since canary tokens make them fetch.
	refreshHint         = time.Hour
	rotationRefreshHint = 5 * time.Second
)

// MaxTokenExpiration is the longest life that an API server with a signer gives a token. An API server with key files
// gives pod tokens, which it extends, the same life.
const MaxTokenExpiration = 365 * 24 * time.Hour

// APIServer manages the keys of one kube-apiserver.
type APIServer struct {
	// Dir is its key directory.
	Dir string
	// SignerDir is the key directory of its signer.
	SignerDir string

	fault func(disk) disk
}

func (s APIServer) directory() directory { return directory{s.Dir, s.fault} }

// PublicKey returns the path of the verification key of a version.
func (s APIServer) PublicKey(version int) string { return filepath.Join(s.Dir, publicKeyFile(version)) }

// PrivateKey returns the path of the signing key of a version.
func (s APIServer) PrivateKey(version int) string {
	return filepath.Join(s.Dir, privateKeyFile(version))
}

// Configured returns what the API server will run with when it next starts or, with external keys, what its signer
// should serve; zero before the first Configure.
func (s APIServer) Configured() (rotation.Keys, error) {
	var held rotation.Keys
	err := s.directory().read(func(files disk) (err error) {
		held, err = heldKeys(files)
		return err
	})
	if err != nil {
		return rotation.Keys{}, fmt.Errorf("reading the keys of an API server in %s: %w", s.Dir, err)
	}
	return held, nil
}

func heldKeys(files disk) (rotation.Keys, error) {
	var k rotation.Keys
	found, err := readConfigured(files, &k)
	if err != nil || !found {
		return rotation.Keys{}, err
	}
	if err := Check(k); err != nil {
		return rotation.Keys{}, fmt.Errorf("%s: %w", configuredFile, err)
	}
	return k, nil
}

// Configure sets what the API server should run with, and makes its signer, if it has one, serve it. keys holds at
// least the versions of want. If the directory holds keys of a later stage, Configure returns ErrStale and writes
// nothing.
func (s APIServer) Configure(want rotation.Keys, keys []Key) error {
	if err := s.configure(want, keys); err != nil {
		return fmt.Errorf("writing the keys of an API server to %s: %w", s.Dir, err)
	}
	return nil
}

func (s APIServer) configure(want rotation.Keys, keys []Key) error {
	if err := Check(want); err != nil {
		return err
	}
	if err := makeDir(s.Dir); err != nil {
		return err
	}
	return s.directory().change(func(files disk) error {
		held, err := heldKeys(files)
		if err != nil {
			return err
		}
		if want.Stage() < held.Stage() {
			return fmt.Errorf("%w: it should %s, and no longer %s", ErrStale, describe(held), describe(want))
		}
		if want.External {
			return s.configureSigner(files, want, keys)
		}
		if err := writeKeys(files, want.Verify, want.Sign, keys); err != nil {
			return err
		}
		return writeConfigured(files, want)
	})
}

// configureSigner writes configured.json first. The signer's key directory follows from it, so a damaged key directory
// cannot make a rotation seem not to have begun.
func (s APIServer) configureSigner(files disk, want rotation.Keys, keys []Key) error {
	set, err := KeySet(want, keys)
	if err != nil {
		return err
	}
	if err := writeConfigured(files, want); err != nil {
		return err
	}
	// A crash here leaves the signer with its old keys until Repair.
	return keydir.Write(s.SignerDir, set)
}

// Repair writes the configured keys again, if a crash or somebody damaged them. It does nothing if some of the
// configured versions are not in keys: a machine that comes back with retired keys must be configured first.
func (s APIServer) Repair(keys []Key) error {
	err := s.directory().clean(func(files disk) error {
		held, err := heldKeys(files)
		if err != nil || !given(held, keys) {
			return err
		}
		if held.External {
			return s.configureSigner(files, held, keys)
		}
		return writeKeys(files, held.Verify, held.Sign, keys)
	})
	if err != nil {
		return fmt.Errorf("repairing the keys of an API server in %s: %w", s.Dir, err)
	}
	return nil
}

// KeySet returns the key set that a signer should serve for these keys, valid for keydir.Write. keys holds at least the
// versions of want.
func KeySet(want rotation.Keys, keys []Key) (keydir.Set, error) {
	set := keydir.Set{
		SigningVersion: want.Sign, RefreshHint: refreshHint, RotationRefreshHint: rotationRefreshHint,
		MaxTokenExpiration: MaxTokenExpiration,
	}
	for _, version := range want.Verify {
		given, err := versionOf(version, keys)
		if err != nil {
			return set, err
		}
		k, err := keydir.NewKey(version, given.Signer)
		if err != nil {
			return set, err
		}
		set.Keys = append(set.Keys, k)
	}
	return set, set.Validate()
}

// Served returns what the signer's key directory holds; false if it cannot be read.
func (s APIServer) Served() (rotation.Keys, bool) {
	set, _, err := keydir.Read(s.SignerDir)
	if err != nil {
		return rotation.Keys{}, false
	}
	k := rotation.Keys{Sign: set.SigningVersion, External: true}
	for _, key := range set.Keys {
		k.Verify = append(k.Verify, key.Version)
	}
	return k, true
}

// Held returns the key versions whose private key is on the disk, ascending: as a file, or for the signer.
func (s APIServer) Held() ([]int, error) {
	var versions []int
	err := s.directory().read(func(files disk) (err error) {
		versions, err = held(files)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listing the private keys in %s: %w", s.Dir, err)
	}
	if k, ok := s.Served(); ok {
		versions = append(versions, k.Verify...)
	}
	slices.Sort(versions)
	return slices.Compact(versions), nil
}

// Tidy deletes every key file that neither the configuration nor the running process needs, and what interrupted calls
// left. running is what the process runs with.
func (s APIServer) Tidy(running rotation.Keys) error {
	err := s.directory().clean(func(files disk) error {
		held, err := heldKeys(files)
		if err != nil {
			return err
		}
		return tidy(files, append(filesOf(held), filesOf(running)...))
	})
	if err != nil {
		return fmt.Errorf("deleting old keys of an API server in %s: %w", s.Dir, err)
	}
	return nil
}

// filesOf returns the key files that an API server reads: none if it has a signer.
func filesOf(k rotation.Keys) []string {
	if k.External || k.IsZero() {
		return nil
	}
	names := []string{privateKeyFile(k.Sign)}
	for _, version := range k.Verify {
		names = append(names, publicKeyFile(version))
	}
	return names
}

// RemoveSigner deletes the key directory of a signer that has stopped. It refuses while the API server is configured
// with external keys.
func (s APIServer) RemoveSigner() error {
	err := s.directory().change(func(files disk) error {
		held, err := heldKeys(files)
		if err != nil {
			return err
		}
		if held.External {
			return errors.New("the API server needs its signer")
		}
		if err := os.RemoveAll(s.SignerDir); err != nil {
			return err
		}
		return syncDir(filepath.Dir(s.SignerDir))
	})
	if err != nil {
		return fmt.Errorf("removing the keys of a signer from %s: %w", s.SignerDir, err)
	}
	return nil
}
