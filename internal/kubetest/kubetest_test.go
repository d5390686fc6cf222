package kubetest

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func TestStart(t *testing.T) {
	config := Start(t, Options{APIServerArgs: map[string][]string{
		"service-account-issuer": {"https://issuer.test", "https://older.issuer.test"},
	}})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	version, err := client.Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if version.GitVersion != Version {
		t.Errorf("version = %s, want %s", version.GitVersion, Version)
	}
	if _, err := client.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	discovery, err := client.RESTClient().Get().AbsPath("/.well-known/openid-configuration").DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(discovery), `"https://issuer.test"`) {
		t.Errorf("the server does not use the arguments given: %s", discovery)
	}
}

func TestMissingBinaries(t *testing.T) {
	t.Setenv("KUBEBUILDER_ASSETS", t.TempDir())
	_, err := BinDir()
	if err == nil || !strings.Contains(err.Error(), "make kube") {
		t.Errorf("BinDir = %v, want an error that names `make kube`", err)
	}
}
