package controlplane_test

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// keyFiles writes the files of the keys as an API server reads them and returns its flags for them.
func keyFiles(t *testing.T, sign keystore.KeyPair, verify ...keystore.KeyPair) map[string][]string {
	t.Helper()
	dir := t.TempDir()
	private, err := token.MarshalPrivateKey(sign.Signer)
	if err != nil {
		t.Fatal(err)
	}
	flags := map[string][]string{
		"service-account-issuer":           {issuer},
		"service-account-signing-key-file": {write(t, dir, "sign.pem", private)},
	}
	for _, k := range verify {
		public, err := jwks.MarshalPublicKey(k.Signer.Public())
		if err != nil {
			t.Fatal(err)
		}
		flags["service-account-key-file"] = append(flags["service-account-key-file"],
			write(t, dir, "verify-"+strconv.Itoa(k.Version)+".pem", public))
	}
	return flags
}

func write(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func generate(t *testing.T, version int, alg string) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, alg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestProve(t *testing.T) {
	one, two, three := generate(t, 1, "RS256"), generate(t, 2, "ES256"), generate(t, 3, "RS256")
	cfg := kubetest.Start(t, kubetest.Options{APIServerArgs: keyFiles(t, one, one, two)})

	for range 2 { // the second time the canary account is there already
		got, err := controlplane.Prove(t.Context(), cfg, []keystore.KeyPair{one, two, three}, false)
		if err != nil {
			t.Fatal(err)
		}
		want := controlplane.Proof{Accepts: []int{1, 2}, Refuses: []int{3}, Signs: 1}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("proof (-want +got):\n%s", diff)
		}
	}
}

// A server whose signing key nobody told us of proves nothing about our keys.
func TestProveUnknownSigner(t *testing.T) {
	one, two := generate(t, 1, "ES256"), generate(t, 2, "ES256")
	cfg := kubetest.Start(t, kubetest.Options{APIServerArgs: keyFiles(t, one, one)})

	got, err := controlplane.Prove(t.Context(), cfg, []keystore.KeyPair{two}, false)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(controlplane.Proof{Refuses: []int{2}}, got); diff != "" {
		t.Errorf("proof (-want +got):\n%s", diff)
	}
}
