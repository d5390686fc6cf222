package config

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/keyfile"
	"github.com/keyturn/keyturn/internal/kubeconfig"
	"github.com/keyturn/keyturn/token"
)

// Files is the content of the files that a configuration names.
type Files struct {
	// ServiceAccountKey may register the cluster with its fleet; nil if no file is named.
	ServiceAccountKey Secret
	// Kubeconfig reaches an adopted cluster; nil if no file is named. It holds only what kubeconfig.Parse uses of the
	// file.
	Kubeconfig Secret
	// Certificates are the PEM certificates of gkeConnect.certificateAuthorityPath, and nothing else of the file.
	Certificates string
	// Warnings describe what works but is dangerous, and Notes what may not be as intended.
	Warnings, Notes []string
}

// Secret is content that must not be shown: no verb of fmt, no log and no encoder shows it.
type Secret []byte

const hidden = "(hidden)"

// String hides the secret.
func (Secret) String() string { return hidden }

// Format hides the secret for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hidden) }

// LogValue hides the secret.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalJSON hides the secret.
func (Secret) MarshalJSON() ([]byte, error) { return json.Marshal(hidden) }

// maxFileSize is the largest named file in bytes; the certificates that a whole system trusts have about 200 000.
const maxFileSize = 512 << 10

// The fields that name files.
const (
	keyPathField         = "gkeConnect.registerServiceAccountKeyPath"
	certificatePathField = "gkeConnect.certificateAuthorityPath"
	kubeconfigPathField  = "infrastructure.kubeadm.kubeconfigPath"
)

// Files reads the files that the configuration names. Its error is an *InvalidError with every problem.
func (c *UserCluster) Files() (Files, error) {
	var f Files
	d := &decoder{lines: c.lines}
	if c.Adopts() && c.Infrastructure.Kubeadm != nil && c.Infrastructure.Kubeadm.KubeconfigPath != "" {
		d.kubeconfig(c.Name, c.resolve(c.Infrastructure.Kubeadm.KubeconfigPath), &f)
	}
	if c.GKEConnect != nil {
		d.fleetFiles(c, &f)
	}
	if len(d.problems) > 0 {
		return Files{}, &InvalidError{Problems: d.sorted()}
	}
	return f, nil
}

func (d *decoder) fleetFiles(c *UserCluster, f *Files) {
	if path := c.GKEConnect.RegisterServiceAccountKeyPath; path != "" {
		f.ServiceAccountKey = d.serviceAccountKey(c.resolve(path), c.GKEConnect.ProjectID, f)
	}
	if path := c.GKEConnect.CertificateAuthorityPath; path != "" {
		f.Certificates = d.certificates(c.resolve(path))
	}
}

// kubeconfig reads the kubeconfig of the adopted cluster of that name.
func (d *decoder) kubeconfig(cluster, path string, f *Files) {
	const advice = "`kubectl config view --raw --flatten --minify` writes such a file, and kubeadm's admin.conf is one"
	data, mode, err := readFile(path)
	var access kubeconfig.Access
	if err == nil {
		access, err = kubeconfig.Parse(data)
	}
	if err == nil {
		f.Kubeconfig, err = access.File(cluster, "keyturn")
	}
	if err != nil {
		d.problem(kubeconfigPathField, "%s: %v; %s", path, err, advice)
		return
	}
	f.warnOfMode(kubeconfigPathField, path, mode)
}

// warnOfMode warns if every user may access a file with a secret.
func (f *Files) warnOfMode(field, path string, mode fs.FileMode) {
	if mode.Perm()&0o007 != 0 {
		f.Warnings = append(f.Warnings,
			fmt.Sprintf("%s: every user of this machine has access to %s (mode %04o); run `chmod 600 %s`",
				field, path, mode.Perm(), path))
	}
}

func (c *UserCluster) resolve(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(c.dir, path)
}

