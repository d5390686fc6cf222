package socket

import (
	"bufio"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// TestMain lets the test binary be a process that listens and is killed, and one that inherits a socket.
func TestMain(m *testing.M) {
	if len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	switch os.Args[1] {
	case "-listen":
		listenForever(os.Args[2])
	case "-activated":
		os.Exit(activated())
	}
	os.Exit(m.Run())
}

// listenForever accepts: a process whose goroutines all sleep is ended by the Go runtime.
func listenForever(path string) {
	l, err := Listen(path)
	if err != nil {
		os.Stdout.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString("listening\n")
	for {
		if conn, err := l.Accept(); err == nil {
			conn.Close()
		}
	}
}

// activated answers one connection.
func activated() int {
	// exec.Cmd cannot know the pid before there is one.
	if os.Getenv("LISTEN_PID") == "self" {
		os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	}
	l, err := Activated()
	if err != nil || l == nil {
		os.Stdout.WriteString("no socket\n")
		return 0
	}
	if os.Getenv("LISTEN_FDS") != "" {
		return 1
	}
	conn, err := l.Accept()
	if err != nil {
		return 1
	}
	conn.Write([]byte("hello\n"))
	return 0
}

// shortDir is a directory whose sockets have short paths.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kts") //nolint:usetesting // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func mustListen(t *testing.T, path string) *Listener {
	t.Helper()
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestListen(t *testing.T) {
	dir := filepath.Join(shortDir(t), "own")
	path := filepath.Join(dir, "s")
	l := mustListen(t, path)
	for name, want := range map[string]fs.FileMode{dir: 0o700, path: 0o600, path + ".lock": 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v; want %04o", name, info.Mode(), err, want)
		}
	}
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("listening twice: %v, want %v", err, ErrInUse)
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("after that the first one is gone: %v", err)
	} else {
		conn.Close()
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if err := mustListen(t, path).Close(); err != nil {
		t.Error(err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	for range 3 {
		cmd := exec.Command(os.Args[0], "-listen", path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if said, err := bufio.NewReader(out).ReadString('\n'); said != "listening\n" {
			t.Fatalf("the process does not listen in place of the one that was killed: %s, %v", said, err)
		}
		if _, err := Listen(path); !errors.Is(err, ErrInUse) {
			t.Errorf("in place of a live process: %v", err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
	}
	if err := mustListen(t, path).Close(); err != nil {
		t.Error(err)
	}
}

// TestForeignSocketIsLeftAlone has a program listen that knows nothing of the lock.
func TestForeignSocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	foreign, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	if _, err := Listen(path); !errors.Is(err, ErrInUse) {
		t.Errorf("%v, want %v", err, ErrInUse)
	}
	if conn, err := net.Dial("unix", path); err != nil {
		t.Errorf("the foreign program cannot be reached any more: %v", err)
	} else {
		conn.Close()
	}
}

// TestDyingListenerIsAwaited has the listener of a parent that is gone die a moment later.
func TestDyingListenerIsAwaited(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	dying, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dying.SetUnlinkOnClose(false)
	accepted := make(chan struct{})
	go func() {
		conn, err := dying.Accept() // somebody checks whether it lives
		if err == nil {
			conn.Close()
		}
		dying.Close()
		close(accepted)
	}()
	l := mustListen(t, path)
	<-accepted
	l.Close()
}

func TestListenRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(t *testing.T, dir string)
		path    string
		want    string
	}{
		"wide directory": {func(t *testing.T, dir string) { os.Chmod(dir, 0o750) }, "s", "wider than 0700"},
		"file": {
			func(t *testing.T, dir string) { os.WriteFile(filepath.Join(dir, "s"), nil, 0o600) }, "s", "no socket is there",
		},
		"link": {
			func(t *testing.T, dir string) { os.Symlink("/dev/null", filepath.Join(dir, "s")) }, "s", "no socket is there",
		},
		"long path": {func(*testing.T, string) {}, strings.Repeat("s", 100), "at most"},
		"other's":   {func(t *testing.T, dir string) { giveAway(t, dir) }, "s", "belongs to user"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			test.prepare(t, dir)
			if _, err := Listen(filepath.Join(dir, test.path)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v, want it to say %q", err, test.want)
			}
		})
	}
}

func giveAway(t *testing.T, dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
}

func TestActivated(t *testing.T) {
	for name, test := range map[string]struct {
		pid, fds string
		want     string
	}{
		"passed":            {"self", "1", "hello\n"},
		"two":               {"self", "2", "no socket\n"},
		"for another":       {"1", "1", "no socket\n"},
		"without a number":  {"self", "", "no socket\n"},
		"without a process": {"", "1", "no socket\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(shortDir(t), "s")
			l := mustListen(t, path)
			defer l.Close()
			f, err := File(l.UnixListener)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			cmd := exec.Command(os.Args[0], "-activated")
			cmd.Env = append(os.Environ(), "LISTEN_PID="+test.pid, "LISTEN_FDS="+test.fds)
			cmd.ExtraFiles = []*os.File{f}
			out := make(chan string, 1)
			go func() {
				raw, _ := cmd.Output()
				out <- string(raw)
			}()
			var got string
			if test.want == "hello\n" {
				conn, err := net.Dial("unix", path)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				buffer := make([]byte, 10)
				n, _ := conn.Read(buffer)
				got = string(buffer[:n])
				<-out
			} else {
				got = <-out
			}
			if got != test.want {
				t.Errorf("%q, want %q", got, test.want)
			}
		})
	}
}

// TestFileDoesNotBlockOthers passes the socket to a child while this process accepts. If that made the socket blocking,
// a connection that somebody else accepts first would leave Accept hanging, and Close with it.
func TestFileDoesNotBlockOthers(t *testing.T) {
	l := mustListen(t, filepath.Join(shortDir(t), "s"))
	f, err := File(l.UnixListener)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw, err := l.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	// As the first child does:
	if err := raw.Control(func(fd uintptr) { err = syscall.SetNonblock(int(fd), true) }); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-activated")
	cmd.ExtraFiles = []*os.File{f}
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	var flags uintptr
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) { flags, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_GETFL, 0) })
	if err != nil || errno != 0 || flags&syscall.O_NONBLOCK == 0 {
		t.Errorf("starting a child made the socket blocking: flags %#x, %v, %v", flags, err, errno)
	}
	l.Close()
}

// TestPathIsNeverMissing replaces a stale socket while somebody watches.
func TestPathIsNeverMissing(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()
	stop := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := os.Lstat(path); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	l := mustListen(t, path)
	close(stop)
	looking.Wait()
	l.Close()
}
