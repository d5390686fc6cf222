package config

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// private is in every broken file, so that a test sees when an error quotes one.
const private = "vErYpRiVaTe"

const withFiles = valid + `gkeConnect:
  projectID: project-1
  location: global
  registerServiceAccountKeyPath: keys/key.json
  certificateAuthorityPath: ca.pem
`

// writeFiles writes a configuration and the files that it names, which are left out when they are empty, and loads it.
func writeFiles(t *testing.T, key, certificates string) (dir string, c *UserCluster) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"c.yaml": withFiles, "keys/key.json": key, "ca.pem": certificates} {
		if content == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(filepath.Join(dir, "c.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return dir, c
}

// rsaKey is one RSA key in PEM, since these take long to make.
var rsaKey = sync.OnceValues(func() (string, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return "", err
	}
	return inPEM(key)
})

func inPEM(key any) (string, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), err
}

// newECKey returns a private key that no service account has, and the same in PEM.
func newECKey(t *testing.T) (*ecdsa.PrivateKey, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	text, err := inPEM(key)
	if err != nil {
		t.Fatal(err)
	}
	return key, text
}

// serviceAccountKey is a service account key, but for some of its fields.
func serviceAccountKey(t *testing.T, change map[string]any) string {
	t.Helper()
	privateKey, err := rsaKey()
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]any{
		"type": "service_account", "project_id": "project-1", "private_key_id": "1", "private_key": privateKey,
		"client_email": "a@project-1.test", "token_uri": "https://token.test", "note": private,
	}
	maps.Copy(fields, change)
	data, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func certificate(t *testing.T) string {
	t.Helper()
	key, _ := newECKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestFiles(t *testing.T) {
	key, one, two := serviceAccountKey(t, nil), certificate(t), certificate(t)
	dir, c := writeFiles(t, key, "# the first: "+private+"\n"+one+"\n\n"+two+private)
	f, err := c.Files()
	if err != nil || len(f.Warnings) > 0 {
		t.Fatalf("Files = %v, %v", f.Warnings, err)
	}
	if string(f.ServiceAccountKey) != key {
		t.Error("the key is not that of the file")
	}
	// What is between the certificates goes nowhere.
	if diff := cmp.Diff(one+two, f.Certificates); diff != "" {
		t.Errorf("certificates (-want +got):\n%s", diff)
	}
	spec := c.Object(f).Spec.GKEConnect
	if spec.CABundle != one+two || spec.CredentialsSecret != "demo-gke-connect" {
		t.Errorf("gkeConnect = %+v", spec)
	}

	path := filepath.Join(dir, "keys", "key.json")
	for mode, warns := range map[fs.FileMode]bool{0o400: false, 0o640: false, 0o604: true, 0o644: true} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		var want []string
		if warns {
			want = []string{fmt.Sprintf("gkeConnect.registerServiceAccountKeyPath: every user of this machine has access to "+
				"%s (mode %04o); run `chmod 600 %s`", path, mode, path)}
		}
		f, err := c.Files()
		if diff := cmp.Diff(want, f.Warnings); err != nil || diff != "" {
			t.Errorf("mode %o: %v, warnings (-want +got):\n%s", mode, err, diff)
		}
	}
}

// PowerShell writes a byte order mark at the beginning of a file; JSON has none.
func TestFilesWithByteOrderMark(t *testing.T) {
	key := serviceAccountKey(t, nil)
	_, c := writeFiles(t, "\ufeff"+key, certificate(t))
	f, err := c.Files()
	if err != nil {
		t.Fatal(err)
	}
	if string(f.ServiceAccountKey) != key {
		t.Error("the key is not that of the file without its byte order mark")
	}
}

