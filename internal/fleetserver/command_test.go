package fleetserver_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/oauth2"
	"google.golang.org/api/gkehub/v1"
	"google.golang.org/api/option"

	"github.com/keyturn/keyturn/internal/fleetserver"
)

// process is keyturn-fleet in a process of its own.
type process struct {
	command *exec.Cmd
	url     string
	done    chan error
}

// arguments returns the arguments of a working command, and appends more.
func arguments(t testing.TB, dir string, more ...string) []string {
	t.Helper()
	registrars := filepath.Join(dir, "registrars.json")
	content, err := fleetserver.MarshalRegistrars([]fleetserver.Registrar{registrar})
	must(t, err)
	must(t, os.WriteFile(registrars, content, 0o600))
	return append([]string{
		"--listen=127.0.0.1:0", "--token-uri=https://fleet.test/token", "--tls-cert-file=" + files.cert,
		"--tls-private-key-file=" + files.key,
		"--state-file=" + filepath.Join(dir, "fleet.json"), "--registrars-file=" + registrars,
	}, more...)
}

// launch starts the command and waits until it serves.
func launch(t testing.TB, args []string) *process {
	t.Helper()
	p := &process{command: exec.Command(os.Args[0], args...), done: make(chan error, 1)}
	p.command.Env = append(os.Environ(), runCommand+"=1")
	stderr, err := p.command.StderrPipe()
	must(t, err)
	must(t, p.command.Start())
	lines := bufio.NewReader(stderr)
	var serving struct{ Msg, Address string }
	line, err := lines.ReadString('\n')
	if json.Unmarshal([]byte(line), &serving) != nil || serving.Msg != "serving" {
		_ = p.command.Process.Kill()
		t.Fatalf("the command says %q, %v", line, err)
	}
	p.url = "https://" + serving.Address
	go func() {
		_, _ = io.Copy(io.Discard, lines)
		p.done <- p.command.Wait()
	}()
	t.Cleanup(func() { _ = p.command.Process.Kill() })
	return p
}

// kill is kill -9.
func (p *process) kill(t testing.TB) {
	t.Helper()
	must(t, p.command.Process.Kill())
	<-p.done
}

// access gets an access token of the registrar from a process.
func (p *process) access(t testing.TB) string {
	t.Helper()
	f := &fleet{TB: t, options: fleetserver.Options{TokenURI: "https://fleet.test/token"}}
	return p.post(t, "/token", url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"},
		"assertion":  {sign(t, accountPair(t), f.assertion(nil))},
	}).AccessToken
}

func (p *process) post(t testing.TB, path string, values url.Values) answer {
	t.Helper()
	response, err := http.PostForm(p.url+path, values)
	must(t, err)
	defer response.Body.Close()
	a := answer{status: response.StatusCode}
	must(t, json.NewDecoder(response.Body).Decode(&a))
	return a
}

func (p *process) memberships(t testing.TB, access string) *gkehub.ProjectsLocationsMembershipsService {
	t.Helper()
	source := oauth2.StaticTokenSource(&oauth2.Token{AccessToken: access})
	hub, err := gkehub.NewService(t.Context(), option.WithEndpoint(p.url+"/"), option.WithTokenSource(source))
	must(t, err)
	return hub.Projects.Locations.Memberships
}

// TestKill kills the server while it writes. What it had answered must be there afterwards, access tokens too.
func TestKill(t *testing.T) {
	args := arguments(t, t.TempDir())
	p := launch(t, args)
	access := p.access(t)
	const writers, rounds, writes = 3, 6, 10
	var answered [writers]int
	for i := range writers {
		m := &gkehub.Membership{
			ExternalId: "0", Authority: &gkehub.Authority{Issuer: issuer, OidcJwks: encoded(keySet(t, first))},
		}
		_, err := p.memberships(t, access).Create(parent, m).MembershipId(fmt.Sprint("m", i)).Do()
		must(t, err)
	}
	for round := range rounds {
		pod := p.post(t, "/v1/token", form("m0", (&fleet{TB: t}).good(first))).AccessToken
		writeUntilKilled(t, p, access, answered[:], writes)
		p = launch(t, args)
		for i := range writers {
			m, err := p.memberships(t, access).Get(name(fmt.Sprint("m", i))).Do()
			must(t, err)
			if m.ExternalId == fmt.Sprint(answered[i]+1) {
				answered[i]++ // written and not answered
			} else if m.ExternalId != fmt.Sprint(answered[i]) {
				t.Fatalf("round %d: m%d is at %s, answered were %d", round, i, m.ExternalId, answered[i])
			}
		}
		r, err := http.NewRequest(http.MethodGet, p.url+"/v1/whoami", nil)
		must(t, err)
		r.Header.Set("Authorization", "Bearer "+pod)
		response, err := http.DefaultClient.Do(r)
		must(t, err)
		if response.Body.Close(); response.StatusCode != http.StatusOK {
			t.Fatalf("round %d: the access token of a pod: %s", round, response.Status)
		}
	}
	if answered[0]+answered[1]+answered[2] < rounds*writes {
		t.Errorf("answered %v", answered)
	}
}

