package local

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/signer/ledger"
)

const (
	binarySigner = "keyturn-signer"
	signerLocal  = 40
	signerPort   = "9402"
	// signerSocket is relative to the directory of the API server, in which both run: a path of a socket has at most
	// 107 bytes.
	signerSocket = "signer/socket"

	// signerGrace is how long a signer that is not needed any more may take to end.
	signerGrace = 5 * time.Second
)

func signerName(i int) string { return fmt.Sprintf("signer-%d", i) }

// serverDir is where an API server and its signer run.
func (l layout) serverDir(i int) string { return l.Path(apiServerName(i)) }

// signer serves the keys of one API server on a socket that nobody else reaches. Its metrics are for this host.
func (l layout) signer(binary string, i int) process.Spec {
	return process.Spec{Name: signerName(i), Path: binary, Dir: l.serverDir(i), Args: []string{
		"--socket=" + signerSocket,
		"--key-dir=" + l.apiServerKeys(i).SignerDir,
		"--metrics-bind-address=" + net.JoinHostPort(l.Local(signerLocal+byte(i)).String(), signerPort),
	}}
}

// signedBy says that an API server which is configured with one and runs with the other of these keys needs a signer.
func signedBy(configured, running controlplane.Keys) bool {
	return configured.External || running.External
}

// convergeSigner has the signer run before its API server starts. One that the API server runs with but is not
// configured with any more goes on as it is until the API server has ended.
func (c *serverChange) convergeSigner() error {
	if !signedBy(c.Configured, c.Running) {
		return c.removeSigner()
	}
	path, err := c.host.program(binarySigner)
	if err != nil {
		return err
	}
	return c.start(c.signer(path, c.i))
}

// removeSigner ends the signer of an API server that does not need it any more, and removes its keys.
func (c *serverChange) removeSigner() error {
	disk := c.apiServerKeys(c.i)
	if _, err := os.Lstat(disk.SignerDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	gone, err := c.run.Stop(signerName(c.i), signerGrace)
	if err != nil || !gone {
		return err
	}
	if err := os.RemoveAll(filepath.Join(c.serverDir(c.i), filepath.Dir(signerSocket))); err != nil {
		return err
	}
	// The keys go last: as long as they are there, the next call comes here again.
	return disk.RemoveSigner()
}

// ledger reads which tokens the signer of an API server has signed. It is removed with the signer.
func (l layout) ledger(i int) (ledger.Report, error) {
	r, err := ledger.Read(filepath.Join(l.serverDir(i), filepath.Dir(signerSocket), "ledger"), time.Now())
	if errors.Is(err, fs.ErrNotExist) {
		return r, controlplane.ErrNoLedger
	}
	return r, err
}

// runningKeys are those of an API server that was started with the keys of its stamp. A signer may have been
// given others since.
func (l layout) runningKeys(i int, stamp string, configured controlplane.Keys) (controlplane.Keys, error) {
	k, err := keysOfStamp(stamp)
	switch {
	case err != nil || !k.External:
		return k, err
	case configured.External:
		return configured, nil
	}
	if served, ok := l.apiServerKeys(i).Served(); ok {
		return served, nil
	}
	return k, nil
}
