package thread

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestRun(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	host, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	for range 100 {
		err := Run(func() error {
			if unix.Gettid() == unix.Getpid() {
				t.Error("it runs on the main thread")
			}
			if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil {
				t.Error(err)
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Errorf("got %v", err)
		}
		for _, path := range []string{"/proc/self/ns/uts", "/proc/thread-self/ns/uts"} {
			if now, err := os.Readlink(path); err != nil || now != host {
				t.Fatalf("%s was %s, is %s, %v", path, host, now, err)
			}
		}
	}
}
