package kubetest_test

import (
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyturn/keyturn/internal/kubeconfig"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestKubeconfig asks an API server who the user of a kubeconfig file is.
func TestKubeconfig(t *testing.T) {
	admin := kubetest.Start(t, kubetest.Options{})
	for _, test := range []struct {
		config *rest.Config
		user   string
		groups int
	}{
		{admin, "admin", 2},
		{kubetest.AsController(admin), "system:serviceaccount:keyturn-system:keyturn-controller", 3},
	} {
		config, err := clientcmd.BuildConfigFromFlags("", kubetest.WriteKubeconfig(t, test.config))
		if err != nil {
			t.Fatal(err)
		}
		who, err := kubernetes.NewForConfigOrDie(config).AuthenticationV1().SelfSubjectReviews().Create(
			t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if info := who.Status.UserInfo; info.Username != test.user || len(info.Groups) != test.groups {
			t.Errorf("it is %+v, want %s of %d groups", info, test.user, test.groups)
		}
	}
	data, err := kubetest.Kubeconfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kubeconfig.Parse(data); err != nil {
		t.Errorf("the file of an administrator is not as Keyturn writes it: %v", err)
	}
}
