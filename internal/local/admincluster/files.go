package admincluster

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// Files are where the administrator gets copies of the files needed to use this host.
type Files struct {
	// FleetKey is the path for the service account key that registers clusters with the local fleet, with mode 0600,
	// and FleetCA the path for the certificate of the fleet.
	FleetKey, FleetCA string
	// LocalCredentials is a directory for the credentials with which a controller calls keyturn-local: tls.crt, tls.key
	// and ca.crt, with mode 0600, as a Secret of type kubernetes.io/tls has them.
	LocalCredentials string
}

// copies maps the files that are copied for the administrator to their destinations.
func (c *Cluster) copies(to Files) map[string]string {
	copies := map[string]string{
		c.fleetFile("register-key.json"): to.FleetKey, c.Site().Path("pki", "fleet-ca.crt"): to.FleetCA,
	}
	maps.DeleteFunc(copies, func(_, to string) bool { return to == "" })
	if to.LocalCredentials != "" {
		for _, name := range []string{"tls.crt", "tls.key", "ca.crt"} {
			copies[filepath.Join(c.localCredentials(), name)] = filepath.Join(to.LocalCredentials, name)
		}
	}
	return copies
}

// writeFiles writes the copies.
func (p *parts) writeFiles(to Files) error {
	for from, to := range p.copies(to) {
		data, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("reading a file of the admin cluster: %w", err)
		}
		if err := atomicfile.Ensure(to, data); err != nil {
			return err
		}
	}
	return nil
}

// FilesLike returns the paths that hold a copy as Create writes it.
func (c *Cluster) FilesLike(files Files) []string {
	var same []string
	for from, to := range c.copies(files) {
		original, errFrom := os.ReadFile(from)
		copied, errTo := os.ReadFile(to)
		if err := errors.Join(errFrom, errTo); err == nil && bytes.Equal(original, copied) {
			same = append(same, to)
		}
	}
	return same
}
