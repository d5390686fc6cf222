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

// signerGrace is how long a signer that is not needed any more may take to end.
const signerGrace = 5 * time.Second

// signedBy reports whether an API server which is configured with one and runs with the other of these keys needs a
// signer.
func signedBy(configured, running controlplane.Keys) bool {
	return configured.External || running.External
}

// convergeSigner has the signer run before its API server starts. One that the API server runs with but is not
// configured with any more goes on as it is until the API server has ended.
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

// removeSigner ends the signer of an API server that does not need it any more, and removes its keys.
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
	// The keys go last: as long as they are there, the next call comes here again.
	return disk.RemoveSigner()
}

// ledgerOf reads which tokens the signer of an API server has signed. The file is removed with the signer.
func ledgerOf(l components.Layout, i int) (ledger.Report, error) {
	r, err := ledger.Read(filepath.Join(l.ServerDir(i), filepath.Dir(components.SignerSocket), "ledger"), time.Now())
	if errors.Is(err, fs.ErrNotExist) {
		return r, controlplane.ErrNoLedger
	}
	return r, err
}