// writeUntilKilled counts the answered writes of each membership up, and kills the server amid them.
func writeUntilKilled(t *testing.T, p *process, access string, answered []int, writes int64) {
	t.Helper()
	var total atomic.Int64
	enough := make(chan struct{})
	var wg sync.WaitGroup
	for i := range answered {
		memberships := p.memberships(t, access)
		wg.Go(func() {
			for {
				next := &gkehub.Membership{ExternalId: fmt.Sprint(answered[i] + 1)}
				if _, err := memberships.Patch(name(fmt.Sprint("m", i)), next).UpdateMask("externalId").Do(); err != nil {
					return
				}
				answered[i]++
				if total.Add(1) == writes {
					close(enough)
				}
			}
		})
	}
	<-enough
	p.kill(t)
	wg.Wait()
}

func TestEnd(t *testing.T) {
	p := launch(t, arguments(t, t.TempDir(), "--propagation-delay=1h"))
	response, err := http.Get(p.url + "/healthz")
	must(t, err)
	if body := readAll(t, response.Body); body != "ok\n" || response.ProtoMajor != 2 || response.TLS == nil {
		t.Errorf("%s %q", response.Proto, body)
	}
	response.Body.Close()
	must(t, p.command.Process.Signal(syscall.SIGTERM))
	if err := <-p.done; err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

func TestFlags(t *testing.T) {
	dir := t.TempDir()
	good := arguments(t, dir)
	missing := filepath.Join(dir, "missing")
	for what, test := range map[string]struct {
		args []string
		code int
		says string
	}{
		"help":             {[]string{"--help"}, 0, "-listen"},
		"nothing":          {nil, 2, "hint: see keyturn-fleet --help"},
		"unknown flag":     {append(good, "--x"), 2, "-x"},
		"argument":         {append(good, "x"), 2, `unexpected argument "x"`},
		"all addresses":    {append(good, "--listen=0.0.0.0:0"), 2, "neither a loopback nor a private address"},
		"all of both":      {append(good, "--listen=[::]:0"), 2, "neither a loopback nor a private address"},
		"mapped":           {append(good, "--listen=[::ffff:0.0.0.0]:0"), 2, "neither a loopback nor a private address"},
		"public":           {append(good, "--listen=203.0.113.1:0"), 2, "neither a loopback nor a private address"},
		"no address":       {append(good, "--listen=:8443"), 2, "not an IP address and a port"},
		"a name":           {append(good, "--listen=localhost:8443"), 2, "not an IP address and a port"},
		"error rate":       {append(good, "--error-rate=2"), 2, "not from 0 to 1"},
		"delay":            {append(good, "--propagation-delay=-1s"), 2, "negative"},
		"no certificate":   {append(good, "--tls-cert-file="+missing), 1, missing},
		"no registrars":    {append(good, "--registrars-file="+missing), 1, missing},
		"no state file":    {append(good, "--state-file="), 2, "--state-file"},
		"no directory":     {append(good, "--state-file="+filepath.Join(missing, "fleet.json")), 1, missing},
		"address not ours": {append(good, "--listen=10.255.255.254:1"), 1, "10.255.255.254:1"},
	} {
		var stderr bytes.Buffer
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errors.New("a command that serves all the same ends at once"))
		if code := fleetserver.Run(ctx, test.args, &stderr); code != test.code ||
			!strings.Contains(stderr.String(), test.says) {
			t.Errorf("%s: %d, want %d\n%s", what, code, test.code, stderr.String())
		}
	}
}
