package keydir

import (
	"github.com/keyturn/keyturn/internal/hint"

	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/jwks"
)

// versionPrefix begins the names of the directories that ..data points to.
const versionPrefix = "..v-"

// Write makes the directory hold exactly this set, with directories of mode 0700 and files of mode 0600. Readers see
// either the old set or the new one. When it returns nil, the set is on disk, Read accepts it, and no file of another
// set is left. If the set is already there, Write only removes what a crash left. Only one goroutine or process may
// call it at a time.
//
// Write repairs damage. It makes the caller the owner of the directory, with mode 0700. It removes anything at the
// directory's path that is not a directory, and everything in the directory that is not of the set. It refuses a
// directory that was never a key directory, so it never deletes unrelated files.
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
	root, err := own(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if holds(root, files) {
		return clean(root)
	}
	version, err := writeVersion(root, files)
	if err != nil {
		return err
	}
	// A crash here leaves the old set whole, and a directory that nothing points to, which clean removes.
	if err := swap(root, version); err != nil {
		_ = root.RemoveAll(version)
		return err
	}
	// A crash here leaves the new set whole, and the old private keys until the next Write.
	if err := clean(root); err != nil {
		return err
	}
	return readable(dir)
}

// readable returns why Read would refuse the set that was written. Readers use the path, not the open directory.
func readable(dir string) error {
	set, _, err := Read(dir)
	set.Wipe()
	return err
}

// own opens the directory, creating it if it is missing, and removes the access of others.
func own(dir string) (*os.Root, error) {
	dir = filepath.Clean(dir)
	if err := makeDirectory(dir); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if err := take(root, dir); err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// makeDirectory creates the directory unless it exists. If something else has its path, it removes that one file or
// link, and nothing that the link points to.
func makeDirectory(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	info, err := os.Lstat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		err = os.Remove(dir)
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

// take makes the caller the only owner of the directory, if it is a key directory or empty.
func take(root *os.Root, dir string) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	if at, err := os.Lstat(dir); err != nil || !os.SameFile(at, info) {
		return errReplaced // perhaps by a link to a directory that is not ours
	}
	if err := checkMark(root); err != nil {
		return err
	}
	if owner(info) != os.Geteuid() {
		if err := root.Chown(".", os.Geteuid(), os.Getegid()); err != nil {
			return hint.Errorf("remove it", "it belongs to user %d: %w", owner(info), err)
		}
	}
	if info.Mode() != fs.ModeDir|0o700 {
		return root.Chmod(".", 0o700)
	}
	return nil
}

// checkMark refuses a directory that has files but no mark of a key directory.
func checkMark(root *os.Root) error {
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	marked := func(e fs.DirEntry) bool {
		return e.Name() == dataLink || e.Name() == ManifestName || strings.HasPrefix(e.Name(), versionPrefix)
	}
	if len(entries) > 0 && !slices.ContainsFunc(entries, marked) {
		return hint.Errorf("name a separate directory",
			"it was never a key directory: %s is in it", entries[0].Name())
	}
	return nil
}

// holds reports whether the directory already has exactly these files, all with mode and owner of secrets.
func holds(root *os.Root, files map[string][]byte) bool {
	target, err := root.Readlink(dataLink)
	if err != nil || strings.Contains(target, "/") {
		return false
	}
	// clean would remove what another link points to.
	if info, err := root.Lstat(target); err != nil || !info.IsDir() {
		return false
	}
	version, err := root.OpenRoot(target)
	if err != nil {
		return false
	}
	defer version.Close()
	info, err := version.Stat(".")
	if err != nil || secret.check(info) != nil {
		return false
	}
	entries, err := fs.ReadDir(version.FS(), ".")
	if err != nil || len(entries) != len(files) {
		return false
	}
	r := &reader{root: version, files: map[string][]byte{}}
	defer r.wipe()
	for name, want := range files {
		if r.load(name, secret) != nil || !bytes.Equal(r.files[name], want) {
			return false
		}
	}
	return true
}

// writeVersion writes the files to a new directory. When it fails, it leaves none of them.
func writeVersion(root *os.Root, files map[string][]byte) (string, error) {
	name := versionPrefix + rand.Text()
	if err := root.Mkdir(name, 0o700); err != nil {
		return "", err
	}
	if err := fill(root, name, files); err != nil {
		return "", errors.Join(err, root.RemoveAll(name))
	}
	return name, nil
}

func fill(root *os.Root, name string, files map[string][]byte) error {
	version, err := root.OpenRoot(name)
	if err != nil {
		return err
	}
	defer version.Close()
	for name, content := range files {
		if err := writeFile(version, name, content); err != nil {
			return err
		}
	}
	return syncDir(version)
}

func writeFile(root *os.Root, name string, content []byte) error {
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// swap makes ..data point to a version, atomically unless ..data is a directory.
func swap(root *os.Root, version string) error {
	temporary := versionPrefix + "link"
	if err := root.RemoveAll(temporary); err != nil {
		return err
	}
	if err := root.Symlink(version, temporary); err != nil {
		return err
	}
	if info, err := root.Lstat(dataLink); err == nil && info.IsDir() {
		if err := root.RemoveAll(dataLink); err != nil {
			return err
		}
	}
	if err := root.Rename(temporary, dataLink); err != nil {
		return err
	}
	return syncDir(root)
}

// clean removes everything that ..data does not point to.
func clean(root *os.Root) error {
	target, err := root.Readlink(dataLink)
	if err != nil {
		return err
	}
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == dataLink || e.Name() == target {
			continue
		}
		if err := root.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	return syncDir(root)
}

func syncDir(root *os.Root) error {
	d, err := root.Open(".")
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
	return files, checkSizes(files)
}

// checkSizes refuses, before anything is written, files that Read would refuse.
func checkSizes(files map[string][]byte) error {
	for name, content := range files {
		if len(content) == 0 || len(content) > maxFile {
			return fmt.Errorf("%s: empty or longer than %d bytes", name, maxFile)
		}
	}
	return nil
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

// encodePIN adds the PIN file that the URI names. Keys of one token have the same PIN and may share the file.
func encodePIN(k Key, files map[string][]byte) error {
	name, err := pinFile(k.PKCS11)
	if err != nil || name == "" {
		return err
	}
	if err := checkName(name); err != nil {
		return err
	}
	if other, ok := files[name]; ok && string(other) != string(k.PIN) {
		return fmt.Errorf("file %s is named for two different contents", name)
	}
	files[name] = k.PIN
	return nil
}
