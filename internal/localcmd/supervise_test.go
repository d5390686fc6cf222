package localcmd

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for a line of a process that it started.
const patience = 2 * time.Minute

// TestMain lets the test binary be the child of a supervisor, and a supervisor that can be killed.
func TestMain(m *testing.M) {
	switch {
	case slices.Contains(os.Args, "--supervise=false"):
		os.Exit(child(os.Args[1:]))
	case len(os.Args) > 1 && os.Args[1] == "-supervisor":
		os.Exit(Run(context.Background(), os.Args[2:], os.Stderr))
	}
	os.Exit(m.Run())
}

// child dies of an exit code the first time and of a signal the second. The third child lives until it gets the signal
// to end.
func child(args []string) int {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	f, err := parse(args, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "child: bad flags:", err)
		return 2
	}
	n, err := countStart(f.dataDir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	fmt.Fprintln(os.Stderr, "child", n, "starts")
	switch n {
	case 1:
		return 1
	case 2:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}
	<-stop
	fmt.Fprintln(os.Stderr, "child", n, "ends in order")
	return 0
}

// countStart counts in a file, a byte for each start.
func countStart(dir string) (int64, error) {
	f, err := os.OpenFile(filepath.Join(dir, "starts"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.WriteString("."); err != nil {
		return 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func superviseArgs(dir string) []string {
	return []string{"--data-dir=" + dir, "--supervise", "--", "--allow-publish=gs://a"}
}

// output is what a supervisor and its children say. It ends when none of them is left.
type output struct {
	t     *testing.T
	lines *bufio.Scanner
}

func newOutput(t *testing.T) (output, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return output{t, bufio.NewScanner(r)}, w
}

// want reads what children say, up to the lines that are wanted next.
func (o output) want(lines ...string) {
	o.t.Helper()
	for _, want := range lines {
		got, ok := o.next()
		if !ok || got != want {
			o.t.Fatalf("got line %q, %v; want %q", got, o.lines.Err(), want)
		}
	}
}

// wantEnd fails the test unless the output ends, with nothing more said.
func (o output) wantEnd() {
	o.t.Helper()
	if line, ok := o.next(); ok || o.lines.Err() != nil {
		o.t.Fatalf("got line %q, %v; want the end", line, o.lines.Err())
	}
}

// next leaves out what the supervisor logs.
func (o output) next() (string, bool) {
	for o.lines.Scan() {
		if line := o.lines.Text(); strings.HasPrefix(line, "child") {
			return line, true
		}
	}
	return "", false
}

func TestSuperviseStartsAgainAndEndsInOrder(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, w := newOutput(t)
	code := make(chan int, 1)
	go func() {
		code <- Run(ctx, superviseArgs(t.TempDir()), w)
		w.Close()
	}()
	out.want("child 1 starts", "child 2 starts", "child 3 starts")
	stop()
	out.want("child 3 ends in order")
	out.wantEnd()
	if c := <-code; c != 0 {
		t.Errorf("exit code %d", c)
	}
}

func TestKilledSupervisorTakesItsChildAlong(t *testing.T) {
	out, w := newOutput(t)
	parent := exec.Command(os.Args[0], append([]string{"-supervisor"}, superviseArgs(t.TempDir())...)...)
	parent.Stderr = w
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = parent.Process.Kill()
		_ = parent.Wait()
	}()
	w.Close()
	out.want("child 1 starts", "child 2 starts", "child 3 starts")
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	out.wantEnd() // without a word of the child
}
