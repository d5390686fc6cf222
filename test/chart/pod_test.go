package chart

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// TestScheduleWithoutKubeconfig runs gkectl as the pods of the CronJob do: without a kubeconfig, and with a token of
// their service account where kubelets put it.
func TestScheduleWithoutKubeconfig(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting the directory of the token needs root")
	}
	r := newRelease(t)
	r.helm("install", "keyturn", chart, "--create-namespace", "--set", "schedule.enabled=true")
	server, err := url.Parse("https://" + strings.TrimPrefix(r.config.Host, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(server.Host)
	if err != nil {
		t.Fatal(err)
	}
	uc := newUserCluster(v1alpha1.SystemNamespace, "blue")
	administrator, _ := r.as("administrator", "system:masters")
	eventually(t, "the UserCluster to be taken", func(ctx context.Context) error {
		return client.IgnoreAlreadyExists(administrator.Create(ctx, uc.DeepCopy()))
	})
	args := append([]string{"-c", `set -e
mount -t tmpfs none /run
mkdir -p /run/secrets/kubernetes.io
cp -r "$1" /run/secrets/kubernetes.io/serviceaccount
shift
exec "$@"`, "sh", r.mountedToken("keyturn-rotate")}, gkectl(t).Path)
	args = append(args, scheduled(t).Spec.JobTemplate.Spec.Template.Spec.Containers[0].Args...)
	cmd := exec.CommandContext(t.Context(), "sh", append(args, "--dry-run", "-o=json")...)
	cmd.Dir = t.TempDir()
	cmd.Env = append(os.Environ(), "KUBERNETES_SERVICE_HOST="+host, "KUBERNETES_SERVICE_PORT="+port)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), `"cluster": "blue"`) {
		t.Errorf("%v, want cluster blue to be planned:\n%s", err, out)
	}
}

// mountedToken returns a directory with what kubelets mount of a ServiceAccount.
func (r *release) mountedToken(account string) string {
	r.t.Helper()
	c, err := kubernetes.NewForConfig(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	token, err := c.CoreV1().ServiceAccounts(v1alpha1.SystemNamespace).CreateToken(r.t.Context(), account,
		&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	dir := r.t.TempDir()
	for name, content := range map[string]string{
		"token": token.Status.Token, "ca.crt": string(r.config.CAData), "namespace": v1alpha1.SystemNamespace,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			r.t.Fatal(fmt.Errorf("writing %s: %w", name, err))
		}
	}
	return dir
}
