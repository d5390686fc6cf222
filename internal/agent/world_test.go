package agent

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

const (
	cluster   = "0c1d7c3e-0000-4000-8000-000000000001"
	namespace = "keyturn-agent"
	image     = "registry.example.com/keyturn-signer:v1"
)

// testKey is a key version with its private key in PEM.
type testKey struct {
	kid, public, private string
}

// testKeys are key versions 1 to 4; the first is RSA, as kubeadm makes it.
var testKeys = generateKeys()

// authority is a key of something else in the same directory.
var authority = newKey(jwks.RS256)

func generateKeys() map[int]testKey {
	keys := map[int]testKey{}
	for version, algorithm := range map[int]string{1: jwks.RS256, 2: jwks.ES256, 3: jwks.ES256, 4: jwks.ES384} {
		keys[version] = newKey(algorithm)
	}
	return keys
}

func newKey(algorithm string) testKey {
	signer, err := token.GenerateKey(rand.Reader, algorithm)
	if err != nil {
		panic(err)
	}
	private, err := token.MarshalPrivateKey(signer)
	if err != nil {
		panic(err)
	}
	public, err := jwks.MarshalPublicKey(signer.Public())
	if err != nil {
		panic(err)
	}
	k, err := jwks.NewKey(signer.Public())
	if err != nil {
		panic(err)
	}
	return testKey{k.KeyID, string(public), string(private)}
}

func files(sign int, verify ...int) rotation.Keys { return rotation.Keys{Verify: verify, Sign: sign} }

func external(sign int, verify ...int) rotation.Keys {
	return rotation.Keys{Verify: verify, Sign: sign, External: true}
}

// node is a control-plane node as kubeadm leaves it.
type node struct {
	Agent
	t *testing.T
}

func newNode(t *testing.T, sign int, verify ...int) node {
	t.Helper()
	dir, err := os.MkdirTemp("", "kt") //nolint:usetesting // the path of a socket is short
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	key, err := NewPrivateKey()
	must(t, err)
	n := node{t: t, Agent: Agent{
		PKI: dir + "/pki", Manifests: dir + "/manifests", StateDir: dir + "/keyturn", PodUID: "pod-1", Key: key,
	}}
	for _, path := range []string{n.PKI, n.Manifests, n.StateDir} {
		must(t, os.Mkdir(path, 0o755))
	}
	public := testKeys[sign].public
	for _, version := range verify {
		if version != sign {
			public += testKeys[version].public
		}
	}
	n.write(n.PKI+"/sa.pub", public, 0o644)
	n.write(n.PKI+"/sa.key", testKeys[sign].private, 0o600)
	n.write(n.PKI+"/ca.key", authority.private, 0o600)
	text, err := os.ReadFile("manifest/testdata/kubeadm-1.36.yaml")
	must(t, err)
	n.write(n.Manifests+"/kube-apiserver.yaml", strings.ReplaceAll(string(text), "/etc/kubernetes/pki", n.PKI), 0o600)
	return n
}

func (n node) write(path, content string, mode os.FileMode) {
	n.t.Helper()
	must(n.t, os.WriteFile(path, []byte(content), mode), os.Chmod(path, mode))
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// order is a Converge to keys, with all versions that a controller knows then.
func (n node) order(k rotation.Keys, restart string) Order {
	o := Order{
		Do: Converge, Cluster: cluster, For: n.Instance(), Keys: k, Restart: restart, RetryAfter: true, SignerImage: image,
		SignerNamespace: namespace,
	}
	for version := 1; version <= slices.Max(k.Verify); version++ {
		v := Version{Version: version, Public: testKeys[version].public}
		if slices.Contains(k.Verify, version) {
			sealed, err := Seal([]byte(testKeys[version].private), o.For, cluster, version)
			must(n.t, err)
			v.Private = sealed
		}
		o.Versions = append(o.Versions, v)
	}
	return o
}

func (n node) do(what string) Order {
	return Order{Do: what, Cluster: cluster, For: n.Instance()}
}

// apply carries out an order, and wants no private key in its report.
func (n node) apply(o Order, want Answer) Report {
	n.t.Helper()
	r := n.Apply(n.t.Context(), o)
	text, err := json.Marshal(r)
	must(n.t, err)
	for version, k := range testKeys {
		if strings.Contains(string(text), strings.Split(k.private, "\n")[1]) {
			n.t.Errorf("the report holds private key %d", version)
		}
	}
	if r.Answer != want {
		n.t.Errorf("order %s: %s (%s), want %s", o.Do, r.Answer, r.Message, want)
	}
	return r
}

// settled converges and settles.
func (n node) settled(k rotation.Keys) {
	n.t.Helper()
	n.apply(n.order(k, RestartMark(k, 1)), Done)
	n.apply(n.settle(RestartMark(k, 1)), Done)
}

// settle is the order to settle a change.
func (n node) settle(restart string) Order {
	o := n.do(Settle)
	o.Restart = restart
	return o
}

func (n node) read(path string) string {
	n.t.Helper()
	text, err := os.ReadFile(path)
	must(n.t, err)
	return string(text)
}

// restarted is what a kube-apiserver has that anybody starts now.
type restarted struct {
	accepts  []int
	signs    int
	external bool
}

// restart does what kube-apiserver does at its start: it reads its manifest, and the files or the signer that this
// names.
func (n node) restart() restarted {
	n.t.Helper()
	text := n.read(n.Manifests + "/kube-apiserver.yaml")
	if strings.Contains(text, "--service-account-signing-endpoint="+n.StateDir+"/signer/socket") {
		if strings.Contains(text, "--service-account-key-file") ||
			strings.Contains(text, "--service-account-signing-key-file") {
			n.t.Error("kube-apiserver refuses to start with both kinds of flags")
		}
		set, _, err := keydir.Read(n.StateDir + "/keys")
		must(n.t, err)
		r := restarted{signs: set.SigningVersion, external: true}
		for _, k := range set.Keys {
			r.accepts = append(r.accepts, k.Version)
		}
		return r
	}
	r := restarted{}
	for version, k := range testKeys {
		if strings.Contains(n.read(n.PKI+"/sa.pub"), k.public) {
			r.accepts = append(r.accepts, version)
		}
		if n.read(n.PKI+"/sa.key") == k.private {
			r.signs = version
		}
	}
	slices.Sort(r.accepts)
	return r
}

// firstBlock reports whether kubeadm takes the first key of sa.pub rightly for that of sa.key.
func (n node) firstBlock() bool {
	for _, k := range testKeys {
		if n.read(n.PKI+"/sa.key") == k.private {
			return strings.HasPrefix(n.read(n.PKI+"/sa.pub"), k.public)
		}
	}
	return false
}

// wantKeys wants a restarted kube-apiserver to have these keys, and the files to be in step.
func (n node) wantKeys(k rotation.Keys) {
	n.t.Helper()
	got := n.restart()
	if !slices.Equal(got.accepts, k.Verify) || got.signs != k.Sign || got.external != k.External {
		n.t.Errorf("kube-apiserver has %+v, want %+v", got, k)
	}
	if !n.firstBlock() {
		n.t.Error("the first key of sa.pub is not that of sa.key")
	}
	if n.read(n.PKI+"/sa.key") != testKeys[k.Sign].private {
		n.t.Errorf("sa.key is not key version %d", k.Sign)
	}
}

// snapshot is the content of each file below a directory, with its mode, by its path.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, dir+"/")] = fmt.Sprintf("%v %s", info.Mode(), content)
		return err
	}))
	return found
}
