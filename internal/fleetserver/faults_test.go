package fleetserver_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/api/gkehub/v1"

	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/keystore"
)

// TestPropagation delays what is added and what is removed, across a restart.
func TestPropagation(t *testing.T) {
	f := newFleet(t, func(o *fleetserver.Options) { o.Faults = &fleetserver.Faults{PropagationDelay: time.Minute} })
	check := func(when string, want ...keystore.KeyPair) {
		t.Helper()
		for range 2 {
			for _, k := range []keystore.KeyPair{first, second} {
				wanted := false
				for _, w := range want {
					wanted = wanted || w.KeyID == k.KeyID
				}
				if a := f.exchange("m", f.good(k)); (a.status == http.StatusOK) != wanted {
					t.Errorf("%s: %s: %d %s", when, k, a.status, a.body)
				}
			}
			f.reopen()
		}
	}
	f.register("m", first)
	check("created")
	f.advance(time.Minute)
	check("created, a minute later", first)
	f.publish("m", first, second)
	check("added", first)
	f.advance(30 * time.Second)
	f.publish("m", second)
	check("removed", first)
	f.advance(30 * time.Second)
	check("a minute after added", first, second)
	f.advance(30 * time.Second)
	check("a minute after removed", second)
	_, err := f.memberships().Delete(name("m")).Do()
	must(t, err)
	check("deleted", second)
	f.advance(time.Minute)
	check("a minute after deleted")
}

// TestDelayIsThatOfTheWrite: a change keeps its time when the delay changes.
func TestDelayIsThatOfTheWrite(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	f.SetFaults(fleetserver.Faults{PropagationDelay: time.Minute})
	f.publish("m", second)
	f.SetFaults(fleetserver.Faults{})
	if !f.accepts("m", first) || f.accepts("m", second) {
		t.Error("changed early")
	}
	f.advance(time.Minute)
	if f.accepts("m", first) || !f.accepts("m", second) {
		t.Error("not changed in time")
	}
}

// TestErrors fails every write; some still take effect.
func TestErrors(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	f.SetFaults(fleetserver.Faults{
		ErrorRate: 1, ErrorCodes: []int{http.StatusConflict, http.StatusTooManyRequests}, Only: "memberships",
	})
	const writes = 60
	codes := map[string]int{}
	for i := range writes {
		_, err := f.memberships().Create(parent,
			&gkehub.Membership{}).MembershipId("n-" + string(rune('a'+i%26)) + string(rune('a'+i/26))).Do()
		if strings.Contains(err.Error(), "409") {
			checkStatus(t, "create", err, http.StatusConflict, "ABORTED")
			codes["409"]++
		} else {
			checkStatus(t, "create", err, http.StatusTooManyRequests, "RESOURCE_EXHAUSTED")
			codes["429"]++
		}
	}
	if !f.accepts("m", first) {
		t.Error("faults of memberships hit the STS")
	}
	f.SetFaults(fleetserver.Faults{})
	list, err := f.memberships().List(parent).Do()
	must(t, err)
	// Each of these has a chance of 2^-60 to fail.
	if made := len(list.Resources) - 1; made == 0 || made == writes || len(codes) != 2 {
		t.Errorf("made %d of %d, codes %v", made, writes, codes)
	}
}

func TestErrorsOfTheSTS(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	f.SetFaults(fleetserver.Faults{ErrorRate: 1, Only: "sts"})
	a := f.exchange("m", f.good(first))
	if a.status != http.StatusServiceUnavailable || a.Error != "server_error" || a.AccessToken != "" {
		t.Errorf("%d %s", a.status, a.body)
	}
	if _, err := f.memberships().Get(name("m")).Do(); err != nil {
		t.Errorf("faults of the STS hit memberships: %v", err)
	}
	f.SetFaults(fleetserver.Faults{ErrorRate: 0.5})
	seen := map[int]bool{}
	for range 60 {
		seen[f.exchange("m", f.good(first)).status] = true
	}
	if len(seen) != 2 || !seen[http.StatusOK] {
		t.Errorf("half the requests: %v", seen)
	}
}

