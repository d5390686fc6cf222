package admincluster

import (
	"github.com/keyturn/keyturn/internal/hint"

	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/keyturn/keyturn/internal/atomicfile"
)

// encryptionConfig has no provider "identity", so an unencrypted Secret could not be read.
const encryptionConfig = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources:
  - secrets
  providers:
  - secretbox:
      keys:
      - name: key1
        secret: %s
`

// ensureSecretsKey makes the key with which the API server encrypts Secrets at rest, once.
func (p *parts) ensureSecretsKey() error {
	path := p.Path("encryption.yaml")
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Stat(p.Path("etcd")); !errors.Is(err, fs.ErrNotExist) {
		return hint.Errorf("restore the file, or delete the admin cluster",
			"%s is lost, and with it the Secrets of this admin cluster", path)
	}
	key := make([]byte, 32)
	rand.Read(key) // never fails
	return atomicfile.Ensure(path, fmt.Appendf(nil, encryptionConfig, base64.StdEncoding.EncodeToString(key)))
}
