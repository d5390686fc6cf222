package localcmd

import (
	"bytes"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestFlags(t *testing.T) {
	var stderr bytes.Buffer
	f, err := parse([]string{"--data-dir", "d"}, &stderr)
	want := flags{dataDir: "d", network: netip.MustParsePrefix("10.88.0.0/16"), controller: []string{}}
	if err != nil || !reflect.DeepEqual(f, want) || stderr.Len() > 0 {
		t.Errorf("defaults: got %+v, %v, %q", f, err, stderr.String())
	}
	f, err = parse([]string{
		"--data-dir=d", "--kube-bin-dir=b", "--network=10.9.0.0/16", "--supervise", "--", "--allow-publish=gs://a", "--b",
	}, &stderr)
	want = flags{
		dataDir: "d", kubeBinDir: "b", network: netip.MustParsePrefix("10.9.0.0/16"), supervise: true,
		controller: []string{"--allow-publish=gs://a", "--b"},
	}
	if err != nil || !reflect.DeepEqual(f, want) {
		t.Errorf("all flags: got %+v, %v", f, err)
	}
}

func TestChildOfASupervisor(t *testing.T) {
	for args, want := range map[string]string{
		"--supervise":                      "--supervise --supervise=false",
		"--supervise -- --a":               "--supervise --supervise=false -- --a",
		"--supervise -- --a --supervise=1": "--supervise --supervise=false -- --a --supervise=1",
	} {
		if got := childArgs(strings.Fields(args)); !slices.Equal(got, strings.Fields(want)) {
			t.Errorf("%s: got %q", args, got)
		}
	}
}

func TestRunTellsBadFlagsFromFailures(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"help":          {[]string{"--help"}, 0, "of the local clusters; required"},
		"no directory":  {nil, 2, "Error: --data-dir is needed\nhint: "},
		"unknown flag":  {[]string{"--colour"}, 2, "Error: flag provided but not defined: -colour\nhint: "},
		"only that":     {[]string{"now"}, 2, `unexpected argument "now"`},
		"an argument":   {[]string{"--data-dir=a", "now"}, 2, `unexpected argument "now"`},
		"bad network":   {[]string{"--data-dir=a", "--network=10.0", "--supervise"}, 2, "-network"},
		"bad bool":      {[]string{"--supervise=perhaps"}, 2, "-supervise"},
		"bad directory": {[]string{"--data-dir=/dev/null/data"}, 1, "/dev/null/data"},
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