func TestFailedOperations(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	f.SetFaults(fleetserver.Faults{OperationErrorRate: 1})
	o, err := f.memberships().Delete(name("m")).Do()
	must(t, err)
	if o, err = f.hub.Projects.Locations.Operations.Get(o.Name).Do(); err != nil || !o.Done || o.Error == nil ||
		o.Error.Code != 13 || len(o.Response) > 0 {
		t.Errorf("operation is %+v, %v", o, err)
	}
	if !f.accepts("m", first) {
		t.Error("a failed operation changed something")
	}
}

func TestDown(t *testing.T) {
	f := newFleet(t)
	f.SetFaults(fleetserver.Faults{Down: true})
	oneOne := &http.Transport{Protocols: new(http.Protocols)}
	oneOne.Protocols.SetHTTP1(true)
	defer oneOne.CloseIdleConnections()
	for name, client := range map[string]*http.Client{"HTTP/2": http.DefaultClient, "HTTP/1.1": {Transport: oneOne}} {
		if r, err := client.Get(f.url + "/healthz"); err == nil {
			r.Body.Close()
			t.Errorf("%s: %s", name, r.Status)
		}
	}
	f.SetFaults(fleetserver.Faults{Down: true, Only: "sts"})
	for name, client := range map[string]*http.Client{"HTTP/2.0": http.DefaultClient, "HTTP/1.1": {Transport: oneOne}} {
		r, err := client.Get(f.url + "/healthz")
		must(t, err)
		if body := readAll(t, r.Body); body != "ok\n" || r.Proto != name {
			t.Errorf("%s: %s %q", name, r.Proto, body)
		}
		r.Body.Close()
		if r, err := client.PostForm(f.url+"/v1/token", nil); err == nil {
			r.Body.Close()
			t.Errorf("%s: STS: %s", name, r.Status)
		}
	}
}

func TestFaultsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "faults.json")
	f := newFleet(t, func(o *fleetserver.Options) {
		o.FaultsFile, o.Faults = path, &fleetserver.Faults{PropagationDelay: time.Minute}
	})
	replace := func(content string) {
		t.Helper()
		must(t, os.WriteFile(path+".new", []byte(content), 0o600))
		must(t, os.Rename(path+".new", path))
	}
	health := func() answer {
		w := httptest.NewRecorder()
		f.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1/whoami", nil))
		return answer{status: w.Code, body: w.Body.String()}
	}
	if a := health(); a.status != http.StatusUnauthorized {
		t.Errorf("without a file: %d %s", a.status, a.body)
	}
	replace(`{"errorRate": 1, "errorCodes": [418]}`)
	must(t, os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)))
	if a := health(); a.status != http.StatusTeapot {
		t.Errorf("with all errors: %d %s", a.status, a.body)
	}
	// Another content of the same size and time, in the same file.
	must(t, os.WriteFile(path, []byte(`{"errorRate": 1, "errorCodes": [429]}`), 0o600))
	must(t, os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)))
	if a := health(); a.status != http.StatusTooManyRequests {
		t.Errorf("with other errors: %d %s", a.status, a.body)
	}
	for _, bad := range []string{
		"x", `{"errorRate": 2}`, `{"errorrates": 1}`, `{"propagationDelay": 5}`, `{"only": "all"}`, `{"errorCodes": [200]}`,
	} {
		replace(bad)
		if a := health(); a.status != http.StatusInternalServerError || !strings.Contains(a.body, path) {
			t.Errorf("with %s: %d %s", bad, a.status, a.body)
		}
	}
	if log := f.log.String(); strings.Count(log, "reading faults from") != 6 {
		t.Errorf("log:\n%s", log)
	}
	replace(`{"operationDelay": "1s"}`) // the other delay stays
	f.register("m", first)
	f.advance(time.Minute)
	if f.accepts("m", first) {
		t.Error("after the delay of propagation alone")
	}
	f.advance(time.Second)
	if !f.accepts("m", first) {
		t.Error("after both delays")
	}
	must(t, os.Remove(path))
	if a := health(); a.status != http.StatusUnauthorized {
		t.Errorf("file removed: %d %s", a.status, a.body)
	}
}
