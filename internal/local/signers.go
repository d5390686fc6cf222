package local

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/signer/keydir"
)

const (
	binarySigner = "keyturn-signer"
	signerLocal  = 40
	signerPort   = "9402"
	// signerSocket is relative to the directory of the API server, in which both run: a path of a socket has at most 107 bytes.
	signerSocket = "signer/socket"
	signerKeys   = "signer-keys"

	// How often API servers ask for the keys by themselves. A rotation does not wait for it: canary tokens make them ask.
	refreshHint         = time.Hour
	rotationRefreshHint = 5 * time.Second
	// maxTokenExpiration is what an API server with keys from files grants too, by extending tokens of pods.
	maxTokenExpiration = 365 * 24 * time.Hour

	// signerGrace is how long a signer that is not needed any more may take to end.
	signerGrace = 5 * time.Second
)

func signerName(i int) string { return fmt.Sprintf("signer-%d", i) }

// serverDir is where an API server and its signer run.
func (l layout) serverDir(i int) string { return l.Path(apiServerName(i)) }

func (l layout) signerKeys(i int) string { return filepath.Join(l.serverDir(i), signerKeys) }

// signer serves the keys of one API server on a socket that nobody else reaches. Its metrics are for this host.
func (l layout) signer(binary string, i int) process.Spec {
	return process.Spec{Name: signerName(i), Path: binary, Dir: l.serverDir(i), Args: []string{
		"--socket=" + signerSocket,
		"--key-dir=" + l.signerKeys(i),
		"--metrics-bind-address=" + net.JoinHostPort(l.Local(signerLocal+byte(i)).String(), signerPort),
	}}
}

// signedBy says that an API server which is configured with one and runs with the other of these keys needs a signer.
func signedBy(configured, running controlplane.Keys) bool {
	return configured.External || running.External
}

// convergeSigner makes the signer serve what its API server is configured with, and run, before that starts. One that the API server
// runs with but is not configured with any more goes on as it is until the API server has ended.
func (c *serverChange) convergeSigner(keys []keystore.KeyPair) error {
	if !signedBy(c.Configured, c.Running) {
		return c.removeSigner()
	}
	if c.Configured.External {
		set, err := keySet(c.Configured, keys)
		if err != nil {
			return err
		}
		if err := keydir.Write(c.signerKeys(c.i), set); err != nil {
			return err
		}
		// Crash here: the signer serves the keys that the API server is configured with, which is proven by asking the API server.
	}
	path, err := c.host.program(binarySigner)
	if err != nil {
		return err
	}
	return c.start(c.signer(path, c.i))
}

// removeSigner ends the signer of an API server that does not need it any more, and removes its keys.
func (c *serverChange) removeSigner() error {
	if _, err := os.Lstat(c.signerKeys(c.i)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	gone, err := c.run.Stop(signerName(c.i), signerGrace)
	if err != nil || !gone {
		return err
	}
	// The keys go last: as long as they are there, the next call comes here again.
	return errors.Join(os.RemoveAll(filepath.Join(c.serverDir(c.i), filepath.Dir(signerSocket))), os.RemoveAll(c.signerKeys(c.i)))
}

// keySet is what a signer is to serve for these keys.
func keySet(want controlplane.Keys, keys []keystore.KeyPair) (keydir.Set, error) {
	set := keydir.Set{
		SigningVersion: want.Sign, RefreshHint: refreshHint, RotationRefreshHint: rotationRefreshHint,
		MaxTokenExpiration: maxTokenExpiration,
	}
	for _, v := range want.Verify {
		pair, err := pairOf(v, keys)
		if err != nil {
			return set, err
		}
		k, err := keydir.NewKey(v, pair.Signer)
		if err != nil {
			return set, err
		}
		set.Keys = append(set.Keys, k)
	}
	return set, nil
}

// served is what a signer was last told to serve; false when that cannot be read.
func (l layout) served(i int) (controlplane.Keys, bool) {
	set, _, err := keydir.Read(l.signerKeys(i))
	if err != nil {
		return controlplane.Keys{}, false
	}
	k := controlplane.Keys{Sign: set.SigningVersion, External: true}
	for _, key := range set.Keys {
		k.Verify = append(k.Verify, key.Version)
	}
	return k, true
}

// runningKeys are those of an API server that was started with the keys of its stamp. A signer may have been told others since.
func (l layout) runningKeys(i int, stamp string, configured controlplane.Keys) (controlplane.Keys, error) {
	k, err := keysOfStamp(stamp)
	switch {
	case err != nil || !k.External:
		return k, err
	case configured.External:
		return configured, nil
	}
	if served, ok := l.served(i); ok {
		return served, nil
	}
	return k, nil
}
