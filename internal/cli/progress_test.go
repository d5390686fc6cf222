package cli

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// At a terminal each step has one line, which is redrawn in place and keeps the time that the step took.
func TestProgressLive(t *testing.T) {
	a, _, stderr := testEnv()
	a.IsTerminal = func(any) bool { return true }
	now := a.Now()
	a.Now = func() time.Time { return now }
	a.Getenv = func(name string) string { return map[string]string{"NO_COLOR": "1"}[name] }
	p := a.progress()
	p.tick()
	p.show("Publish", "server a")
	now = now.Add(61 * time.Second)
	p.tick()
	p.show("Publish", "server a")
	p.show("Switch", strings.Repeat("x", 100))
	p.show("Switch is blocked", "a budget")
	now = now.Add(2 * time.Second)
	p.show("completed", "")
	p.finish()
	p.end()
	want := []string{
		"• Publish       0s  server a", "• Publish     1m1s  server a", "✓ Publish     1m1s\n",
		"• Switch        0s  " + strings.Repeat("x", 58) + "…", "! Switch        0s  a budget", "✓ Switch        2s\n",
		"• completed     0s", "✓ completed   1m3s\n",
	}
	if diff := cmp.Diff(want, drawn(stderr.String())); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}

// drawn are the lines that were drawn one over the other.
func drawn(text string) []string {
	text = strings.NewReplacer(wrapOff, "", wrapOn, "").Replace(text)
	return strings.Split(strings.TrimPrefix(text, clearLine), clearLine)
}

// Colors mark the state of a step, and the environment can take them away; a dumb terminal gets plain lines.
func TestProgressEnvironment(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"terminal", map[string]string{"TERM": "xterm"},
			clearLine + wrapOff + "\x1b[34m•\x1b[0m Publish       0s" + wrapOn},
		{"no color", map[string]string{"TERM": "xterm", "NO_COLOR": "1"}, clearLine + wrapOff + "• Publish       0s" +
			wrapOn},
		{"dumb", map[string]string{"TERM": "dumb"}, "[    0s] Publish\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, _, stderr := testEnv()
			a.IsTerminal = func(any) bool { return true }
			a.Getenv = func(name string) string { return tt.env[name] }
			a.progress().show("Publish", "")
			if got := stderr.String(); got != tt.want {
				t.Errorf("progress = %q, want %q", got, tt.want)
			}
		})
	}
}

// What servers say moves no cursor.
func TestProgressPrintable(t *testing.T) {
	a, _, stderr := testEnv()
	a.progress().show("Publish", "a\x1b[2J\rb\u202ec")
	if got, want := stderr.String(), "[    0s] Publish: a [2J b c\n"; got != want {
		t.Errorf("progress = %q, want %q", got, want)
	}
}

// A line fits the terminal as wide as that is when it is drawn.
func TestProgressResized(t *testing.T) {
	master, slave := terminal(t)
	a, _, _ := testEnv()
	a.Err, a.IsTerminal = slave, isTerminal
	a.Getenv = func(name string) string { return map[string]string{"NO_COLOR": "1"}[name] }
	p := a.progress()
	p.show("Publish", strings.Repeat("x", 100))
	for _, columns := range []uint16{120, 40, 20, 3, 1} {
		if err := unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: 24}); err != nil {
			t.Fatal(err)
		}
		p.tick()
	}
	p.end()
	line, err := bufio.NewReader(master).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"• Publish       0s  " + strings.Repeat("x", 58) + "…",
		"• Publish       0s  " + strings.Repeat("x", 98) + "…",
		"• Publish       0s  " + strings.Repeat("x", 18) + "…", "• Publish       0s…", "•…", "•\r\n",
	}
	if diff := cmp.Diff(want, drawn(line)); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}

// terminal opens a pseudoterminal, whose window has no size yet. What is written to the slave can be read from the
// master.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// Without a terminal every step is a line, and its details are one now and then.
func TestProgressPlain(t *testing.T) {
	a, _, stderr := testEnv()
	now := a.Now()
	a.Now = func() time.Time { return now }
	p := a.progress()
	for range 2 {
		p.show("Publish", "server a\nand b")
		p.tick()
	}
	p.show("Publish", "server b") // comes and goes within the quiet time
	p.show("Publish", "server c"+strings.Repeat("x", 160))
	now = now.Add(quiet)
	p.tick()
	p.show("Publish", "server c"+strings.Repeat("x", 170))
	p.show("Switch", "")
	p.end()
	want := "[    0s] Publish: server a and b\n[    5s] Publish: server c" + strings.Repeat("x",
		151) + "…\n[    5s] Switch\n"
	if diff := cmp.Diff(want, stderr.String()); diff != "" {
		t.Errorf("progress (-want +got):\n%s", diff)
	}
}
