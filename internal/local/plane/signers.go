package plane

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/programs"
	"github.com/keyturn/keyturn/signer/ledger"
)

// signerGrace is how long a signer that is no longer needed may take to stop.
const signerGrace = 5 * time.Second

// signedBy reports whether an API server that is configured with one and runs with the other of these keys needs a
// signer.
func signedBy(configured, running controlplane.Keys) bool {
	return configured.External || running.External
}

// convergeSigner starts the signer before its API server. A signer that the API server still runs with but is no longer
// configured with does not change until the API server has stopped.
func (c *serverChange) convergeSigner() error {
	if !signedBy(c.Configured, c.Running) {
		return c.removeSigner()
	}
	path, err := c.host.Programs.Own(programs.Signer)
	if err != nil {
		return err
	}
	return c.StartProcess(c.SignerProcess(path, c.i))
}

// removeSigner stops a signer that its API server no longer needs, and removes its keys.
func (c *serverChange) removeSigner() error {
	disk := c.APIServerKeys(c.i)
	if _, err := os.Lstat(disk.SignerDir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	gone, err := c.Processes.Stop(components.SignerName(c.i), signerGrace)
	if err != nil || !gone {
		return err
	}
	if err := os.RemoveAll(filepath.Join(c.ServerDir(c.i), filepath.Dir(components.SignerSocket))); err != nil {
		return err
	}
	// The keys go last: as long as they exist, the next call comes here again.
	return disk.RemoveSigner()
}

// ledgerOf reads the ledger of an API server's signer. The file is removed with the signer.
func ledgerOf(l components.Layout, i int) (ledger.Report, error) {
	r, err := ledger.Read(filepath.Join(l.ServerDir(i), filepath.Dir(components.SignerSocket), "ledger"), time.Now())
	if errors.Is(err, fs.ErrNotExist) {
		return r, controlplane.ErrNoLedger
	}
	return r, err
}
