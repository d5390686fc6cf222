package process

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be the programs that the tests run.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "-parent" {
		parent(os.Args[2], os.Args[3])
		return
	}
	if len(os.Args) == 2 && os.Args[1] == "-stubborn" {
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("stubborn")
		time.Sleep(time.Hour)
	}
	os.Exit(m.Run())
}

// parent starts a process, says so, and waits to be killed.
func parent(dir, program string) {
	if err := New(dir).Start(Spec{Name: "child", Path: program, Args: []string{"1000"}, Stamp: "one"}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("started")
	select {}
}

func sleep(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func newRunner(t *testing.T) *Runner {
	t.Helper()
	r := New(filepath.Join(t.TempDir(), "run"))
	t.Cleanup(func() {
		names, err := r.Names()
		if err != nil {
			t.Error(err)
		}
		for _, name := range names {
			if err := r.Await(context.Background(), name, 0); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

func mustStart(t *testing.T, r *Runner, s Spec) State {
	t.Helper()
	if err := r.Start(s); err != nil {
		t.Fatal(err)
	}
	return mustObserve(t, r, s.Name)
}

func mustObserve(t *testing.T, r *Runner, name string) State {
	t.Helper()
	st, err := r.Observe(name)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for begin := time.Now(); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 5*time.Minute {
			t.Fatalf("never: %s", what)
		}
	}
}

func TestStartObserveStop(t *testing.T) {
	r := newRunner(t)
	if st := mustObserve(t, r, "a"); st.Running {
		t.Fatalf("runs before it was started: %+v", st)
	}
	spec := Spec{Name: "a", Path: sleep(t), Args: []string{"1000"}, Stamp: "one"}
	first := mustStart(t, r, spec)
	if !first.Running || first.Stamp != "one" || first.Digest != spec.Digest() || first.Stopping {
		t.Errorf("after its start: %+v", first)
	}
	if age := time.Since(first.Started); age < -2*time.Second || age > time.Minute {
		t.Errorf("started %s ago", age)
	}
	spec.Stamp = "two"
	if again := mustStart(t, r, spec); again != first {
		t.Errorf("a second start made %+v of %+v", again, first)
	}
	if err := r.Forget("a"); err == nil {
		t.Error("a running process was forgotten")
	}
	if err := r.Await(t.Context(), "a", time.Minute); err != nil {
		t.Fatal(err)
	}
	if why := r.Why("a"); why != "a was stopped" {
		t.Errorf("why: %q", why)
	}
	if st := mustStart(t, r, spec); st.Stamp != "two" || st.PID == first.PID {
		t.Errorf("after its restart: %+v", st)
	}
}

func TestProcessIsCutOffFromItsStarter(t *testing.T) {
	r := newRunner(t)
	t.Setenv("SECRET_OF_THE_STARTER", "1")
	st := mustStart(t, r, Spec{Name: "a", Path: sleep(t), Args: []string{"1000"}, Env: []string{"OWN=1"}})
	var env string
	eventually(t, "the program replaced the shell and has its environment", func() bool {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", st.PID))
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", st.PID))
		env = string(raw)
		return strings.HasSuffix(string(line), "sleep\x001000\x00") && strings.Contains(env, "OWN=1")
	})
	if strings.Contains(env, "SECRET") {
		t.Errorf("environment: %q", env)
	}
	session, err := syscall.Getpgid(st.PID)
	if err != nil || session != st.PID {
		t.Errorf("process group %d, %v; want one of its own", session, err)
	}
	// The loader has its own files open for a moment.
	eventually(t, "only stdin, stdout and stderr are open", func() bool {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", st.PID))
		return err == nil && len(fds) == 3
	})
	for _, ext := range []string{"pid", "json", "log", "lock"} {
		info, err := os.Stat(r.file("a", ext))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("file %s: %v, %v", ext, info.Mode(), err)
		}
	}
}

func TestHostname(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("host names need root")
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	r := newRunner(t)
	for name, want := range map[string]string{"own": "apiserver-7", "shared": host} {
		spec := Spec{Name: name, Path: "/bin/sh", Args: []string{"-c", "cat /proc/sys/kernel/hostname; exec sleep 1000"}}
		if name == "own" {
			spec.Hostname = want
		}
		mustStart(t, r, spec)
		eventually(t, "it says its host name", func() bool { return r.LastLines(name, 1) != "" })
		if got := r.LastLines(name, 1); got != want {
			t.Errorf("%s: the host name is %s, want %s", name, got, want)
		}
	}
	if now, err := os.Hostname(); err != nil || now != host {
		t.Errorf("the host's name was %s, is %s, %v", host, now, err)
	}
}

func TestOutlivesKillOfParent(t *testing.T) {
	r := newRunner(t)
	cmd := exec.Command(os.Args[0], "-parent", r.dir, sleep(t))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "started\n" {
		t.Fatalf("parent said %q, %v", line, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the parent was not killed")
	}
	st := mustObserve(t, r, "child")
	if !st.Running || st.Stamp != "one" {
		t.Fatalf("the child of a killed parent: %+v", st)
	}
	if again := mustStart(t, r, Spec{Name: "child", Path: sleep(t), Args: []string{"1000"}}); again.PID != st.PID {
		t.Errorf("it was not adopted: %+v", again)
	}
}

func TestParentKilledAtAnyMoment(t *testing.T) {
	for i := range 12 {
		r := newRunner(t)
		cmd := exec.Command(os.Args[0], "-parent", r.dir, sleep(t))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 3 * time.Millisecond) // the moment, not a wait for anything
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		eventually(t, "a start that finds nobody starting", func() bool {
			return r.Start(Spec{Name: "child", Path: sleep(t), Args: []string{"1000"}}) == nil
		})
		eventually(t, "exactly one child",
			func() bool { return mustObserve(t, r, "child").Running && len(running(t, r.dir)) == 1 })
	}
}

// running finds the processes that have their log in a directory.
func running(t *testing.T, dir string) (pids []string) {
	t.Helper()
	outputs, err := filepath.Glob("/proc/[0-9]*/fd/1")
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range outputs {
		if to, err := os.Readlink(o); err == nil && strings.HasPrefix(to, dir+"/") {
			pids = append(pids, o)
		}
	}
	return pids
}

func TestStartedByManyAtOnce(t *testing.T) {
	r := newRunner(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() { _ = New(r.dir).Start(Spec{Name: "a", Path: sleep(t), Args: []string{"1000"}}) })
	}
	all.Wait()
	if pids := running(t, r.dir); len(pids) != 1 {
		t.Errorf("%d processes run: %v", len(pids), pids)
	}
}

func TestKilledAfterGrace(t *testing.T) {
	r := newRunner(t)
	mustStart(t, r, Spec{Name: "a", Path: os.Args[0], Args: []string{"-stubborn"}})
	eventually(t, "it ignores SIGTERM", func() bool { return r.LastLines("a", 1) == "stubborn" })
	if gone, err := r.Stop("a", time.Hour); gone || err != nil {
		t.Fatalf("stopped at once: %v, %v", gone, err)
	}
	other := New(r.dir) // as after a restart of the caller
	if st := mustObserve(t, other, "a"); !st.Running || !st.Stopping {
		t.Errorf("after it was told to end: %+v", st)
	}
	// The grace does not run by the times of a file, which change with the clock.
	if err := os.Chtimes(r.file("a", "stop"), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if gone, err := other.Stop("a", time.Hour); gone || err != nil {
		t.Fatalf("killed before its time: %v, %v", gone, err)
	}
	if st := mustObserve(t, other, "a"); !st.Running {
		t.Fatal("killed before its time")
	}
	eventually(t, "it is killed", func() bool {
		gone, err := other.Stop("a", time.Millisecond)
		return gone && err == nil
	})
}

func TestPIDOfAnotherIsLeftAlone(t *testing.T) {
	r := newRunner(t)
	mine := mustStart(t, r, Spec{Name: "a", Path: sleep(t), Args: []string{"1000"}})
	other := mustStart(t, r, Spec{Name: "b", Path: sleep(t), Args: []string{"1000"}})
	raw, err := os.ReadFile(r.file("a", "pid"))
	if err != nil {
		t.Fatal(err)
	}
	// The pid file of c names the pid of b with the start time that a had, or one that nobody has.
	forged := strings.Replace(string(raw), fmt.Sprintf("\n%d (", mine.PID), fmt.Sprintf("\n%d (", other.PID), 1)
	fields := strings.Fields(forged)
	fields[22] = "1"
	forged = fields[0] + "\n" + strings.Join(fields[1:], " ")
	if err := os.WriteFile(r.file("c", "pid"), []byte(forged), 0o600); err != nil {
		t.Fatal(err)
	}
	if st := mustObserve(t, r, "c"); st.Running {
		t.Errorf("a recycled pid counts as running: %+v", st)
	}
	if gone, err := r.Stop("c", 0); !gone || err != nil {
		t.Errorf("stopping a recycled pid: %v, %v", gone, err)
	}
	if st := mustObserve(t, r, "b"); !st.Running {
		t.Error("the process with the recycled pid was ended")
	}
}

func TestZombieIsDead(t *testing.T) {
	cmd := exec.Command(sleep(t), "0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a zombie counts as dead", func() bool { _, _, alive := LookUp(cmd.Process.Pid); return !alive })
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
}

func TestBackOffAndWhy(t *testing.T) {
	r := newRunner(t)
	failing := Spec{Name: "a", Path: "/bin/sh", Args: []string{"-c", "echo out of luck >&2; exit 7"}}
	for i := range 3 {
		eventually(t, "time to start again", func() bool { return r.BackOff("a") == 0 })
		if err := r.Start(failing); err != nil {
			t.Fatal(err)
		}
		eventually(t, "its end", func() bool { return r.ended("a") == i+1 })
	}
	r.startedAt("a", time.Now().Add(time.Hour))
	if wait := r.BackOff("a"); wait <= time.Hour-time.Minute || wait > time.Hour+time.Second {
		t.Errorf("after three failures the wait is %s", wait)
	}
	log := r.LastLines("a", 10)
	if err := r.Start(failing); err != nil || r.LastLines("a", 10) != log {
		t.Errorf("it was started in spite of its back-off, %v", err)
	}
	if why := r.Why("a"); !strings.Contains(why, "exit status 7") || !strings.Contains(why, "out of luck") {
		t.Errorf("why: %q", why)
	}
}

// startedAt moves the last start, so that the back-off does not run out while the test is busy.
func (r *Runner) startedAt(name string, when time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.starts[name]
	a.last = when
	r.starts[name] = a
}

func (r *Runner) ended(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.starts[name].failures
}

func TestLastLinesKeepSecrets(t *testing.T) {
	r := newRunner(t)
	secret := "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJzeXN0ZW0ifQ.c2lnbmF0dXJlc2lnbmF0dXJl"
	script := "echo fine; echo -----BEGIN PRIVATE KEY-----; echo token " + "$0"
	if err := r.Start(Spec{Name: "a", Path: "/bin/sh", Args: []string{"-c", script, secret}}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its end", func() bool { return !mustObserve(t, r, "a").Running })
	if got := r.LastLines("a", 5); got != "fine" {
		t.Errorf("got %q", got)
	}
}

func TestLongLogIsSetAside(t *testing.T) {
	r := newRunner(t)
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.file("a", "log"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(r.file("a", "log"), maxLog+1); err != nil {
		t.Fatal(err)
	}
	mustStart(t, r, Spec{Name: "a", Path: sleep(t), Args: []string{"1000"}})
	for ext, want := range map[string]int64{"log": 0, "log.1": maxLog + 1} {
		if info, err := os.Stat(r.file("a", ext)); err != nil || info.Size() != want {
			t.Errorf("%s: %v, %v", ext, info, err)
		}
	}
}

func TestParseStat(t *testing.T) {
	const rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20"
	for _, c := range []struct {
		line string
		want stat
		bad  bool
	}{
		{line: "42 (sh) " + rest, want: stat{Identity: Identity{PID: 42, Ticks: 4711}, state: "S", parent: 1}},
		{line: "42 (a) Z (b) " + rest, want: stat{Identity: Identity{PID: 42, Ticks: 4711}, state: "S", parent: 1}},
		{line: "42 (sh) S 1", bad: true},
		{line: "", bad: true},
		{line: ")(", bad: true},
		{line: "x (sh) " + rest, bad: true},
	} {
		got, err := parseStat([]byte(c.line))
		if (err != nil) != c.bad || got != c.want {
			t.Errorf("%q: %+v, %v", c.line, got, err)
		}
	}
}

// A pid that is another's by now is left alone.
func TestSignalIsForThatProcessOnly(t *testing.T) {
	cmd := exec.Command(sleep(t), "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, parent, ok := LookUp(cmd.Process.Pid)
	if !ok || parent != os.Getpid() {
		t.Fatalf("found %+v, parent %d, %t", p, parent, ok)
	}
	stranger := p
	stranger.Ticks--
	if err := stranger.Signal(syscall.SIGKILL); err != nil || !p.Alive() {
		t.Errorf("a stranger was ended: %v", err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err == nil || p.Alive() {
		t.Error("it was not ended")
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Errorf("ending what has ended: %v", err)
	}
}
