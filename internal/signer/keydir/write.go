package keydir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/keyturn/keyturn/jwks"
)

// versionPrefix starts the names of the directories that ..data points to.
const versionPrefix = "..v-"

// Write makes the directory hold exactly this set, with directories of mode 0700 and files of mode 0600. Readers see the old set
// or the new one. When it returns nil, the set is on disk, and no file of another set is left. Writing the set that is there
// already changes nothing but to remove what a crash left. One caller at a time.
func Write(dir string, set Set) error {
	if err := write(dir, set); err != nil {
		return fmt.Errorf("writing key directory %s: %w", dir, err)
	}
	return nil
}

func write(dir string, set Set) error {
	files, err := encode(set)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if holds(dir, files) {
		return clean(dir)
	}
	version, err := writeVersion(dir, files)
	if err != nil {
		return err
	}
	// Crash here: the old set is whole, and a directory that nothing points to is left for clean.
	if err := swap(dir, version); err != nil {
		_ = os.RemoveAll(filepath.Join(dir, version))
		return err
	}
	// Crash here: the new set is whole, and the old private keys are left until the next Write.
	return clean(dir)
}

// holds says whether the directory has these files already, on disk and of the right mode.
func holds(dir string, files map[string][]byte) bool {
	target, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil || !strings.HasPrefix(target, versionPrefix) {
		return false
	}
	root, err := open(dir)
	if err != nil {
		return false
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil || len(entries) != len(files) {
		return false
	}
	r := &reader{root: root}
	for name, want := range files {
		if got, err := r.file(name, 0o077); err != nil || string(got) != string(want) {
			return false
		}
	}
	return true
}

func writeVersion(dir string, files map[string][]byte) (name string, err error) {
	path, err := os.MkdirTemp(dir, versionPrefix) // mode 0700
	if err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(path)
		}
	}()
	for name, content := range files {
		if err := writeFile(filepath.Join(path, name), content); err != nil {
			return "", err
		}
	}
	return filepath.Base(path), syncDir(path)
}

func writeFile(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// swap points ..data to a version, in one step.
func swap(dir, version string) error {
	temporary := filepath.Join(dir, versionPrefix+"link")
	if err := os.RemoveAll(temporary); err != nil {
		return err
	}
	if err := os.Symlink(version, temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(dir, dataLink)); err != nil {
		return err
	}
	return syncDir(dir)
}

// clean removes what ..data does not point to.
func clean(dir string) error {
	target, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == dataLink || e.Name() == target {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// encode returns the files of a set.
func encode(set Set) (map[string][]byte, error) {
	if err := set.Validate(); err != nil {
		return nil, err
	}
	m := manifest{
		SigningVersion:             set.SigningVersion,
		RefreshHintSeconds:         int64(set.RefreshHint / time.Second),
		RotationRefreshHintSeconds: int64(set.RotationRefreshHint / time.Second),
		LeadInSeconds:              int64(set.LeadIn / time.Second),
		MaxTokenExpirationSeconds:  int64(set.MaxTokenExpiration / time.Second),
	}
	files := map[string][]byte{}
	for _, k := range set.Keys {
		e, err := encodeKey(k, files)
		if err != nil {
			return nil, fmt.Errorf("key version %d: %w", k.Version, err)
		}
		m.Keys = append(m.Keys, e)
	}
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, err
	}
	files[ManifestName] = append(data, '\n')
	return files, nil
}

func encodeKey(k Key, files map[string][]byte) (manifestEntry, error) {
	e := manifestEntry{
		Version:                  k.Version,
		Public:                   fmt.Sprintf("%d.pub", k.Version),
		PKCS11:                   k.PKCS11,
		VerifyOnly:               k.VerifyOnly,
		ExcludeFromOIDCDiscovery: k.ExcludeFromOIDCDiscovery,
	}
	public, err := jwks.MarshalPublicKey(k.Public)
	if err != nil {
		return e, err
	}
	files[e.Public] = public
	if len(k.Private) > 0 {
		e.Private = fmt.Sprintf("%d.key", k.Version)
		files[e.Private] = k.Private
	}
	return e, encodePIN(k, files)
}

// encodePIN writes the PIN where the URI says. Keys of one token share its PIN and may share the file.
func encodePIN(k Key, files map[string][]byte) error {
	name := pinFile(k.PKCS11)
	switch {
	case name == "" && len(k.PIN) == 0:
		return nil
	case name == "" || len(k.PIN) == 0:
		return errors.New("a PIN and the pin-source of the PKCS #11 URI need each other")
	}
	if err := checkName(name); err != nil {
		return err
	}
	if other, ok := files[name]; ok && string(other) != string(k.PIN) {
		return fmt.Errorf("file %s is to hold two things", name)
	}
	files[name] = k.PIN
	return nil
}
