package kubeconfig_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/internal/kubeconfig"
)

// pair returns a self-signed certificate and its private key in PEM.
func pair(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

func access(t *testing.T) kubeconfig.Access {
	t.Helper()
	certificate, key := pair(t)
	return kubeconfig.Access{
		Server: "https://127.0.0.1:6443", CertificateAuthority: certificate, Certificate: certificate, Key: key,
	}
}

func TestRoundTrip(t *testing.T) {
	want := access(t)
	written, err := want.File("blue", "admin")
	if err != nil {
		t.Fatal(err)
	}
	got, err := kubeconfig.Parse(written)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("access (-want +got):\n%s", diff)
	}
	again, err := got.File("blue", "admin")
	if err != nil || !bytes.Equal(written, again) {
		t.Errorf("the file written again differs (%v)", err)
	}
	config := got.Config()
	if config.Host != want.Server || config.Insecure || config.ExecProvider != nil ||
		!bytes.Equal(config.KeyData, want.Key) {
		t.Errorf("the configuration of a client is not made of the four values: %v", config)
	}
}

func TestSameCluster(t *testing.T) {
	here := access(t)
	renewed, elsewhere, foreign := here, here, here
	renewed.Certificate, renewed.Key = pair(t)
	elsewhere.Server = "https://127.0.0.1:6444"
	foreign.CertificateAuthority, _ = pair(t)
	for other, want := range map[*kubeconfig.Access]bool{&here: true, &renewed: true, &elsewhere: false, &foreign: false} {
		if got := here.SameCluster(*other); got != want {
			t.Errorf("%s is the same cluster as %s: %v, want %v", here.Server, other.Server, got, want)
		}
	}
}

// TestRefused adds each other field that client-go knows, and spoils each value.
func TestRefused(t *testing.T) {
	written, err := access(t).File("blue", "admin")
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey := pair(t)
	const toCluster, toUser = "    server: ", "    client-certificate-data: "
	const toContext, atTop = "    cluster: blue\n    user", "kind: Config\n"
	for name, test := range map[string]struct{ before, insert, want string }{
		"exec": {
			toUser, "    exec: {apiVersion: client.authentication.k8s.io/v1, command: id}\n", `"users[0].user.exec"`,
		},
		"auth-provider":        {toUser, "    auth-provider: {name: gcp}\n", `"users[0].user.auth-provider"`},
		"token":                {toUser, "    token: s3cret\n", `"users[0].user.token"`},
		"tokenFile":            {toUser, "    tokenFile: /etc/shadow\n", `"users[0].user.tokenFile"`},
		"client-key":           {toUser, "    client-key: /etc/shadow\n", `"users[0].user.client-key"`},
		"client-certificate":   {toUser, "    client-certificate: /etc/shadow\n", `"users[0].user.client-certificate"`},
		"username":             {toUser, "    username: s3cret\n", `"users[0].user.username"`},
		"password":             {toUser, "    password: s3cret\n", `"users[0].user.password"`},
		"as":                   {toUser, "    as: admin\n", `"users[0].user.as"`},
		"as-uid":               {toUser, "    as-uid: admin\n", `"users[0].user.as-uid"`},
		"as-groups":            {toUser, "    as-groups: [admin]\n", `"users[0].user.as-groups"`},
		"as-user-extra":        {toUser, "    as-user-extra: {}\n", `"users[0].user.as-user-extra"`},
		"extensions of a user": {toUser, "    extensions: []\n", `"users[0].user.extensions"`},
		"certificate-authority": {
			toCluster, "    certificate-authority: /etc/shadow\n", `"clusters[0].cluster.certificate-authority"`,
		},
		"proxy-url": {toCluster, "    proxy-url: http://proxy.test\n", `"clusters[0].cluster.proxy-url"`},
		"insecure-skip-tls-verify": {
			toCluster, "    insecure-skip-tls-verify: true\n", `"clusters[0].cluster.insecure-skip-tls-verify"`,
		},
		"tls-server-name": {toCluster, "    tls-server-name: a.test\n", `"clusters[0].cluster.tls-server-name"`},
		"disable-compression": {
			toCluster, "    disable-compression: true\n", `"clusters[0].cluster.disable-compression"`,
		},
		"extensions of a cluster": {toCluster, "    extensions: []\n", `"clusters[0].cluster.extensions"`},
		"another case":            {toCluster, "    Server: https://b.test\n", `"clusters[0].cluster.Server"`},
		"namespace":               {toContext, "    namespace: default\n", `"contexts[0].context.namespace"`},
		"extensions of a context": {toContext, "    extensions: []\n", `"contexts[0].context.extensions"`},
		"extensions":              {atTop, "extensions: []\n", `"extensions"`},
		"preferences":             {atTop, "preferences: {colors: true}\n", `"preferences.colors"`},
		"a field twice":           {toCluster, "    server: https://s3cret.test\n", "each field comes once"},
		"another kind":            {atTop, "kind: Konfig\n", "each field comes once"},
	} {
		t.Run(name, func(t *testing.T) {
			wantRefused(t, strings.Replace(string(written), test.before, test.insert+test.before, 1), test.want)
		})
	}
	value := func(name string) string {
		_, rest, _ := strings.Cut(string(written), name+": ")
		line, _, _ := strings.Cut(rest, "\n")
		return line
	}
	replace := func(old, by string) string { return strings.ReplaceAll(string(written), old, by) }
	const server = "https://127.0.0.1:6443"
	for name, test := range map[string]struct{ file, want string }{
		"nothing":            {"", "it is not of apiVersion v1"},
		"no YAML":            {"s3cret: [", "it is not YAML"},
		"a list":             {"[s3cret]", "not of its type"},
		"plain":              {replace(server, "http://127.0.0.1:6443"), "server is not a URL"},
		"no server":          {replace(server, `""`), "server is not a URL"},
		"a number as server": {replace(server, "4711"), "not of its type"},
		"a path":             {replace(server, server+"/s3cret"), "server has more"},
		"a query":            {replace(server, server+"?s3cret"), "server has more"},
		"a user":             {replace(server, "https://s3cret@127.0.0.1"), "server has more"},
		"another user":       {replace("user: admin\n", "user: s3cret\n"), "does not lead"},
		"another context":    {replace("current-context: admin@blue", "current-context: s3cret"), "does not lead"},
		"two clusters": {
			replace("contexts:", "- {name: b, cluster: {server: https://b.test}}\ncontexts:"), "it has 2 clusters",
		},
		"no certificates": {replace(value("certificate-authority-data"), "czNjcmV0"), "holds no certificate"},
		"not base64":      {replace(value("client-key-data"), "s3cret!"), "not of its type"},
		"the key of another": {
			replace(value("client-key-data"), base64.StdEncoding.EncodeToString(otherKey)),
			"not a certificate and its private key",
		},
		"more than is sensible": {
			string(written) + strings.Repeat("#s3cret\n", kubeconfig.MaxSize/8), "more than 65536 bytes",
		},
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, test.file, test.want) })
	}
}

func wantRefused(t *testing.T, file, want string) {
	t.Helper()
	got, err := kubeconfig.Parse([]byte(file))
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Parse = %v, want an error with %q", err, want)
	}
	if err != nil && strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the error shows a value: %v", err)
	}
	if got.Server != "" || got.Key != nil {
		t.Error("something is returned of a file that is refused")
	}
}
