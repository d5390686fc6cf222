package hostkeys

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"

	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// configuredFile contains the key versions that a process should run with.
const configuredFile = "configured.json"

func publicKeyFile(version int) string  { return fmt.Sprintf("sa-%d.pub", version) }
func privateKeyFile(version int) string { return fmt.Sprintf("sa-%d.key", version) }

// ours matches the names that Tidy may delete: key files, and what interrupted writes left.
var ours = regexp.MustCompile(`^(sa-[0-9]+\.(key|pub)|\.(sa-[0-9]+\.(key|pub)|configured\.json)\.[0-9A-Z]+)$`)

// directory is a key directory.
type directory struct {
	path string
	// fault wraps the disk in tests.
	fault func(disk) disk
}

// open opens a directory that exists.
func (d directory) open() (*rootDisk, disk, error) {
	root, err := openDisk(d.path)
	if err != nil {
		return nil, nil, err
	}
	if d.fault != nil {
		return root, d.fault(root), nil
	}
	return root, root, nil
}

// change calls do to change the directory, under a lock.
func (d directory) change(do func(disk) error) error {
	root, files, err := d.open()
	if err != nil {
		return err
	}
	return alone(root, files, do)
}

// clean is change for a directory that need not exist; there is then nothing to clean.
func (d directory) clean(do func(disk) error) error {
	root, files, err := d.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return alone(root, files, do)
}

func alone(root *rootDisk, files disk, do func(disk) error) error {
	err := root.lock()
	if err == nil {
		err = do(files)
	}
	return errors.Join(err, root.close())
}

// read calls do to read a directory; one that does not exist holds nothing.
func (d directory) read(do func(disk) error) error {
	root, files, err := d.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(do(files), root.close())
}

// readConfigured decodes configured.json into into; false if there is none.
func readConfigured(files disk, into any) (found bool, err error) {
	raw, err := files.read(configuredFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return false, fmt.Errorf("%s: %w", configuredFile, err)
	}
	return true, nil
}

func writeConfigured(files disk, configured any) error {
	raw, err := json.Marshal(configured)
	if err != nil {
		return err
	}
	if err := ensure(files, configuredFile, raw); err != nil {
		return err
	}
	return files.sync()
	// After a crash here, the process runs with its old keys until it is restarted, and then with the new ones, whoever
	// starts it.
}

// writeKeys writes the files of these versions; sign is the one to sign with.
func writeKeys(files disk, verify []int, sign int, keys []Key) error {
	for _, version := range verify {
		k, err := versionOf(version, keys)
		if err != nil {
			return err
		}
		public, err := jwks.MarshalPublicKey(k.Signer.Public())
		if err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
		if err := ensure(files, publicKeyFile(version), public); err != nil {
			return err
		}
	}
	k, err := versionOf(sign, keys)
	if err != nil {
		return err
	}
	private, err := token.MarshalPrivateKey(k.Signer)
	if err != nil {
		return fmt.Errorf("%s: %w", k, err)
	}
	if err := ensure(files, privateKeyFile(sign), private); err != nil {
		return err
	}
	return files.sync()
	// A crash here leaves keys that nothing names. The process starts with the earlier configuration. Tidy deletes the
	// keys, or the next call configures them.
}

// ensure gives a file this content, atomically.
func ensure(files disk, name string, content []byte) error {
	old, err := files.read(name)
	if err == nil && bytes.Equal(old, content) {
		return nil
	}
	// A name that cannot be read, such as a link that leads out, is replaced, too.
	temporary := "." + name + "." + rand.Text()
	if err := files.create(temporary, name, content); err != nil {
		return errors.Join(err, discard(files, temporary))
	}
	// A crash here leaves the old file whole, and the new one for Tidy to delete.
	if err := files.rename(temporary, name); err != nil {
		return errors.Join(err, discard(files, temporary))
	}
	return nil
}

// discard removes a file that may not exist.
func discard(files disk, name string) error {
	if err := files.remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// held returns the key versions whose private key a directory holds, ascending.
func held(files disk) (versions []int, err error) {
	names, err := files.names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		var version int
		if _, err := fmt.Sscanf(name, "sa-%d.key", &version); err == nil && name == privateKeyFile(version) {
			versions = append(versions, version)
		}
	}
	slices.Sort(versions)
	return versions, nil
}

// tidy deletes all files of ours that are not needed. It always syncs, since an interrupted call may have deleted files
// without doing so.
func tidy(files disk, needed []string) error {
	names, err := files.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !ours.MatchString(name) || slices.Contains(needed, name) {
			continue
		}
		if err := discard(files, name); err != nil {
			return err
		}
		// After a crash here, the next call deletes the rest.
	}
	return files.sync()
}
