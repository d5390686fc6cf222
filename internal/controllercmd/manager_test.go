package controllercmd

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/controller"
)

func TestManagerFlags(t *testing.T) {
	f, err := parse(nil, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	want := controller.Options{SettledInterval: 10 * time.Minute, Workers: 8, RoundTimeout: time.Minute}
	if f.manager.options != want {
		t.Errorf("options = %+v, want %+v", f.manager.options, want)
	}
	o := f.manager.managerOptions("127.0.0.1:1", "127.0.0.1:2")
	if o.Election != (controller.Election{Namespace: "keyturn-system", ID: "keyturn-controller"}) ||
		o.Metrics.BindAddress != "127.0.0.1:1" || o.HealthAddress != "127.0.0.1:2" ||
		o.Metrics.SecureServing || o.Metrics.FilterProvider != nil || len(o.SecretNamespaces) > 0 {
		t.Errorf("by default, the manager is made with %+v", o)
	}

	f, err = parse([]string{
		"--leader-elect=false", "--metrics-secure", "--metrics-cert-dir=c",
		"--secrets-namespace=one", "--secrets-namespace=two",
		"--settled-interval=1m", "--workers=16", "--round-timeout=30s",
	}, &bytes.Buffer{})
	if err != nil {
		t.Fatal(err)
	}
	want = controller.Options{SettledInterval: time.Minute, Workers: 16, RoundTimeout: 30 * time.Second}
	o = f.manager.managerOptions("", "")
	if f.manager.options != want || o.Election != (controller.Election{}) || !o.Metrics.SecureServing ||
		o.Metrics.CertDir != "c" || o.Metrics.FilterProvider == nil || strings.Join(o.SecretNamespaces, " ") != "one two" {
		t.Errorf("options = %+v, and the manager is made with %+v", f.manager.options, o)
	}
}

func TestWrongManagerFlags(t *testing.T) {
	for flags, says := range map[string]string{
		"--settled-interval=10ms":         "the settled interval is 10ms, but must be at least 1s",
		"--workers=-1":                    "the number of workers is -1, but must be at least 1",
		"--round-timeout=1s":              "the timeout of a round is 1s, but must be at least 20s",
		"--leader-election-id=":           "--leader-elect needs",
		"--metrics-cert-dir=a":            "--metrics-cert-dir needs --metrics-secure",
		"--secrets-namespace=A.b":         "RFC 1123",
		"--workers=-1 --round-timeout=1s": "; the timeout of a round",
	} {
		_, err := parse(strings.Fields(flags), &bytes.Buffer{})
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want an error in one line with %q", flags, err, says)
		}
	}
}
