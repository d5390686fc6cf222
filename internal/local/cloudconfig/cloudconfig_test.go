package cloudconfig_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/internal/local/cloudconfig"
)

// TestParse reads user data as the kubeadm bootstrap provider writes it.
func TestParse(t *testing.T) {
	got, err := cloudconfig.Parse([]byte(`## template: jinja
#cloud-config

write_files:
-   path: /etc/kubernetes/pki/sa.pub
    owner: root:root
    permissions: '0640'
    content: |
      -----BEGIN PUBLIC KEY-----
      -----END PUBLIC KEY-----
      
-   path: /etc/plain
    content: "one line"
-   path: /etc/compressed
    encoding: "gzip+base64"
    permissions: '0600'
    append: true
    content: |
      `+compressed(t, "hello\n")+`
-   path: /etc/encoded
    encoding: "base64"
    content: |
      aGVs
      bG8=
runcmd:
  - "echo \"before\""
  - 'kubeadm init --config /run/kubeadm/kubeadm.yaml  && echo success > /run/done # {{ ds.meta_data.local_hostname }}'
  - [echo, "it's", done]
`), cloudconfig.MetaData{"local_hostname": "prod-1"})
	if err != nil {
		t.Fatal(err)
	}
	want := cloudconfig.Config{
		Files: []cloudconfig.File{
			{
				Path: "/etc/kubernetes/pki/sa.pub", Owner: "root:root", Mode: 0o640,
				Content: []byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"),
			},
			{Path: "/etc/plain", Owner: "root:root", Mode: 0o644, Content: []byte("one line")},
			{Path: "/etc/compressed", Owner: "root:root", Mode: 0o600, Content: []byte("hello\n"), Append: true},
			{Path: "/etc/encoded", Owner: "root:root", Mode: 0o644, Content: []byte("hello")},
		},
		Script: "echo \"before\"\n" +
			"kubeadm init --config /run/kubeadm/kubeadm.yaml  && echo success > /run/done # prod-1\n" +
			`'echo' 'it'\''s' 'done'` + "\n",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Parse: %s", diff)
	}
}

func compressed(t *testing.T, text string) string {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(b.Bytes())
}

// TestParseRefuses names what a machine would come up without.
func TestParseRefuses(t *testing.T) {
	const entry = "#cloud-config\nwrite_files:\n- path: /etc/a\n"
	for data, want := range map[string]string{
		"#!/bin/sh\n":                                     `does not begin with "#cloud-config"`,
		"#cloud-config\nusers: []\nntp: {}\n":             "ntp is not supported\nusers is not supported",
		"#cloud-config\nbootcmd: [a]\n":                   "bootcmd is not supported",
		"#cloud-config\n- a\n":                            "not a YAML mapping",
		"#cloud-config\nruncmd: a\n":                      "runcmd is not a list",
		"#cloud-config\nruncmd: [{a: b}]\n":               "runcmd[0] is neither a string nor a list of strings",
		"#cloud-config\nwrite_files: {}\n":                "write_files is not a list",
		"#cloud-config\nwrite_files: [a]\n":               "write_files[0]: it is not a file",
		"#cloud-config\nwrite_files: [{path: a}]\n":       `path "a" is not absolute and clean`,
		"#cloud-config\nwrite_files: [{path: /a/../b}]\n": `path "/a/../b" is not absolute and clean`,

		entry + "  source: {uri: https://example.com}\n":                             "source is not supported",
		entry + "  permissions: '0999'\n":                                            `permissions "0999" are not octal`,
		entry + "  permissions: '4755'\n":                                            `permissions "4755" are not octal`,
		entry + "  encoding: zip\n":                                                  `encoding "zip" is not supported`,
		entry + "  encoding: base64\n  content: '*'\n":                               "decoding base64",
		entry + "  encoding: gzip\n  content: abc\n":                                 "decompressing",
		"## template: jinja\n#cloud-config\nruncmd: ['{% if a %}']\n":                `"{%" in a template`,
		"## template: jinja\n#cloud-config\nruncmd: ['{{ v1.region }}']\n":           `"{{" in a template`,
		"## template: jinja\n#cloud-config\nruncmd: ['{{ ds.meta_data.region }}']\n": "variable ds.meta_data.region",
	} {
		_, err := cloudconfig.Parse([]byte(data), nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want %q", data, err, want)
		}
	}
}

// TestErrorsQuoteNoContent holds for data that no YAML parser takes, with a key in it.
func TestErrorsQuoteNoContent(t *testing.T) {
	for _, data := range []string{
		"#cloud-config\n- SECRET\n",
		"#cloud-config\nwrite_files:\n- path: /a\n  append: SECRET\n",
		"#cloud-config\nwrite_files:\n- SECRET\n",
		"#cloud-config\nwrite_files:\n- path: /a\n  encoding: gzip\n  content: SECRET\n",
		"#cloud-config\nruncmd:\n- {a: SECRET}\n",
	} {
		if _, err := cloudconfig.Parse([]byte(data), nil); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("Parse(%q) = %v, want an error without the content", data, err)
		}
	}
}

// TestApply writes files and runs commands; one that fails does not keep the next from running.
func TestApply(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners need root")
	}
	root := t.TempDir()
	c, err := cloudconfig.Parse([]byte(`#cloud-config
write_files:
- {path: /etc/a/secret, permissions: '0600', content: "first "}
- {path: /etc/a/secret, permissions: '0600', append: true, content: "second"}
- {path: /etc/other, owner: "nobody:root", permissions: '0640', content: "x"}
- {path: /etc/over, content: "a longer text"}
- {path: /etc/over, content: "short"}
runcmd:
- exit_code=$(false) || echo "$?" > result
- [touch, "a name"]
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Apply(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/a/secret": "first second", "etc/other": "x", "etc/over": "short", "result": "1\n", "a name": "",
	} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v, want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]os.FileMode{"etc/a/secret": 0o600, "etc/other": 0o640} {
		if info, err := os.Stat(filepath.Join(root, name)); err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
}

func TestApplyFails(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("owners need root")
	}
	for want, c := range map[string]cloudconfig.Config{
		"writing /a: user: unknown user nosuchuser": {Files: []cloudconfig.File{{Path: "/a", Owner: "nosuchuser"}}},
		"running the commands: exit status 3":       {Script: "true\nexit 3\n"},
	} {
		if err := c.Apply(t.Context(), t.TempDir()); err == nil || err.Error() != want {
			t.Errorf("Apply = %v, want %s", err, want)
		}
	}
}
