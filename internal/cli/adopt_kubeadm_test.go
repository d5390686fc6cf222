package cli

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/diagnose"
	"github.com/keyturn/keyturn/internal/kubeconfig"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
	"github.com/keyturn/keyturn/internal/local/kubeadm/kubeadmtest"
)

// TestAdoptKubeadm adopts a cluster that the real kubeadm made. Nothing of it is written by that.
func TestAdoptKubeadm(t *testing.T) {
	c := kubeadmtest.New(t, kubeadm.Options{Algorithm: "RSA-3072"})
	c.Must(c.Start(t.Context(), "cp-1", kubeadm.ControlPlane))
	c.Must(c.Init(t.Context(), "cp-1"))
	raw, err := c.Kubeconfig()
	c.Must(err)
	dir := t.TempDir()
	c.Must(os.WriteFile(filepath.Join(dir, "admin.conf"), raw, 0o600))
	c.Must(writeAdminKubeconfig(filepath.Join(dir, "kubeconfig"), server))
	file := filepath.Join(dir, "prod.yaml")
	c.Must(os.WriteFile(file, []byte("apiVersion: v1\nkind: UserCluster\nname: adopted\n"+
		"infrastructure: {kubeadm: {kubeconfigPath: admin.conf}}\n"), 0o600))
	run := func(args ...string) (code int, out, errors string) {
		a, stdout, stderr := testEnv()
		args = append(args, "--config", file, "--kubeconfig", filepath.Join(dir, "kubeconfig"))
		code = Run(t.Context(), a.Env, args)
		return code, stdout.String(), stderr.String()
	}

	var found adoptionPreview
	c.Eventually("the mirror pods, which come later than what they mirror", func(context.Context) error {
		code, out, said := run("adopt", "--dry-run", "-o", "json")
		if code != ExitOK {
			return errors.New(out + said)
		}
		return json.Unmarshal([]byte(out), &found)
	})
	if len(found.Servers) != 1 || found.Servers[0].Node != "cp-1" || found.Algorithm != "RS256" ||
		found.Issuer != v1alpha1.DefaultIssuer || found.SigningKeyID != found.Servers[0].SigningKeyID ||
		len(found.ForeignKeyIDs)+len(found.Warnings) > 0 || found.KubeconfigExpires == nil {
		t.Errorf("found is %+v", found)
	}
	_, err = c.Client().CoreV1().ServiceAccounts(metav1.NamespaceSystem).Get(t.Context(), "keyturn-canary",
		metav1.GetOptions{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the dry run made an account: %v", err)
	}
	code, out, said := run("adopt", "--skip-prompt", "--wait=false")
	if code != ExitOK || out != "User cluster adopted is being adopted.\n" || !strings.Contains(said, found.SigningKeyID) {
		t.Errorf("adopt ends with %d: %s%s", code, out, said)
	}
	checkAdopted(t)
	diagnoseAdopted(t, filepath.Join(dir, "kubeconfig"))
	if code, _, said := run("adopt", "--skip-prompt", "--wait=false"); code != ExitOK ||
		!strings.Contains(said, "exists already") {
		t.Errorf("adopted again, it ends with %d: %s", code, said)
	}
}

// diagnoseAdopted checks a control plane that kubeadm made, whose API server is asked alone. No controller runs.
func diagnoseAdopted(t *testing.T, kubeconfig string) {
	t.Helper()
	a, stdout, stderr := testEnv()
	code := Run(t.Context(), a.Env, []string{
		"diagnose", "cluster", "--kubeconfig", kubeconfig, "--cluster-name", "adopted", "-o", "json",
	})
	var report diagnose.Report
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil || code != ExitUnhealthy {
		t.Fatalf("diagnose ends with %d: %v: %s", code, err, stderr)
	}
	want := map[string]bool{"kubeconfig": true, "Kubernetes API": true, "clock": true, "control plane": true}
	for _, c := range report.Checks {
		if c.Category != "Access to the cluster" || !want[c.Name] {
			continue
		}
		delete(want, c.Name)
		if c.Result != diagnose.Pass || c.Name == "control plane" && !strings.HasPrefix(c.Detail, "1 API servers") {
			t.Errorf("%s: %+v", c.Name, c)
		}
	}
	if len(want) > 0 {
		t.Errorf("not checked: %v in %+v", want, report.Checks)
	}
}

// checkAdopted wants a UserCluster of what was found, and the Secret that it names.
func checkAdopted(t *testing.T) {
	t.Helper()
	admin, err := controllerClient()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { deleteClusters(t) })
	uc := &v1alpha1.UserCluster{}
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: "adopted"},
		uc); err != nil {
		t.Fatal(err)
	}
	if k := uc.Spec.KSASigningKey; k.Issuer != v1alpha1.DefaultIssuer || k.Algorithm != v1alpha1.RS256 || k.Version != 1 {
		t.Errorf("the spec has %+v", k)
	}
	secret := &corev1.Secret{}
	name := uc.Spec.Infrastructure.Kubeadm.KubeconfigSecret
	if err := admin.Get(t.Context(), client.ObjectKey{Namespace: uc.Namespace, Name: name}, secret); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := admin.Delete(context.Background(), secret); err != nil {
			t.Error(err)
		}
	})
	if _, err := kubeconfig.Parse(secret.Data[v1alpha1.KubeconfigKey]); err != nil ||
		secret.Labels[v1alpha1.LabelCluster] != "adopted" {
		t.Errorf("the kubeconfig is kept as %v: %v", secret.Labels, err)
	}
}