// A service account of another project may be meant. What is not the ID of a project is not shown.
func TestFilesOfAnotherProject(t *testing.T) {
	for project, noted := range map[string]bool{"project-1": false, "project-2": true, "": false, "MII BEGIN": false} {
		dir, c := writeFiles(t, serviceAccountKey(t, map[string]any{"project_id": project}), certificate(t))
		f, err := c.Files()
		var want []string
		if noted {
			want = []string{"gkeConnect.registerServiceAccountKeyPath: the service account of " +
				filepath.Join(dir, "keys", "key.json") + " is of project project-2, and gkeConnect.projectID is project-1: " +
				"it needs a role there"}
		}
		if diff := cmp.Diff(want, f.Notes); err != nil || diff != "" {
			t.Errorf("%q: %v, notes (-want +got):\n%s", project, err, diff)
		}
	}
}

// Google's libraries know where to get tokens when the key does not say it.
func TestFilesWithoutTokenURI(t *testing.T) {
	_, c := writeFiles(t, serviceAccountKey(t, map[string]any{"token_uri": ""}), certificate(t))
	if _, err := c.Files(); err != nil {
		t.Error(err)
	}
}

func TestNoFiles(t *testing.T) {
	for _, add := range []string{"", "gkeConnect: {projectID: project-1, location: global}\n"} {
		c, err := Parse([]byte(valid + add))
		if err != nil {
			t.Fatal(err)
		}
		if f, err := c.Files(); err != nil || f.ServiceAccountKey != nil || f.Certificates != "" || f.Warnings != nil {
			t.Errorf("%q: Files = %v, %v; want none", add, f, err)
		}
	}
}

