package kubetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubeconfig"
)

// AsController returns a copy of config that has the roles of the controller in the admin cluster, and no others.
func AsController(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: v1alpha1.ControllerUser,
		Groups: []string{
			"system:serviceaccounts", "system:serviceaccounts:" + v1alpha1.SystemNamespace, "system:authenticated",
		},
	}
	return config
}

// Kubeconfig returns a kubeconfig file for a client with a certificate, and for the user that it impersonates.
func Kubeconfig(config *rest.Config) ([]byte, error) {
	const user = "user"
	host := strings.TrimSuffix(strings.TrimPrefix(config.Host, "https://"), "/")
	data, err := kubeconfig.Access{
		Server: "https://" + host, CertificateAuthority: config.CAData, Certificate: config.CertData, Key: config.KeyData,
	}.File("test", user)
	if err != nil || config.Impersonate.UserName == "" {
		return data, err
	}
	file, err := clientcmd.Load(data)
	if err != nil {
		return nil, err
	}
	file.AuthInfos[user].Impersonate = config.Impersonate.UserName
	file.AuthInfos[user].ImpersonateGroups = config.Impersonate.Groups
	return clientcmd.Write(*file)
}

// WriteKubeconfig is Kubeconfig for a file of a test. It returns the path.
func WriteKubeconfig(tb testing.TB, config *rest.Config) string {
	tb.Helper()
	data, err := Kubeconfig(config)
	if err != nil {
		tb.Fatalf("making a kubeconfig: %v", err)
	}
	path := filepath.Join(tb.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatalf("writing a kubeconfig: %v", err)
	}
	return path
}
