package probe

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"io"
	"strings"
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typeddiscoveryv1 "k8s.io/client-go/kubernetes/typed/discovery/v1"
)

func writePEM(w io.Writer, der []byte) error {
	return pem.Encode(w, &pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// unlistable is an API whose lists fail.
type unlistable struct {
	typeddiscoveryv1.EndpointSliceInterface
}

func (*unlistable) List(context.Context, metav1.ListOptions) (*discoveryv1.EndpointSliceList, error) {
	return nil, errors.New("no connection")
}

func TestMainExitCodes(t *testing.T) {
	tests := []struct {
		args string
		code int
		says string
	}{
		{"", exitOK, "Available Commands"},
		{"--help", exitOK, "Exit codes"},
		{"manifests", exitOK, "minAvailable: 1"},
		{"manifests --replicas 3 --rate 2.5 --image example.com/p:1", exitOK, "minAvailable: 2"},
		{"manifests --api-servers https://10.0.0.1:6443,https://10.0.0.2:6443", exitOK,
			"--api-servers=https://10.0.0.1:6443,https://10.0.0.2:6443"},
		{"manifests --api-servers http://10.0.0.1", exitUsage, "not an https URL"},
		{"manifests --workloads once,cronjob", exitOK, "schedule: '* * * * *'"},
		{"manifests --workloads twice", exitUsage, "none of"},
		{"run --workload twice", exitUsage, "none of"},
		{"manifests --replicas 0", exitUsage, "at least one"},
		{"manifests --rate 0", exitUsage, "not above zero"},
		{"manifests -n UPPER", exitUsage, "DNS label"},
		{"manifests extra", exitUsage, "unknown command"},
		{"frobnicate", exitUsage, "unknown command"},
		{"run --frobnicate", exitUsage, "unknown flag"},
		{"run", exitFailed, "POD_NAME"},
		{"report -o xml", exitUsage, "neither table nor json"},
		{"report --kubeconfig /does/not/exist", exitFailed, "kubeconfig"},
	}
	for _, test := range tests {
		t.Run(test.args, func(t *testing.T) {
			var out bytes.Buffer
			env := Env{Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }}
			code := Main(t.Context(), env, strings.Fields(test.args))
			if code != test.code || !strings.Contains(out.String(), test.says) {
				t.Errorf("exits with %d, want %d saying %q:\n%s", code, test.code, test.says, &out)
			}
		})
	}
}
