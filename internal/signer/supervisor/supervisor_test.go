package supervisor

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReports(t *testing.T) {
	w := newWorld(t, "works")
	w.start(w.options())
	first := w.await("a report", serving)
	if first.Report.Problem != "works" || first.Deaths != 0 || first.HandOvers != 0 {
		t.Errorf("%+v, %+v", first, *first.Report)
	}
	if again := w.await("a report", serving); pid(again) != pid(first) {
		t.Error("another child reports")
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
	if alive(pid(first)) {
		t.Error("the child is left")
	}
	if n := len(w.logged("child did not end in order", "child")); n != 0 {
		t.Error("the child did not end in order")
	}
}

// TestDeaths has a child that works killed. Another one comes, and in between there is no report.
func TestDeaths(t *testing.T) {
	w := newWorld(t, "works")
	w.start(w.options())
	before := w.await("a report", serving)
	for deaths := 1; deaths <= 3; deaths++ {
		if err := syscall.Kill(pid(before), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if s := w.await("the death", func(s Status) bool { return !serving(s) }); s.Deaths != deaths {
			t.Errorf("%d deaths, want %d", s.Deaths, deaths)
		}
		before = w.await("another child", serving)
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
}

// TestKillsWhoDoesNotReport has children that stop to report, each in its way.
func TestKillsWhoDoesNotReport(t *testing.T) {
	for _, behaviour := range []string{"hangs", "fails", "talks too much", "talks nonsense"} {
		t.Run(behaviour, func(t *testing.T) {
			w := newWorld(t, behaviour)
			o := w.options()
			silent := behaviour == "hangs" || behaviour == "fails"
			if silent {
				o.Answer = 100 * time.Millisecond // on a busy machine it also ends children that are only slow
			}
			w.start(o)
			before := w.await("a report", serving)
			w.behave("works")
			after := w.awaitOther(before)
			if alive(pid(before)) || !silent && after.Deaths != 1 {
				t.Errorf("the child that %s lives: %v; %d deaths", behaviour, alive(pid(before)), after.Deaths)
			}
			got := w.logged("child died", "error")
			if !slices.Equal(slices.Compact(got), []string{errHung.Error()}) {
				t.Errorf("%v", got)
			}
			if err := w.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHandOver(t *testing.T) {
	w := newWorld(t, "works")
	w.start(w.options())
	before := w.await("a report", serving)
	for n := 1; n <= 2; n++ {
		w.handOver <- struct{}{}
		after := w.awaitOther(before)
		if after.HandOvers != n || after.Deaths != 0 {
			t.Errorf("%+v, want %d hand-overs", after, n)
		}
		if !strings.HasSuffix(after.Report.Metrics, "true") {
			t.Error("the child does not know that it takes over")
		}
		w.awaitEnd(pid(before))
		before = after
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
}

// TestUnfitLeavesOldOne hands over to a child that cannot take over, and then to one that can.
func TestUnfitLeavesOldOne(t *testing.T) {
	w := newWorld(t, "unfit")
	w.start(w.options())
	before := w.await("a report", serving)
	w.handOver <- struct{}{}
	for len(w.logged("no hand-over: the next child ended", "child")) == 0 {
		if s := w.await("a report", serving); pid(s) != pid(before) || s.HandOvers+s.Deaths > 0 {
			t.Fatalf("%+v, want the first child still", s)
		}
	}
	w.behave("works")
	w.handOver <- struct{}{}
	if after := w.awaitOther(before); after.HandOvers != 1 || after.Deaths != 0 {
		t.Errorf("%+v, want one hand-over", after)
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
}

// TestRenewal hands over because the child asks for it, once for each child that does.
func TestRenewal(t *testing.T) {
	w := newWorld(t, "wants renewal")
	w.start(w.options())
	before := w.await("a report", serving)
	after := w.awaitOther(before)
	if after.HandOvers != 1 {
		t.Errorf("%+v, want one hand-over", after)
	}
	w.awaitEnd(pid(before))
	w.behave("works")
	after = w.await("a child that wants nothing", func(s Status) bool { return serving(s) && !s.Report.Renew })
	for range 10 {
		if s := w.await("a report", serving); s.HandOvers != after.HandOvers {
			t.Fatalf("%d hand-overs, want %d", s.HandOvers, after.HandOvers)
		}
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
}

// TestRenewalThatFails is not tried again with each report.
func TestRenewalThatFails(t *testing.T) {
	w := newWorld(t, "wants renewal")
	s := &state{Options: w.options(), events: make(chan event, 100)}
	s.serving = &child{cmd: w.command()}
	s.Path = "/nonexistent"
	for range 3 {
		s.heard(s.serving, Report{Renew: true})
	}
	if n := len(w.logged("no hand-over", "error")); n != 1 {
		t.Errorf("%d hand-overs were tried, want 1", n)
	}
	s.renewAfter = time.Now().Add(-time.Second)
	s.heard(s.serving, Report{Renew: true})
	if n := len(w.logged("no hand-over", "error")); n != 2 {
		t.Errorf("%d hand-overs were tried after the pause, want 2", n)
	}
	s.heard(&child{}, Report{Renew: true}) // that is ending
	if n := len(w.statuses); n != 4 {
		t.Errorf("%d statuses, want 4", n)
	}
}

// TestDiesDuringHandOver kills the old child while the next one, which works, has not reported yet.
func TestDiesDuringHandOver(t *testing.T) {
	w := newWorld(t, "works")
	s := &state{Options: w.options(), events: make(chan event, 100)}
	s.serving, s.next, s.alive = &child{cmd: w.command()}, &child{cmd: w.command()}, 2
	next := s.next
	if _, again := s.note(event{child: s.serving, ended: true}); again || s.serving != next || s.next != nil ||
		s.alive != 1 {
		t.Errorf("%+v, want the next child to serve", s)
	}
	s.heard(next, Report{Metrics: "1"})
	if last := <-w.statuses; last.Report != nil || last.Deaths != 1 {
		t.Errorf("%+v, want one death", last)
	}
	if last := <-w.statuses; last.Report == nil || last.HandOvers != 0 {
		t.Errorf("%+v, want the report of the next child", last)
	}
}

// TestBackOff counts deaths in a row.
func TestBackOff(t *testing.T) {
	w := newWorld(t, "works")
	s := &state{Options: w.options(), alive: 100}
	die := func(lived time.Duration) time.Duration {
		c := &child{cmd: w.command(), started: time.Now().Add(-lived)}
		s.serving = c
		wait, again := s.note(event{child: c, ended: true})
		if !again || s.serving != nil {
			t.Error("no child is started again")
		}
		return wait
	}
	ms := time.Millisecond
	for i, want := range []time.Duration{
		0, 0, 0, 0, 0, 50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 3200 * ms, maxBackOff, maxBackOff,
	} {
		if got := die(time.Second); got != want {
			t.Errorf("death %d: started again after %s, want %s", i+1, got, want)
		}
	}
	if got := die(steady + time.Minute); got != 0 {
		t.Errorf("after a long life: started again after %s, want at once", got)
	}
	if got := die(0); got != 0 {
		t.Errorf("the second in a row: started again after %s, want at once", got)
	}
}

// TestGrace kills a child that does not end.
func TestGrace(t *testing.T) {
	w := newWorld(t, "ignores SIGTERM")
	o := w.options()
	o.Grace = 50 * time.Millisecond
	w.start(o)
	before := w.await("a report", serving)
	if err := w.end(); err != nil {
		t.Error(err)
	}
	if alive(pid(before)) {
		t.Error("the child is left")
	}
	if n := len(w.logged("child did not end in order", "child")); n != 1 {
		t.Errorf("%d children did not end in order, want 1", n)
	}
}

// TestEndsSlowly lets a child take its time that was asked to end, although it reports no more.
func TestEndsSlowly(t *testing.T) {
	w := newWorld(t, "ends slowly")
	w.start(w.options())
	w.await("a report", serving)
	if err := w.end(); err != nil {
		t.Error(err)
	}
	if n := len(w.logged("child did not end in order", "child")); n != 0 {
		t.Error("the child was killed before its time")
	}
}

// TestEndsWhileAChildStarts ends the supervisor before the first report.
func TestEndsWhileAChildStarts(t *testing.T) {
	w := newWorld(t, "never serves")
	w.start(w.options())
	for len(w.logged("child started", "child")) == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
}

func TestProgramIsMissing(t *testing.T) {
	w := newWorld(t, "works")
	o := w.options()
	o.Path = "/nonexistent"
	w.start(o)
	select {
	case err := <-w.done:
		if err == nil || !strings.Contains(err.Error(), "starting /nonexistent: ") {
			t.Errorf("%v", err)
		}
	case <-time.After(patience):
		t.Fatal("Run goes on without a program")
	}
}

func TestOptionsAreChecked(t *testing.T) {
	err := Run(t.Context(), Options{}, nil)
	for _, name := range []string{"Path", "Stderr", "Log", "Status", "Ask", "Answer", "Grace"} {
		if err == nil || !strings.Contains(err.Error(), "option "+name+" of the supervisor is missing") {
			t.Errorf("%v, want it to name %s", err, name)
		}
	}
	w := newWorld(t, "works")
	if err := w.options().validate(); err != nil {
		t.Error(err)
	}
}

// TestStderrAndGroup has a child that writes to its standard error. A signal of a terminal does not reach it.
func TestStderrAndGroup(t *testing.T) {
	w := newWorld(t, "speaks")
	w.start(w.options())
	s := w.await("a report", serving)
	if group, err := syscall.Getpgid(pid(s)); err != nil || group != pid(s) {
		t.Errorf("the child is in process group %d, %v", group, err)
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(w.text(), "a word of the child") {
		t.Error("the standard error of the child is lost")
	}
}

// TestNoChildOutlivesTheSupervisor kills a supervisor.
func TestNoChildOutlivesTheSupervisor(t *testing.T) {
	w := newWorld(t, "works")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "SUPERVISOR_TEST_CHILD="+w.behaviour)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	child := 0
	if _, err := fmt.Fscan(out, &child); err != nil || child == 0 || !alive(child) {
		t.Errorf("child %d, %v", child, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	w.awaitEnd(child)
}

// TestFilesArePassed has a child find the socket that the supervisor holds.
func TestFilesArePassed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	tcp, ok := l.(*net.TCPListener)
	if !ok {
		t.Fatal("not TCP")
	}
	f, err := tcp.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := newWorld(t, "works")
	o := w.options()
	o.Files = []*os.File{f}
	w.start(o)
	s := w.await("a report", serving)
	ours, errOurs := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	theirs, errTheirs := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid(s), FirstFile))
	if errOurs != nil || errTheirs != nil || ours != theirs {
		t.Errorf("the child has %s (%v), the supervisor %s (%v)", theirs, errTheirs, ours, errOurs)
	}
	if err := w.end(); err != nil {
		t.Error(err)
	}
}
