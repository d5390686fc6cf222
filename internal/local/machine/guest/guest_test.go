package guest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must come, on a busy machine too.
const patience = 5 * time.Minute

// theReaper is the only one of this process: it takes the children of everybody.
var theReaper = sync.OnceValue(func() *reaper {
	r := newReaper()
	go r.run()
	return r
})

// shell starts a shell command under the reaper.
func shell(t *testing.T, r *reaper, script string) <-chan unix.WaitStatus {
	t.Helper()
	ended, err := r.start("/bin/sh", []string{"/bin/sh", "-c", script}, &os.ProcAttr{Env: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	return ended
}

func await(t *testing.T, ended <-chan unix.WaitStatus) unix.WaitStatus {
	t.Helper()
	select {
	case status := <-ended:
		return status
	case <-time.After(patience):
		t.Fatal("nobody reaped the process")
	}
	return 0
}

func TestReaperTellsHowEachProcessEnded(t *testing.T) {
	r := theReaper()
	var all []<-chan unix.WaitStatus
	for range 20 {
		all = append(all, shell(t, r, "exit 7"))
	}
	for _, ended := range all {
		if status := await(t, ended); status.ExitStatus() != 7 {
			t.Errorf("ended with %d, want 7", status.ExitStatus())
		}
	}
	if status := await(t, shell(t, r, "kill -9 $$")); !status.Signaled() || status.Signal() != unix.SIGKILL {
		t.Errorf("ended with %v, want a signal", status)
	}
	if _, err := r.start("/nonexistent", []string{"x"}, &os.ProcAttr{}); err == nil {
		t.Error("no error for a program that does not exist")
	}
}

// Orphans come to process 1, and to a subreaper too.
func TestReaperReapsOrphans(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	})
	await(t, shell(t, theReaper(), "sleep 0.2 & exit 0"))
	for begin := time.Now(); ; {
		children, err := filepath.Glob("/proc/self/task/*/children")
		if err != nil {
			t.Fatal(err)
		}
		if len(children) == 0 {
			t.Skip("this kernel does not list children")
		}
		left := ""
		for _, c := range children {
			raw, _ := os.ReadFile(c)
			left += string(raw)
		}
		if left == "" {
			return
		}
		if time.Since(begin) > patience {
			t.Fatalf("children left: %s", left)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestServiceAwaitsItsFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	s := Service{Name: "x", After: []string{path}}
	began := make(chan bool)
	go func() { began <- s.await(t.Context()) }()
	select {
	case <-began:
		t.Fatal("it did not wait")
	case <-time.After(3 * lookInterval):
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if !<-began {
		t.Error("it did not begin although its file is there")
	}
}

func TestSysctlsStayInTheNetwork(t *testing.T) {
	c := Config{Sysctls: map[string]string{"../kernel/hostname": "x"}}
	if err := c.setSysctls(); err == nil {
		t.Error("no error for a parameter of the host")
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{nil, {"run"}, {"x", "y"}, {"init", "x"}} {
		if err := Main(args); err == nil {
			t.Errorf("no error for %v", args)
		}
	}
}

// A service that names its PATH has no other one: programs differ in which of two they take.
func TestEnvironmentOfAService(t *testing.T) {
	t.Setenv("PATH", "/bin")
	var paths []string
	for _, v := range (Service{Env: []string{"PATH=/opt/keyturn:/bin"}}).environ() {
		if strings.HasPrefix(v, "PATH=") {
			paths = append(paths, v)
		}
	}
	if want := []string{"PATH=/opt/keyturn:/bin"}; !slices.Equal(paths, want) {
		t.Errorf("its environment has %v, want %v", paths, want)
	}
}
