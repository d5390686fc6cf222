package keydir

import (
	"github.com/keyturn/keyturn/internal/hint"

	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// access is what the owner and the mode of a file must keep others from doing.
type access struct {
	// forbidden are the bits of the mode that others must not have, and verb is what they would allow.
	forbidden fs.FileMode
	verb      string
}

var (
	// notWritable is for what anybody may know.
	notWritable = access{forbidden: 0o022, verb: "write"}
	// secret is for private keys and PINs.
	secret = access{forbidden: 0o077, verb: "read or write"}
	// trusted is for the sticky root of a Secret volume: everybody may add to it, but not replace what is there.
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

// owner returns the user that a file belongs to.
func owner(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}
