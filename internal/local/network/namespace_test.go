package network

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// privately runs the test again in a process with a mount namespace and a /run of its own, in which it returns true.
func privately(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("networks need root")
	}
	if os.Getenv("KEYTURN_TEST_PRIVATE") != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "KEYTURN_TEST_PRIVATE=1")
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func runIP(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// mountsAt counts the mounts at the path.
func mountsAt(t *testing.T, path string) (n int) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if strings.Fields(line)[4] == path {
			n++
		}
	}
	return n
}

// The first `ip netns add` on a host mounts /run/netns over itself.
func TestPortsBesideOtherTools(t *testing.T) {
	if !privately(t) {
		return
	}
	bridge, port := testNames(t)
	if err := EnsureBridge(t.Context(), testOwner, bridge, netip.MustParsePrefix("198.51.100.1/24")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		ns := mustMakePort(t, port, nil)
		runIP(t, "netns", "add", "keyturn-test")
		runIP(t, "netns", "delete", "keyturn-test")
		if got, want := portRoutes(t, ns), "default via 198.51.100.1, 198.51.100.0/24"; got != want {
			t.Errorf("routes are %s, want %s", got, want)
		}
		if err := DeletePort(t.Context(), port); err != nil {
			t.Fatal(err)
		}
		if _, err := netlink.LinkByName(port.Link); !isNotFound(err) {
			t.Errorf("looking up the deleted link: %v", err)
		}
	}
}

// Earlier versions mounted namespaces in /run/netns, where other tools mount them once more.
func TestNamespaceOfAnEarlierVersion(t *testing.T) {
	if !privately(t) {
		return
	}
	for name, spoil := range map[string]func(path string){
		"nothing mounted": func(string) {},
		"mounted":         func(path string) { mountNamespace(t, path) },
		"mounted twice":   func(path string) { mountNamespace(t, path); mountNamespace(t, path) },
		"ip netns add":    func(path string) { mountNamespace(t, path); runIP(t, "netns", "add", "keyturn-test-1") },
		"covered by two mounts": func(path string) {
			mountNamespace(t, path)
			runIP(t, "netns", "add", "keyturn-test-2")
			if err := unix.Mount(namedDir, namedDir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				t.Fatal(err)
			}
		},
	} {
		_, port := testNames(t)
		port.Namespace = port.Bridge + "-0"
		path := filepath.Join(namedDir, port.Namespace)
		if err := os.MkdirAll(namedDir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			t.Fatal(err)
		}
		spoil(path)
		for range 2 {
			if err := DeletePort(t.Context(), port); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s: the file of the namespace: %v", name, err)
		}
		if n := mountsAt(t, path); n != 0 {
			t.Errorf("%s: it is still mounted %d times", name, n)
		}
		for mountsAt(t, namedDir) > 0 {
			if err := unix.Unmount(namedDir, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func mountNamespace(t *testing.T, path string) {
	t.Helper()
	ns, err := makeNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
}
