package controllercmd

import (
	"bytes"
	"net/url"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
)

func TestFlags(t *testing.T) {
	var stderr bytes.Buffer
	f, err := parse(nil, &stderr)
	want := flags{
		metrics: "127.0.0.1:8080", health: "127.0.0.1:8081", manager: f.manager,
		kubeadm: kubeadmFlags{images: kubeadm.Images{Namespace: "keyturn-agent"}},
	}
	if err != nil || !reflect.DeepEqual(f, want) || stderr.Len() > 0 {
		t.Errorf("defaults: got %+v, %v, %q", f, err, stderr.String())
	}
	f, err = parse([]string{
		"--kubeconfig=k", "--metrics-bind-address=m", "--health-probe-bind-address=h",
		"--local-endpoint=https://l", "--local-credentials", "c",
		"--allow-fleet-endpoint=https://one/", "--allow-fleet-endpoint=https://two", "--allow-publish=gs://oidc",
		"--allow-default-credentials",
		"--agent-image=a", "--signer-image=s", "--agent-namespace=n", "--own-cluster=keys/prod",
		"--cluster-api-namespace=fleet", "--cluster-api-namespace=default",
	}, &stderr)
	want = flags{
		kubeconfig: "k", metrics: "m", health: "h", manager: f.manager,
		local: localFlags{endpoint: "https://l", credentials: "c"},
		kubeadm: kubeadmFlags{
			images: kubeadm.Images{Agent: "a", Signer: "s", Namespace: "n"},
			own:    types.NamespacedName{Namespace: "keys", Name: "prod"},
		},
		clusterAPI: clusterAPIFlags{namespaces: []string{"fleet", "default"}},
	}
	want.allowed = allowed{
		fleetEndpoints: []string{"https://one", "https://two"}, publish: []*url.URL{{Scheme: "gs", Host: "oidc"}},
		defaultCredentials: true,
	}
	if err != nil || !reflect.DeepEqual(f, want) {
		t.Errorf("all flags: got %+v, %v", f, err)
	}
}

func TestRunTellsBadFlagsFromFailures(t *testing.T) {
	nowhere := t.TempDir() + "/none"
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"help":          {[]string{"--help"}, 0, "kubeconfig file of the admin cluster"},
		"no kubeconfig": {nil, 1, "outside a pod, name a kubeconfig by --kubeconfig"},
		"no credentials": {[]string{"--local-endpoint=https://l"}, 2,
			"Error: --local-endpoint and --local-credentials must be used together\nhint: "},
		"no endpoint":   {[]string{"--local-credentials=c"}, 2, "must be used together"},
		"unknown flag":  {[]string{"--colour"}, 2, "Error: flag provided but not defined: -colour\nhint: "},
		"an argument":   {[]string{"--kubeconfig=a", "now"}, 2, `unexpected argument "now"`},
		"bad endpoint":  {[]string{"--allow-fleet-endpoint=http://a"}, 2, "must be a URL like https://"},
		"bad bucket":    {[]string{"--allow-publish=ftp://a"}, 2, "must begin with file://"},
		"bad bool":      {[]string{"--allow-default-credentials=perhaps"}, 2, "-allow-default-credentials"},
		"bad cluster":   {[]string{"--own-cluster=prod"}, 2, "want NAMESPACE/NAME"},
		"bad namespace": {[]string{"--agent-namespace=A"}, 2, "--agent-namespace"},
		"no namespace":  {[]string{"--cluster-api-namespace=a/b"}, 2, "-cluster-api-namespace"},
		"nothing there": {[]string{"--kubeconfig=" + nowhere}, 1, nowhere},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			if code := Run(t.Context(), c.args, &stderr); code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !strings.Contains(stderr.String(), c.says) {
				t.Errorf("it says %q, want %q", stderr.String(), c.says)
			}
			if lines := strings.Count(stderr.String(), "\n"); c.code == 2 && lines != 2 {
				t.Errorf("%d lines: %q", lines, stderr.String())
			}
		})
	}
}
