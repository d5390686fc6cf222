package controllercmd

import (
	"bytes"
	"errors"
	"log/slog"
	"net/netip"
	"net/url"
	"reflect"
	"strings"
	"testing"
)

func TestFlags(t *testing.T) {
	var stderr bytes.Buffer
	f, err := parse([]string{"--kubeconfig=k", "--data-dir", "d"}, &stderr)
	want := flags{
		kubeconfig: "k", dataDir: "d", network: netip.MustParsePrefix("10.88.0.0/16"),
		metrics: "127.0.0.1:8080", health: "127.0.0.1:8081", manager: f.manager,
	}
	if err != nil || !reflect.DeepEqual(f, want) || stderr.Len() > 0 {
		t.Errorf("defaults: got %+v, %v, %q", f, err, stderr.String())
	}
	f, err = parse([]string{
		"--kubeconfig=k", "--data-dir=d", "--kube-bin-dir=b", "--network=10.9.0.0/16",
		"--metrics-bind-address=m", "--health-probe-bind-address=h", "--supervise", "--supervise=false",
		"--allow-fleet-endpoint=https://one/", "--allow-fleet-endpoint=https://two", "--allow-publish=gs://oidc", "--allow-default-credentials",
	}, &stderr)
	want = flags{kubeconfig: "k", dataDir: "d", kubeBinDir: "b", network: netip.MustParsePrefix("10.9.0.0/16"), metrics: "m", health: "h", manager: f.manager}
	want.allowed = allowed{
		fleetEndpoints: []string{"https://one", "https://two"}, publish: []*url.URL{{Scheme: "gs", Host: "oidc"}}, defaultCredentials: true,
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
		"help":             {[]string{"--help"}, 0, "kubeconfig of the admin cluster"},
		"no flags":         {nil, 2, "Error: --kubeconfig and --data-dir are needed\nhint: "},
		"no directory":     {[]string{"--kubeconfig=" + nowhere}, 2, "--data-dir"},
		"no kubeconfig":    {[]string{"--data-dir=" + nowhere}, 2, "--kubeconfig"},
		"unknown flag":     {[]string{"--colour"}, 2, "Error: flag provided but not defined: -colour\nhint: "},
		"an argument":      {[]string{"--kubeconfig=a", "--data-dir=b", "now"}, 2, `unexpected argument "now"`},
		"bad network":      {[]string{"--kubeconfig=a", "--data-dir=b", "--network=10.0", "--supervise"}, 2, "-network"},
		"bad endpoint":     {[]string{"--kubeconfig=a", "--data-dir=b", "--allow-fleet-endpoint=http://a"}, 2, "must be a URL like https://"},
		"bad bucket":       {[]string{"--kubeconfig=a", "--data-dir=b", "--allow-publish=ftp://a"}, 2, "must begin with file://"},
		"bad bool":         {[]string{"--supervise=perhaps"}, 2, "-supervise"},
		"nothing is there": {[]string{"--kubeconfig=" + nowhere, "--data-dir=" + t.TempDir()}, 1, nowhere},
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

func TestAdminNewsAreToldOnce(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}}))
	news := adminNews{log: log}
	for _, text := range []string{"", "", "one", "one", "one", "two", "", "", "one"} {
		var err error
		if text != "" {
			err = errors.New(text)
		}
		news.tell(err)
	}
	const want = `level=ERROR msg="the admin cluster is not kept up" error=one
level=ERROR msg="the admin cluster is not kept up" error=two
level=INFO msg="the processes of the admin cluster can be started again"
level=ERROR msg="the admin cluster is not kept up" error=one
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}
