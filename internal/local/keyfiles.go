package local

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/pki"
)

// configuredFile says, in a key directory, with which of the keys beside it a process is to be started. It outlives
// everything; the keys themselves are files that never change once written.
const configuredFile = "configured.json"

// keyDir is the key directory of one process, mode 0700.
type keyDir string

// readConfigured fills into with what was configured; a process that never was leaves it alone.
func (d keyDir) readConfigured(into any) error {
	path := filepath.Join(string(d), configuredFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading what a process is to run with: %w", err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("reading what a process is to run with: %s: %w", path, err)
	}
	return nil
}

// configureServer tells an API server its keys, and writes those that it gets as files.
func (d keyDir) configureServer(want controlplane.Keys, keys []keystore.KeyPair) error {
	if want.External {
		return d.writeConfigured(want)
	}
	return d.configure(want, want.Verify, want.Sign, keys)
}

// configure writes the keys and then that the process is to run with them.
func (d keyDir) configure(configured any, verify []int, sign int, keys []keystore.KeyPair) error {
	for _, v := range verify {
		if err := d.writePublic(v, keys); err != nil {
			return err
		}
	}
	if err := d.writePrivate(sign, keys); err != nil {
		return err
	}
	// Crash here: keys are there that nothing names; the process starts with what was configured before, and tidy
	// removes them or the next call configures them.
	return d.writeConfigured(configured)
	// Crash here: it runs with the old keys until it is restarted, and from then on with the new ones, whoever restarts it.
}

func (d keyDir) writeConfigured(configured any) error {
	raw, err := json.Marshal(configured)
	if err != nil {
		return fmt.Errorf("encoding what a process is to run with: %w", err)
	}
	return atomicfile.Ensure(filepath.Join(string(d), configuredFile), raw)
}

func (d keyDir) writePublic(version int, keys []keystore.KeyPair) error {
	k, err := pairOf(version, keys)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(k.Signer.Public())
	if err != nil {
		return fmt.Errorf("encoding public key of version %d: %w", version, err)
	}
	return atomicfile.Ensure(filepath.Join(string(d), publicKeyFile(version)), pki.PublicKeyPEM(der))
}

func (d keyDir) writePrivate(version int, keys []keystore.KeyPair) error {
	k, err := pairOf(version, keys)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.Signer)
	if err != nil {
		return fmt.Errorf("private key of version %d cannot be written to a file", version)
	}
	return atomicfile.Ensure(filepath.Join(string(d), privateKeyFile(version)),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func pairOf(version int, keys []keystore.KeyPair) (keystore.KeyPair, error) {
	for _, k := range keys {
		if k.Version == version {
			return k, nil
		}
	}
	return keystore.KeyPair{}, fmt.Errorf("key version %d is wanted and was not given", version)
}

// use is the versions of the files that a process reads or will read.
type use struct {
	verify []int
	sign   int
}

// filesOf are those of an API server, which with a signer reads none.
func filesOf(k controlplane.Keys) use {
	if k.External {
		return use{}
	}
	return use{k.Verify, k.Sign}
}

// tidy deletes every file that none of the uses needs: keys of old versions, and what writes that were cut off left.
func (d keyDir) tidy(uses ...use) error {
	needed := map[string]bool{configuredFile: true}
	for _, u := range uses {
		needed[privateKeyFile(u.sign)] = true
		for _, v := range u.verify {
			needed[publicKeyFile(v)] = true
		}
	}
	entries, err := os.ReadDir(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for old keys: %w", err)
	}
	for _, e := range entries {
		if needed[e.Name()] {
			continue
		}
		if err := os.Remove(filepath.Join(string(d), e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("deleting old key: %w", err)
		}
	}
	return nil
}
