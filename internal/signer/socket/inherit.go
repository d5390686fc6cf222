package socket

import (
	"github.com/keyturn/keyturn/internal/hint"

	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// firstInherited is the first file descriptor that systemd passes (sd_listen_fds(3)).
const firstInherited = 3

// Activated returns the one listening unix socket that systemd, or another program with its protocol, passed to this
// process in LISTEN_PID and LISTEN_FDS; nil if there is none. It removes the variables, so that no child uses them.
func Activated() (*net.UnixListener, error) {
	pid, count := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		_ = os.Unsetenv(name)
	}
	if count == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil //nolint:nilnil // having none is no failure
	}
	if count != "1" {
		return nil, hint.Errorf("give the unit one socket", "inheriting the socket: LISTEN_FDS is %q", count)
	}
	l, err := Inherited(firstInherited)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(errors.New("inheriting the socket: it is not a unix socket"), l.Close())
	}
	u.SetUnlinkOnClose(false)
	return u, nil
}

// Inherited returns the listening socket of a file descriptor that this process was started with.
func Inherited(fd uintptr) (net.Listener, error) {
	syscall.CloseOnExec(int(fd))
	f := os.NewFile(fd, "inherited socket")
	if f == nil {
		return nil, fmt.Errorf("inheriting the socket: no file descriptor %d", fd)
	}
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("inheriting the socket: file descriptor %d: %w", fd, err)
	}
	return l, nil
}

// File returns the socket of a listener as a file that children can be started with. It stays open until it is closed
// itself.
//
// Blocking mode is shared by all processes that share a socket, and package os sets it to blocking whenever a
// non-blocking file is passed to a child. A child that already listens would then hang in accept. So the file is made
// such that package os takes it for blocking and leaves it alone, while the listening children make the socket
// non-blocking.
func File(l syscall.Conn) (*os.File, error) {
	raw, err := l.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("duplicating the socket: %w", err)
	}
	var fd int
	var dupErr error
	err = raw.Control(func(of uintptr) {
		fd, dupErr = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 0)
	})
	if err == nil {
		err = dupErr
	}
	if err == nil {
		err = syscall.SetNonblock(fd, false)
	}
	if err != nil {
		return nil, fmt.Errorf("duplicating the socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}
