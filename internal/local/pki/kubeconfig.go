package pki

import (
	"fmt"
	"os"

	"github.com/keyturn/keyturn/internal/kubeconfig"
)

// Kubeconfig returns a self-contained kubeconfig file that reaches an API server with a client certificate. cluster and
// user are its names for the two.
func Kubeconfig(server, cluster, user string, caPEM []byte, client Pair) ([]byte, error) {
	cert, err := os.ReadFile(client.CertFile)
	if err != nil {
		return nil, fmt.Errorf("rendering kubeconfig of %s: %w", user, err)
	}
	key, err := os.ReadFile(client.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("rendering kubeconfig of %s: %w", user, err)
	}
	access := kubeconfig.Access{Server: server, CertificateAuthority: caPEM, Certificate: cert, Key: key}
	return access.File(cluster, user)
}
