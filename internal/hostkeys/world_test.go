package hostkeys

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

// testKeys are key versions 1 to 3.
var testKeys = generateKeys()

func generateKeys() (keys []Key) {
	for version := 1; version <= 3; version++ {
		private, err := token.GenerateKey(rand.Reader, jwks.ES256)
		if err != nil {
			panic(err)
		}
		keys = append(keys, Key{Version: version, Signer: private})
	}
	return keys
}

func files(sign int, verify ...int) rotation.Keys { return rotation.Keys{Verify: verify, Sign: sign} }

func external(sign int, verify ...int) rotation.Keys {
	return rotation.Keys{Verify: verify, Sign: sign, External: true}
}

func newServer(t *testing.T) APIServer {
	t.Helper()
	dir := t.TempDir()
	return APIServer{Dir: filepath.Join(dir, "made", "keys"), SignerDir: filepath.Join(dir, "signer-keys")}
}

func newManager(t *testing.T) ControllerManager {
	t.Helper()
	return ControllerManager{Dir: filepath.Join(t.TempDir(), "keys")}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// snapshot is the content of each file below a directory, with its mode, by its path.
func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Type() == os.ModeSymlink {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		found[strings.TrimPrefix(path, dir+"/")] = info.Mode().String() + " " + string(content)
		return err
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return found
}

// wantFiles wants a directory to hold exactly these files, each for its owner alone.
func wantFiles(t *testing.T, dir string, want ...string) {
	t.Helper()
	var names []string
	for name, content := range snapshot(t, dir) {
		names = append(names, name)
		if !strings.HasPrefix(content, "-rw------- ") {
			t.Errorf("%s has mode %s", name, content[:10])
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("files %q, want %q", names, want)
	}
}

// wantKeys wants everything that these keys name to be on disk, and to be the right keys.
func (s APIServer) wantKeys(t *testing.T, k rotation.Keys) {
	t.Helper()
	if k.External {
		s.wantServed(t, k)
		return
	}
	for _, version := range k.Verify {
		raw, err := os.ReadFile(s.PublicKey(version))
		must(t, err)
		public, err := jwks.ParsePublicKey(raw)
		must(t, err)
		if !sameKey(t, public, testKeys[version-1].Signer.Public()) {
			t.Errorf("%s holds another key", s.PublicKey(version))
		}
	}
	wantPrivate(t, s.PrivateKey(k.Sign), k.Sign)
}

func wantPrivate(t *testing.T, path string, version int) {
	t.Helper()
	raw, err := os.ReadFile(path)
	must(t, err)
	private, err := token.ParsePrivateKey(raw)
	must(t, err)
	if !sameKey(t, private.Public(), testKeys[version-1].Signer.Public()) {
		t.Errorf("%s holds another key", path)
	}
}

func (s APIServer) wantServed(t *testing.T, k rotation.Keys) {
	t.Helper()
	set, _, err := keydir.Read(s.SignerDir)
	must(t, err)
	if served, ok := s.Served(); !ok || !served.Equal(k) {
		t.Errorf("the signer is to serve %v, want %v", served, k)
	}
	hints := []time.Duration{set.RefreshHint, set.RotationRefreshHint, set.LeadIn, set.MaxTokenExpiration}
	if !slices.Equal(hints, []time.Duration{time.Hour, 5 * time.Second, 0, 365 * 24 * time.Hour}) {
		t.Errorf("the signer has the hints %v", hints)
	}
	for _, key := range set.Keys {
		if !sameKey(t, key.Public, testKeys[key.Version-1].Signer.Public()) || !key.CanSign() {
			t.Errorf("the signer has another key as version %d", key.Version)
		}
	}
}

func sameKey(t *testing.T, a, b any) bool {
	t.Helper()
	x, err := jwks.MarshalPublicKey(a)
	must(t, err)
	y, err := jwks.MarshalPublicKey(b)
	must(t, err)
	return string(x) == string(y)
}

// wantNothingOf looks for a private key in every file below a directory.
func wantNothingOf(t *testing.T, dir string, version int) {
	t.Helper()
	private, err := token.MarshalPrivateKey(testKeys[version-1].Signer)
	must(t, err)
	secret := strings.Split(string(private), "\n")[1]
	for name, content := range snapshot(t, dir) {
		if strings.Contains(content, secret) {
			t.Errorf("%s holds private key %d", name, version)
		}
	}
}
