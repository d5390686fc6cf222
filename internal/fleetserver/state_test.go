package fleetserver_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/hint"
)

func TestReopen(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	before, err := f.memberships().Get(name("m")).Do()
	must(t, err)
	pod, account := f.exchange("m", f.good(first)).AccessToken, f.account(nil).AccessToken
	for range 2 {
		f.reopen()
		after, err := f.memberships().Get(name("m")).Do()
		must(t, err)
		if before.Header, after.Header = nil, nil; !sameJSON(t, before, after) || !f.accepts("m", first) {
			t.Errorf("%+v became %+v", before, after)
		}
		for _, access := range []string{pod, account} {
			if who := f.whoami(access); who.status != http.StatusOK {
				t.Errorf("access token of before: %d %s", who.status, who.body)
			}
		}
	}
}

// TestFiles are for their owner only, and are not left behind.
func TestFiles(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	f.exchange("m", f.good(first))
	entries, err := os.ReadDir(filepath.Dir(f.options.StateFile))
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		if must(t, err); info.Mode() != 0o600 {
			t.Errorf("%s has mode %s", e.Name(), info.Mode())
		}
	}
	if len(entries) != 3 {
		t.Errorf("%d files", len(entries))
	}
}

func TestOneServerAtATime(t *testing.T) {
	f := newFleet(t)
	if s, err := fleetserver.New(f.options); err == nil {
		s.Close()
		t.Error("two servers use one file")
	}
}

func TestClosed(t *testing.T) {
	f := newFleet(t)
	access := f.account(nil).AccessToken
	must(t, f.Server.Close())
	r, err := http.NewRequest(http.MethodPost, "/v1/"+parent+"/memberships?membershipId=m", strings.NewReader("{}"))
	must(t, err)
	r.Header.Set("Authorization", "Bearer "+access)
	if a := f.send(r); a.status != http.StatusInternalServerError {
		t.Errorf("write: %d %s", a.status, a.body)
	}
	if a := f.account(nil); a.status != http.StatusInternalServerError || a.AccessToken != "" {
		t.Errorf("access token: %d %s", a.status, a.body)
	}
}

// TestDamage never reads a damaged file as an empty one.
func TestDamage(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	f.exchange("m", f.good(first))
	f.close()
	f.close = func() {}
	for _, path := range []string{f.options.StateFile, f.options.StateFile + ".tokens"} {
		whole, err := os.ReadFile(path)
		must(t, err)
		half := string(whole[:len(whole)/2])
		damaged := []string{
			half + "\n", "x\n" + string(whole), "{}\n", "null\n", strings.Replace(string(whole), `"`, `"x`, 1),
		}
		if path == f.options.StateFile {
			damaged = append(damaged, "", half, string(whole)+"{}",
				strings.Replace(string(whole), `"version":1`, `"version":2`, 1),
				strings.Replace(string(whole), `"jwks":"`, `"jwks":"AAAA`, 1))
		}
		for _, content := range damaged {
			must(t, os.WriteFile(path, []byte(content), 0o600))
			s, err := fleetserver.New(f.options)
			if err == nil {
				s.Close()
				t.Errorf("%s of %q was read", path, content)
			} else if !strings.Contains(err.Error(), path) || hint.Of(err) == "" {
				t.Error(err)
			}
			if kept, err := os.ReadFile(path); err != nil || string(kept) != content {
				t.Errorf("%s was changed: %v", path, err)
			}
		}
		must(t, os.WriteFile(path, whole, 0o600))
	}
}

// TestTornLine is what a power cut leaves of the last access token.
func TestTornLine(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	kept, torn := f.exchange("m", f.good(first)).AccessToken, f.exchange("m", f.good(first)).AccessToken
	f.close()
	path := f.options.StateFile + ".tokens"
	whole, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, whole[:len(whole)-10], 0o600))
	f.start()
	if who := f.whoami(kept); who.status != http.StatusOK {
		t.Errorf("kept: %d", who.status)
	}
	if who := f.whoami(torn); who.status != http.StatusUnauthorized {
		t.Errorf("torn: %d", who.status)
	}
}

// TestTokensFileIsBounded exchanges more often than the file may have lines.
func TestTokensFileIsBounded(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	for range 8 {
		subject := f.good(first)
		for range 400 {
			if a := f.exchange("m", subject); a.status != http.StatusOK {
				t.Fatalf("%d %s", a.status, a.body)
			}
		}
		content, err := os.ReadFile(f.options.StateFile + ".tokens")
		must(t, err)
		if lines := strings.Count(string(content), "\n"); lines > 2048 {
			t.Errorf("%d lines", lines)
		}
		f.advance(time.Hour)
	}
}

// TestStateCannotBeWritten answers with an error and goes on with what was.
func TestStateCannotBeWritten(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	dir := filepath.Dir(f.options.StateFile)
	must(t, os.Rename(dir, dir+".away"))
	m := f.memberships()
	_, err := m.Delete(name("m")).Do()
	checkStatus(t, "delete", err, http.StatusInternalServerError, "INTERNAL")
	if strings.Contains(err.Error(), dir) {
		t.Errorf("the client is told of files: %v", err)
	}
	must(t, os.Rename(dir+".away", dir))
	if _, err := m.Get(name("m")).Do(); err != nil || !f.accepts("m", first) {
		t.Errorf("the membership is gone: %v", err)
	}
}

// TestSecrecy looks for tokens and keys in all that the server writes.
func TestSecrecy(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	f.SetFaults(fleetserver.Faults{ErrorRate: 0.3})
	assertion := sign(t, accountPair(t), f.assertion(nil))
	secrets := []string{
		f.good(first), f.good(stranger), assertion, f.good(first) + "x", sign(t, stranger, f.assertion(nil)),
	}
	for range 20 {
		for _, subject := range secrets[:5] {
			a, b := f.exchange("m", subject), f.assert(subject)
			for _, access := range []string{a.AccessToken, b.AccessToken} {
				if access != "" {
					secrets = append(secrets, access)
					f.whoami(access)
				}
			}
			f.whoami(subject)
			r, err := http.NewRequest(http.MethodDelete, "/v1/"+name("m")+"?access_token="+subject, nil)
			must(t, err)
			r.Header.Set("Authorization", "Bearer "+subject)
			f.send(r)
			r.URL.Path, r.Method = "/v1/projects/p/locations/l/memberships/"+subject, http.MethodGet
			f.send(r)
		}
	}
	if len(secrets) < 10 || !strings.Contains(f.log.String(), "refused") {
		t.Fatal("nothing was tried")
	}
	written := f.log.String()
	for _, path := range []string{f.options.StateFile, f.options.StateFile + ".tokens"} {
		content, err := os.ReadFile(path)
		must(t, err)
		written += string(content)
	}
	for _, secret := range secrets {
		for part := range strings.SplitSeq(secret, ".") {
			if len(part) > 10 && strings.Contains(written, part) {
				t.Errorf("written: %s", part)
			}
		}
	}
}
