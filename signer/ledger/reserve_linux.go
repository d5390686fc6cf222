package ledger

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// reserve allocates blocks for an empty file of this size, so that a full disk is noticed here.
func reserve(f *os.File, size int) error {
	err := unix.Fallocate(int(f.Fd()), 0, 0, int64(size))
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	return writeZeros(f, size)
}
