package keydir

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/keyturn/keyturn/internal/signer/pkcs11uri"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// dataLink is the symbolic link that Secret volumes and Write replace.
const dataLink = "..data"

// maxFile is the largest file that is read, in bytes.
const maxFile = 256 << 10

// Digest identifies the files that a set was read from.
type Digest [sha256.Size]byte

// attempts is how often Read tries to read one whole version of a directory that is being replaced.
const attempts = 50

// ErrUnchanged is returned by ReadChange when the content has the known digest.
var ErrUnchanged = errors.New("it has not changed")

// Read reads the directory. Two sets with one digest are equal. The set holds private keys and PINs: call Wipe when it
// is no longer needed.
func Read(dir string) (Set, Digest, error) { return ReadChange(dir, Digest{}) }

// ReadChange is Read for callers that know an earlier digest: it returns ErrUnchanged if the digest is still the same.
// It then has parsed no key, and left no copy of one in memory.
func ReadChange(dir string, known Digest) (Set, Digest, error) {
	var set Set
	var digest Digest
	var err error
	for range attempts {
		set, digest, err = readOnce(dir, known)
		if !errors.Is(err, errReplaced) {
			break
		}
	}
	if err != nil {
		return Set{}, Digest{}, fmt.Errorf("reading key directory %s: %w", dir, err)
	}
	return set, digest, nil
}

// errReplaced makes Read start again: the directory was replaced meanwhile.
var errReplaced = errors.New("it was replaced while being read")

func readOnce(dir string, known Digest) (Set, Digest, error) {
	root, err := open(dir)
	if err != nil {
		return Set{}, Digest{}, err
	}
	defer root.Close()
	return readFrom(root, dir, known)
}

// readFrom reads a directory that open returned.
func readFrom(root *os.Root, dir string, known Digest) (Set, Digest, error) {
	r := &reader{root: root, files: map[string][]byte{}}
	set, err := r.read(known)
	if err != nil {
		if !errors.Is(err, ErrUnchanged) && !current(dir, root) {
			err = errReplaced
		}
		return Set{}, Digest{}, err
	}
	return set, r.digest(), nil
}

// open returns the directory that has the files. They are all read through it, so that a replacement meanwhile cannot
// mix two versions.
func open(dir string) (*os.Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, bare(err)
	}
	if _, err := root.Lstat(dataLink); errors.Is(err, fs.ErrNotExist) {
		return root, checkDirectory(root)
	}
	defer root.Close()
	if err := checkVolume(root); err != nil {
		return nil, err
	}
	target, _ := root.Readlink(dataLink)
	return openVersion(root, target)
}

// openVersion returns the directory that ..data leads to. It led to target before.
func openVersion(root *os.Root, target string) (*os.Root, error) {
	data, err := root.OpenRoot(dataLink)
	if now, errNow := root.Readlink(dataLink); err != nil && errNow == nil && now != target {
		return nil, errReplaced
	}
	if err != nil {
		return nil, bare(err)
	}
	return data, checkDirectory(data)
}

// bare removes the operation and the path from an error, since the caller adds them.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", filepath.Base(e.Path), e.Err)
	}
	return err
}

// current reports whether open would still return the same directory.
func current(dir string, was *os.Root) bool {
	now, err := open(dir)
	if err != nil {
		return false
	}
	defer now.Close()
	a, errA := was.Stat(".")
	b, errB := now.Stat(".")
	return errA == nil && errB == nil && os.SameFile(a, b)
}

func checkDirectory(root *os.Root) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	return notWritable.check(info)
}

// checkVolume allows the modes and owners of Secret volumes.
func checkVolume(root *os.Root) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSticky != 0 {
		return trusted.check(info)
	}
	return notWritable.check(info)
}

// reader reads the files of one version of a directory.
type reader struct {
	root  *os.Root
	files map[string][]byte
	sum   []byte
}

func (r *reader) digest() Digest { return sha256.Sum256(r.sum) }