// Absolute paths stay as they are.
func TestFilesAbsolutePath(t *testing.T) {
	path := filepath.Join(t.TempDir(), "key.json")
	if err := os.WriteFile(path, []byte(serviceAccountKey(t, nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Parse([]byte(valid + "gkeConnect: {projectID: project-1, location: global, registerServiceAccountKeyPath: " +
		path + "}\n"))
	if err != nil {
		t.Fatal(err)
	}
	c.dir = "/somewhere"
	if f, err := c.Files(); err != nil || len(f.ServiceAccountKey) == 0 {
		t.Errorf("Files = %v", err)
	}
}

// Every problem with the files is reported at once, with its line, and without any of their content.
func TestFilesProblems(t *testing.T) {
	const (
		keyAdvice = "; name the JSON key of a service account, or leave the field out to use the application default " +
			"credentials of the controller (line 11)"
		caAdvice = "; name a file of PEM certificates (line 12)"
	)
	_, privateKey := newECKey(t)
	key, ca := serviceAccountKey(t, nil), certificate(t)
	broken := strings.Replace(ca, "\n", "\n"+private+"!\n", 1)
	noCertificate := "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
	notJSON := "is not a JSON object with the fields of a service account key"
	for _, tt := range []struct{ name, key, ca, wantKey, wantCA string }{
		{name: "missing", wantKey: "no such file or directory", wantCA: "no such file or directory"},
		{name: "no JSON, no PEM", key: private, ca: private, wantKey: notJSON, wantCA: "has no certificate"},
		{name: "a private key", key: privateKey, ca: ca + privateKey, wantKey: notJSON,
			wantCA: "holds something other than certificates, such as a private key"},
		{name: "a list, a broken block", key: `["` + private + `"]`, ca: ca + broken, wantKey: notJSON,
			wantCA: "holds a broken PEM block"},
		{name: "a wrong field, no certificate", key: `{"type": {"` + private + `": 1}}`, ca: ca + noCertificate,
			wantKey: notJSON, wantCA: "its certificate 2 cannot be parsed"},
		{name: "too large", key: strings.Repeat(private, 50000), ca: strings.Repeat(ca, 2000),
			wantKey: "has more than 524288 bytes", wantCA: "has more than 524288 bytes"},
		{name: "of a user", key: serviceAccountKey(t, map[string]any{"type": private}), ca: ca,
			wantKey: `its "type" is not "service_account"`},
		{name: "without an account", key: serviceAccountKey(t, map[string]any{"client_email": ""}), ca: ca,
			wantKey: `has no "client_email"`},
		{name: "for a server in the clear", key: serviceAccountKey(t, map[string]any{"token_uri": "http://" + private}),
			ca: ca, wantKey: `its "token_uri" is not a plain https URL`},
		{name: "with a key of another kind", key: serviceAccountKey(t, map[string]any{"private_key": privateKey}), ca: ca,
			wantKey: `has no RSA key in PEM as its "private_key"`},
		{name: "with half a key", key: serviceAccountKey(t, map[string]any{"private_key": privateKey[:100] + private}),
			ca: ca, wantKey: `has no RSA key in PEM as its "private_key", which ends before its PEM block does`},
		{name: "with a certificate", key: serviceAccountKey(t, map[string]any{"private_key": ca}), ca: ca,
			wantKey: `has no RSA key in PEM as its "private_key", which is a certificate, where a private key is wanted`},
		{name: "with escaped line breaks", key: serviceAccountKey(t,
			map[string]any{"private_key": strings.ReplaceAll(privateKey, "\n", `\n`)}), ca: ca,
			wantKey: `has no RSA key in PEM as its "private_key", which has the two characters \n where lines should end`},
		{name: "only no certificate", key: key, ca: "\n", wantCA: "has no certificate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, c := writeFiles(t, tt.key, tt.ca)
			f, err := c.Files()
			var invalid *InvalidError
			if !errors.As(err, &invalid) || f.ServiceAccountKey != nil || f.Certificates != "" {
				t.Fatalf("Files = %v, %v; want an InvalidError alone", f, err)
			}
			var want []string
			if tt.wantKey != "" {
				want = append(want, "gkeConnect.registerServiceAccountKeyPath: "+filepath.Join(dir, "keys",
					"key.json")+": "+tt.wantKey+keyAdvice)
			}
			if tt.wantCA != "" {
				want = append(want, "gkeConnect.certificateAuthorityPath: "+filepath.Join(dir, "ca.pem")+": "+tt.wantCA+caAdvice)
			}
			if diff := cmp.Diff(want, strings.Split(err.Error(), "\n")); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			checkHidden(t, err.Error())
		})
	}
}

// checkHidden wants nothing of a key in a text.
func checkHidden(t *testing.T, text string) {
	t.Helper()
	for _, content := range []string{private, "MIGHAgEA", "MII", "BEGIN"} {
		if strings.Contains(text, content) {
			t.Errorf("%q is shown in:\n%s", content, text)
		}
	}
}

func TestFilesDirectory(t *testing.T) {
	dir, c := writeFiles(t, "", certificate(t))
	if err := os.Mkdir(filepath.Join(dir, "keys", "key.json"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Files(); err == nil || !strings.Contains(err.Error(), "key.json: is a directory; name the JSON key") {
		t.Errorf("Files = %v", err)
	}
}

func TestFilesUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root can read every file")
	}
	dir, c := writeFiles(t, serviceAccountKey(t, nil), certificate(t))
	if err := os.Chmod(filepath.Join(dir, "keys", "key.json"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Files(); err == nil || !strings.Contains(err.Error(),
		"key.json: permission denied; name the JSON key") {
		t.Errorf("Files = %v", err)
	}
}

func TestSecretIsHidden(t *testing.T) {
	f := Files{ServiceAccountKey: Secret(private)}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("text", "key", f.ServiceAccountKey, "files", f)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("json", "key", f.ServiceAccountKey, "files", f)
	encoded, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{
		log.String(), string(encoded), f.ServiceAccountKey.String(), fmt.Sprint(f, &f, f.ServiceAccountKey),
		fmt.Sprintf("%s %q %v %+v %#v %x", f, f, f, f, f, f),
	} {
		for _, shown := range []string{private, fmt.Sprintf("%x", private), fmt.Sprint([]byte(private)), "dkVyWXBSaVZhVGU"} {
			if strings.Contains(text, shown) {
				t.Errorf("%q is shown in:\n%s", shown, text)
			}
		}
		if !strings.Contains(text, hidden) {
			t.Errorf("nothing is hidden in:\n%s", text)
		}
	}
}
