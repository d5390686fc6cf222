package keydir

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/keyturn/keyturn/jwks"
)

// dataLink is the symbolic link that Secret volumes and Write swap.
const dataLink = "..data"

// maxFile bounds what is read from a file.
const maxFile = 256 << 10

// Digest identifies the bytes that a set was read from.
type Digest [sha256.Size]byte

// attempts of Read to see one version of a directory that is replaced again and again.
const attempts = 5

// Read reads the directory. Two sets with one digest are equal.
func Read(dir string) (Set, Digest, error) {
	var set Set
	var digest Digest
	var err error
	for range attempts {
		set, digest, err = readOnce(dir)
		if !errors.Is(err, errReplaced) {
			break
		}
	}
	if err != nil {
		return Set{}, Digest{}, fmt.Errorf("reading key directory %s: %w", dir, err)
	}
	return set, digest, nil
}

// errReplaced says that what was read is not what is there any more.
var errReplaced = errors.New("it is replaced while it is read")

func readOnce(dir string) (Set, Digest, error) {
	root, err := open(dir)
	if err != nil {
		return Set{}, Digest{}, err
	}
	defer root.Close()
	r := &reader{root: root}
	set, err := r.read()
	if err != nil && !current(dir, root) {
		return Set{}, Digest{}, errReplaced
	}
	return set, r.digest(), err
}

// open returns the directory that has the files. All of them are reached through it, so that a swap in between does
// not mix two versions.
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
	data, err := root.OpenRoot(dataLink)
	if err != nil {
		return nil, bare(err)
	}
	return data, checkDirectory(data)
}

// bare removes the operation and the path from an error, which the caller names.
func bare(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", filepath.Base(e.Path), e.Err)
	}
	return err
}

// current says whether the directory that was opened is still the one that open would return.
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
	return checkOwner(info, 0o022, "write")
}

// checkVolume allows what Secret volumes have: everybody may write their root, but, as it is sticky, not replace what is there.
func checkVolume(root *os.Root) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSticky != 0 {
		return checkOwner(info, 0, "")
	}
	return checkOwner(info, 0o022, "write")
}

// checkOwner refuses what somebody else owns, and modes that let others do what they must not.
func checkOwner(info fs.FileInfo, forbidden fs.FileMode, what string) error {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("it belongs to user %d\nhint: it must belong to root or to user %d", stat.Uid, os.Geteuid())
	}
	if perm := info.Mode().Perm(); perm&forbidden != 0 {
		return fmt.Errorf("its mode %04o lets others %s it\nhint: chmod go= it; in a Secret volume, set defaultMode 0400", perm, what)
	}
	return nil
}

// reader reads the files of one version of a directory.
type reader struct {
	root *os.Root
	sum  []byte
}

func (r *reader) digest() Digest { return sha256.Sum256(r.sum) }

func (r *reader) read() (Set, error) {
	data, err := r.file(ManifestName, 0o022)
	if err != nil {
		return Set{}, err
	}
	m, err := parseManifest(data)
	if err != nil {
		return Set{}, fmt.Errorf("%s: %w", ManifestName, err)
	}
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
	data, err := r.file(e.Public, 0o022)
	if err != nil {
		return k, err
	}
	if k.Public, err = jwks.ParsePublicKey(data); err != nil {
		return k, fmt.Errorf("%s: %w", e.Public, err)
	}
	if e.Private != "" {
		if k.Private, err = r.file(e.Private, 0o077); err != nil {
			return k, err
		}
	}
	if pin := pinFile(e.PKCS11); pin != "" {
		raw, err := r.file(pin, 0o077)
		if err != nil {
			return k, err
		}
		k.PIN = Secret(strings.TrimRight(string(raw), "\r\n"))
	}
	return k, nil
}

// pinFile returns the pin-source of a PKCS #11 URI. The rest of the URI is package hsm's business.
func pinFile(uri string) string {
	_, query, _ := strings.Cut(uri, "?")
	for attribute := range strings.SplitSeq(query, "&") {
		if name, ok := strings.CutPrefix(attribute, "pin-source="); ok {
			if plain, err := url.PathUnescape(name); err == nil {
				return plain
			}
			return name
		}
	}
	return ""
}

// file reads a file that must have none of the forbidden permissions.
func (r *reader) file(name string, forbidden fs.FileMode) ([]byte, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	// A FIFO must not hold up the reader.
	f, err := r.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, bare(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, bare(err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	what := "write"
	if forbidden&0o044 != 0 {
		what = "read or write"
	}
	if err := checkOwner(info, forbidden, what); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, bare(err)
	}
	if len(data) == 0 || len(data) > maxFile {
		return nil, fmt.Errorf("%s: empty or longer than %d bytes", name, maxFile)
	}
	r.note(name, data)
	return data, nil
}

// note adds a file to the digest, so that no two lists of files give the same bytes.
func (r *reader) note(name string, data []byte) {
	for _, part := range [][]byte{[]byte(name), data} {
		sum := sha256.Sum256(part)
		r.sum = binary.BigEndian.AppendUint64(r.sum, uint64(len(part)))
		r.sum = append(r.sum, sum[:]...)
	}
}