// wipe overwrites what was read.
func (r *reader) wipe() {
	for _, data := range r.files {
		clear(data)
	}
}

// read parses the files only if their digest differs from the known one. When it fails, it wipes them.
func (r *reader) read(known Digest) (set Set, err error) {
	defer func() {
		if err != nil {
			r.wipe()
		}
	}()
	if err := r.load(ManifestName, notWritable); err != nil {
		return Set{}, err
	}
	m, err := parseManifest(r.files[ManifestName])
	if err != nil {
		return Set{}, fmt.Errorf("%s: %w", ManifestName, err)
	}
	for _, e := range m.Keys {
		if err := r.loadKey(e); err != nil {
			return Set{}, fmt.Errorf("key version %d: %w", e.Version, err)
		}
	}
	if r.digest() == known {
		return Set{}, ErrUnchanged
	}
	return r.parse(m)
}

// loadKey reads the files of a key.
func (r *reader) loadKey(e manifestEntry) error {
	if err := r.load(e.Public, notWritable); err != nil {
		return err
	}
	pin, err := pinFile(e.PKCS11)
	if err != nil {
		return err
	}
	for _, name := range []string{e.Private, pin} {
		if name == "" {
			continue
		}
		if err := r.load(name, secret); err != nil {
			return err
		}
	}
	return nil
}

// pinFile returns the PIN file that a PKCS #11 URI names; empty for no URI.
func pinFile(uri string) (string, error) {
	if uri == "" {
		return "", nil
	}
	u, err := pkcs11uri.Parse(uri)
	return u.PINSource, err
}

func (r *reader) parse(m manifest) (Set, error) {
	set := m.set()
	for _, e := range m.Keys {
		k, err := r.key(e)
		if err != nil {
			return Set{}, fmt.Errorf("key version %d: %w", e.Version, err)
		}
		set.Keys = append(set.Keys, k)
	}
	if err := set.Validate(); err != nil {
		return Set{}, fmt.Errorf("%s: %w", ManifestName, err)
	}
	return set, nil
}

func (r *reader) key(e manifestEntry) (Key, error) {
	k := Key{
		Version: e.Version, PKCS11: e.PKCS11, VerifyOnly: e.VerifyOnly, ExcludeFromOIDCDiscovery: e.ExcludeFromOIDCDiscovery,
	}
	var err error
	if k.Public, err = jwks.ParsePublicKey(r.files[e.Public]); err != nil {
		return k, fmt.Errorf("%s: %w", e.Public, err)
	}
	if e.Private != "" {
		k.Private = r.files[e.Private]
		if k.signer, err = token.ParsePrivateKey(k.Private); err != nil {
			return k, err
		}
	}
	pin, err := pinFile(e.PKCS11)
	if pin != "" {
		k.PIN = bytes.TrimRight(r.files[pin], "\r\n")
	}
	return k, err
}

// load reads a file and adds it to the digest. A file that two keys share is read once.
func (r *reader) load(name string, want access) error {
	if err := checkName(name); err != nil {
		return err
	}
	// Without O_NONBLOCK, a FIFO would block the reader.
	f, err := r.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return bare(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return bare(err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", name)
	}
	if err := want.check(info); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if info.Size() == 0 || info.Size() > maxFile {
		return fmt.Errorf("%s: empty or longer than %d bytes", name, maxFile)
	}
	if _, again := r.files[name]; again {
		return nil
	}
	// One buffer of the right size leaves no copies behind.
	data := make([]byte, info.Size())
	r.files[name] = data
	if _, err := io.ReadFull(f, data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	r.note(name, data)
	return nil
}

// note adds a file to the digest. Hashes have a fixed size, so no two lists of files give the same bytes.
func (r *reader) note(name string, data []byte) {
	for _, part := range [][]byte{[]byte(name), data} {
		sum := sha256.Sum256(part)
		r.sum = append(r.sum, sum[:]...)
	}
}
