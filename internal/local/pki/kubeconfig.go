package pki

import (
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// Kubeconfig renders a kubeconfig file that reaches an API server by a client certificate, all parts inside.
// cluster and user are its names for the two.
func Kubeconfig(server, cluster, user string, caPEM []byte, client Pair) ([]byte, error) {
	cert, err := os.ReadFile(client.CertFile)
	if err != nil {
		return nil, fmt.Errorf("rendering kubeconfig of %s: %w", user, err)
	}
	key, err := os.ReadFile(client.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("rendering kubeconfig of %s: %w", user, err)
	}
	name := user + "@" + cluster
	raw, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{cluster: {Server: server, CertificateAuthorityData: caPEM}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{user: {ClientCertificateData: cert, ClientKeyData: key}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: cluster, AuthInfo: user}},
		CurrentContext: name,
	})
	if err != nil {
		return nil, fmt.Errorf("rendering kubeconfig of %s: %w", user, err)
	}
	return raw, nil
}