func (d *decoder) serviceAccountKey(path, project string, f *Files) Secret {
	const advice = "name the JSON key of a service account, or leave the field out to use the application default " +
		"credentials of the controller"
	data, mode, err := readFile(path)
	// Some editors and shells begin a file with a byte order mark, which JSON decoders refuse.
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf"))
	var key accountKey
	if err == nil {
		key, err = parseServiceAccountKey(data)
	}
	if err != nil {
		d.problem(keyPathField, "%s: %v; %s", path, err, advice)
		return nil
	}
	f.warnOfMode(keyPathField, path, mode)
	if of := key.ProjectID; of != project && projectPattern.MatchString(of) {
		f.Notes = append(f.Notes, fmt.Sprintf(
			"%s: the service account of %s is of project %s, and gkeConnect.projectID is %s: it needs a role there",
			keyPathField, path, of, project))
	}
	return data
}

// accountKey is the JSON key of a service account.
type accountKey struct {
	Type        string `json:"type"`
	ProjectID   string `json:"project_id"`
	ClientEmail string `json:"client_email"`
	PrivateKey  string `json:"private_key"`
	TokenURI    string `json:"token_uri"`
}

// parseServiceAccountKey returns an error for a key that the controller would refuse later. It drops the errors of
// decoders, which would quote the key.
func parseServiceAccountKey(data []byte) (key accountKey, err error) {
	if err := json.Unmarshal(data, &key); err != nil {
		return key, errors.New("is not a JSON object with the fields of a service account key")
	}
	switch {
	case key.Type != "service_account":
		return key, errors.New(`its "type" is not "service_account"`)
	case key.ClientEmail == "":
		return key, errors.New(`has no "client_email"`)
	case key.TokenURI != "" && !isHTTPS(key.TokenURI):
		return key, errors.New(`its "token_uri" is not a plain https URL`)
	}
	return key, checkRSA(key.PrivateKey)
}

func isHTTPS(value string) bool {
	u, err := url.Parse(value)
	return err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil && u.RawQuery == "" && u.Fragment == ""
}

// checkRSA explains what is wrong with a private key. It omits how to convert a file, since the key is in JSON.
func checkRSA(pem string) error {
	key, err := token.ParsePrivateKey([]byte(pem))
	if problem, ok := errors.AsType[*keyfile.Error](err); ok {
		return fmt.Errorf(`has no RSA key in PEM as its "private_key", which %s`, problem.What)
	}
	if _, ok := key.(*rsa.PrivateKey); !ok {
		return errors.New(`has no RSA key in PEM as its "private_key"`)
	}
	return nil
}

func (d *decoder) certificates(path string) string {
	const advice = "name a file of PEM certificates"
	data, _, err := readFile(path)
	var certificates string
	if err == nil {
		certificates, err = onlyCertificates(data)
	}
	if err != nil {
		d.problem(certificatePathField, "%s: %v; %s", path, err, advice)
	}
	return certificates
}

// onlyCertificates returns the certificates of a file. It omits what is between them, since more people may read the
// object than the file, and refuses a private key, which was certainly not meant to be in this file.
func onlyCertificates(data []byte) (string, error) {
	var out bytes.Buffer
	// The decoder skips a broken block without an error.
	blocks := bytes.Count(data, []byte("-----BEGIN "))
	if blocks == 0 {
		return "", errors.New("has no certificate")
	}
	for n := range blocks {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return "", errors.New("holds a broken PEM block")
		}
		if block.Type != "CERTIFICATE" {
			return "", errors.New("holds something other than certificates, such as a private key")
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return "", fmt.Errorf("its certificate %d cannot be parsed", n+1)
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes}))
	}
	return out.String(), nil
}

// readFile reads a file of a reasonable size. Its error does not name the path.
func readFile(path string) (data []byte, mode fs.FileMode, err error) {
	defer func() {
		if inner, ok := errors.AsType[*fs.PathError](err); ok {
			err = inner.Err
		}
	}()
	file, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, 0, err
	}
	data, err = io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("has more than %d bytes", maxFileSize)
	}
	return data, info.Mode(), err
}
