package plane

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/local/process"
)

// waitingTest is a plane that runs one shell script.
type waitingTest struct {
	*testing.T
	*Plane
}

const scriptName = "apiserver-0"

func newWaitingTest(t *testing.T) waitingTest {
	h := emptyHost(t)
	p := h.Plane(components.Layout{
		Site: datadir.Site{Name: "a.a", Dir: h.Data.Path(), Network: datadir.DefaultNetwork, Loopback: true},
	})
	t.Cleanup(func() {
		w := waitingTest{t, p}
		w.eventually("the script ends", func() bool { return w.stop() })
	})
	return waitingTest{t, p}
}

func (w waitingTest) script(text string) {
	w.Helper()
	if err := w.Processes.Start(process.Spec{Name: scriptName, Path: "/bin/sh", Args: []string{"-c", text}}); err != nil {
		w.Fatal(err)
	}
}

func (w waitingTest) stop() bool {
	w.Helper()
	gone, err := w.Processes.Stop(scriptName, 0)
	if err != nil {
		w.Fatal(err)
	}
	return gone
}

// look is what Observe would say now, were the process started so long ago.
func (w waitingTest) look(age time.Duration) string {
	w.Helper()
	st, err := w.Processes.Observe(scriptName)
	if err != nil {
		w.Fatal(err)
	}
	l := lifeOf(st)
	l.started = time.Now().Add(-age)
	return w.why(scriptName, l,
		&url.Error{Op: "Get", URL: "https://10.0.0.1/readyz?exclude=x", Err: errors.New("connection refused")})
}

func (w waitingTest) want(want string, age time.Duration) {
	w.Helper()
	if got := w.look(age); got != want {
		w.Errorf("got %q, want %q", got, want)
	}
}

func (w waitingTest) eventually(what string, done func() bool) {
	w.Helper()
	for begin := time.Now(); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Since(begin) > localtest.Patience {
			w.Fatalf("never: %s; it says %q", what, w.look(0))
		}
	}
}

func (w waitingTest) awaitLog(line string) {
	w.Helper()
	w.eventually("the log ends with "+line,
		func() bool { return strings.HasSuffix(w.Processes.LastLines(scriptName, 1), line) })
}

// remarkedAt has the host believe that it said then what it said.
func (w waitingTest) remarkedAt(when time.Time) {
	for about, r := range w.host.remarks {
		r.at = when
		w.host.remarks[about] = r
	}
}

func TestWaitingOfAnIntendedRestart(t *testing.T) {
	w := newWaitingTest(t)
	w.want("does not run", 0)
	w.script(`trap "" TERM; echo noise; exec sleep 1000`)
	w.awaitLog("noise")
	w.want(phaseStarting, 0)
	w.want(phaseStarting, usualStart/2)
	if _, err := w.Processes.Stop(scriptName, time.Hour); err != nil {
		t.Fatal(err)
	}
	w.want(phaseStopping, 0)
	w.want(phaseStopping, time.Hour)
	w.eventually("it is gone", w.stop)
	w.want("was stopped", 0)
}

func TestWaitingOfASlowStartIsSaidAnewOnlyAfterAWhile(t *testing.T) {
	w := newWaitingTest(t)
	log := w.Path("run", scriptName+".log")
	w.script("echo 'W0923 21:52:07.123456   17 etcd.go:9] no etcd'; exec sleep 1000")
	w.awaitLog("no etcd")
	first := "not ready (connection refused): etcd.go:9] no etcd"
	w.want(first, usualStart+time.Second)
	appendLine(t, log, "still no etcd")
	w.remarkedAt(time.Now())
	w.want(first, usualStart+2*time.Second)
	w.remarkedAt(time.Now().Add(-remarkAge))
	w.want("not ready (connection refused): still no etcd", remarkAge)
	w.want(phaseStarting, 0) // it would have been started again meanwhile
	w.host.Forget(w.Site)
	if len(w.host.remarks) > 0 {
		t.Error("remarks are left of a site that is gone")
	}
}

func TestWaitingOfAProcessThatDies(t *testing.T) {
	w := newWaitingTest(t)
	die := "echo \"E0923 21:52:07.1234$$ $$ run.go:72] out of luck $$\"; exit 7"
	w.script(die)
	w.eventually("it says that it ended", func() bool {
		return strings.HasPrefix(w.look(0), "ended (exit status 7): run.go:72] out of luck ")
	})
	var failing string
	w.eventually("it says that it keeps failing", func() bool {
		w.script(die)
		failing = w.look(0)
		return strings.HasPrefix(failing, "keeps failing, ended (exit status 7): run.go:72] out of luck ")
	})
	w.eventually("it is started again", func() bool {
		w.script("echo once more; exec sleep 1000")
		st, err := w.Processes.Observe(scriptName)
		return err == nil && st.Running
	})
	w.awaitLog("once more")
	w.remarkedAt(time.Now())
	w.want(failing, 0)
}

func TestQuotesAreShortAndTellNoSecret(t *testing.T) {
	w := newWaitingTest(t)
	w.script("exec sleep 1000")
	log := w.Path("run", scriptName+".log")
	appendLine(t, log, strings.Repeat("ä", 500))
	for _, secret := range []string{
		"-----BEGIN EC PRIVATE KEY-----", "token eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJodHRwcyJ9.c2lnbmF0dXJlLi4u",
	} {
		appendLine(t, log, secret)
	}
	// LastLines cuts at 300 bytes
	if got, want := w.quoting(scriptName, "why"), "why: "+strings.Repeat("ä", 150); got != want {
		t.Errorf("got %q", got)
	}
	if got, want := shorten(strings.Repeat("ä", 500)), strings.Repeat("ä", maxQuote)+"…"; got != want {
		t.Errorf("got %q", got)
	}
	if got := shorten("ok\xc3"); got != "ok" {
		t.Errorf("got %q", got)
	}
}

func appendLine(t *testing.T, path, line string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(f, line); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}
