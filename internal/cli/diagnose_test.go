package cli

import (
	"context"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestDiagnose runs its scripts on an API server of their own, since everything in a cluster counts.
func TestDiagnose(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{
		APIServerArgs: map[string][]string{"service-account-issuer": {"https://issuer.test"}, "authorization-mode": {"RBAC"}},
	})
	if err := makeAdmin(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	shared := server
	server = config
	t.Cleanup(func() { server = shared })
	runScripts(t, "diagnose")
}

// cmdKeySecret stores what looks like a key version of a cluster: keysecret CLUSTER VERSION.
func cmdKeySecret(ts *testscript.TestScript, _ bool, args []string) {
	c, err := controllerClient()
	ts.Check(err)
	uc := getCluster(ts, c, args[0])
	ts.Check(c.Create(context.Background(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: uc.Namespace, Name: uc.Name + "-ksa-signing-key-" + args[1], Labels: map[string]string{
				v1alpha1.LabelCluster: uc.Name, v1alpha1.LabelClusterUID: string(uc.UID), v1alpha1.LabelKeyVersion: args[1],
			},
		},
		Type: v1alpha1.SecretTypeSigningKey,
		Data: map[string][]byte{"key": []byte("not a key")},
	}))
}
