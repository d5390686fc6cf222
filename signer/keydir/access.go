package keydir

import (
	"github.com/keyturn/keyturn/internal/hint"

	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// access is what the mode and the owner of a file must not allow.
type access struct {
	// forbidden are the mode bits that must not be set, and verb is what they would allow others to do.
	forbidden fs.FileMode
	verb      string
}

var (
	// notWritable is for files that anyone may read.
	notWritable = access{forbidden: 0o022, verb: "write"}
	// secret is for private keys and PINs.
	secret = access{forbidden: 0o077, verb: "read or write"}
	// trusted is for the sticky root of a Secret volume: anyone may add files to it, but not replace them.
	trusted = access{}
)

func (a access) check(info fs.FileInfo) error {
	self := os.Geteuid()
	if uid := owner(info); uid != self && uid != 0 {
		return hint.Errorf(fmt.Sprintf("it must belong to root or to user %d", self), "it belongs to user %d", uid)
	}
	if perm := info.Mode().Perm(); perm&a.forbidden != 0 {
		return hint.Errorf("chmod go= it; in a Secret volume, set defaultMode 0400",
			"its mode %04o lets others %s it", perm, a.verb)
	}
	return nil
}

// owner returns the user ID of a file's owner.
func owner(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}
