package probe

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/fleetserver"
)

func TestWorkloadIdentityThroughARotation(t *testing.T) {
	t.Parallel()
	f := newFleet(t, first)
	m := newMember(t, f.front)
	old, fresh := poolToken(t, first), poolToken(t, next)

	m.mount(old)
	m.wants(m.use(), first, Counts{Accepted: 1})
	f.publish(first, next)
	m.wants(m.use(), first, Counts{Accepted: 2})
	m.mount(fresh)
	m.wants(m.use(), next, Counts{Accepted: 1})
	f.publish(next)
	l := m.use()
	m.wants(l, next, Counts{Accepted: 2})
	if len(l.Spells) > 0 {
		t.Errorf("refused in a rotation: %+v", l.Spells)
	}

	m.mount(old)
	l = m.use()
	m.wants(l, first, Counts{Accepted: 2, Refused: 1})
	if len(l.Spells) != 1 || l.Spells[0].KeyID != first.id ||
		!strings.Contains(l.Spells[0].Reason, "invalid_grant: no key") {
		t.Errorf("spells %+v after the old key was retired", l.Spells)
	}
	m.mount(fresh)
	l = m.use()
	m.wants(l, next, Counts{Accepted: 3})
	if l.Spells[0].End.IsZero() || l.Spells[0].StaleFile {
		t.Errorf("spells %+v after the file held a good token", l.Spells)
	}
	if m.rec.snapshot().Mounted[WorkloadIdentity] != next.id {
		t.Errorf("mounted: %v", m.rec.snapshot().Mounted)
	}
}

// A refusal while kubelet is replacing the file is distinguished from one that lasts.
func TestARefusedFileOfAWorkloadIdentityIsReadAgain(t *testing.T) {
	t.Parallel()
	m := newMember(t, newFleet(t, next).front)
	m.mount(poolToken(t, first))
	m.identity.transport = &swapping{RoundTripper: m.identity.transport, swap: func() { m.mount(poolToken(t, next)) }}
	l := m.use()
	if len(l.Spells) != 1 || !l.Spells[0].StaleFile || l.Spells[0].End.IsZero() ||
		l.Counts() != (Counts{Accepted: 1, Refused: 1}) {
		t.Errorf("counts %+v, spells %+v", l.Counts(), l.Spells)
	}
}

// Google's library reads the file itself. What counts is the token that it sent, and not one that was there before.
func TestTheTokenThatWasSentCounts(t *testing.T) {
	t.Parallel()
	m := newMember(t, newFleet(t, next).front)
	m.mount(poolToken(t, next))
	a, err := m.identity.use(t.Context(), poolToken(t, first))
	if err != nil || !a.accepted || keyID(a.bearer) != next.id {
		t.Errorf("accepted: %v, of key %s, want %s (%v)", a.accepted, keyID(a.bearer), next.id, err)
	}
}

func TestAnSTSThatIsDownIsUnavailable(t *testing.T) {
	t.Parallel()
	f := newFleet(t, first)
	m := newMember(t, f.front)
	m.mount(poolToken(t, first))
	m.use()
	for i, test := range []struct {
		faults fleetserver.Faults
		reason string
	}{
		{fleetserver.Faults{Down: true, Only: "sts"}, "invalid response from Secure Token Server"},
		{fleetserver.Faults{ErrorRate: 1, ErrorCodes: []int{429}}, "answered 429 Too Many Requests"},
		{fleetserver.Faults{ErrorRate: 1, ErrorCodes: []int{500}}, "answered 500 Internal Server Error"},
	} {
		f.SetFaults(test.faults)
		l := m.use()
		m.wants(l, first, Counts{Accepted: 1, Unavailable: int64(i + 1)})
		if !strings.Contains(l.UnavailableReason, test.reason) {
			t.Errorf("%+v is told as %q, want %q", test.faults, l.UnavailableReason, test.reason)
		}
	}
	f.front.Close()
	m.identity.transport.(*http.Transport).CloseIdleConnections() // or a dead one may be tried first
	l := m.use()
	m.wants(l, first, Counts{Accepted: 1, Unavailable: 4})
	if !strings.Contains(l.UnavailableReason, "connection refused") {
		t.Errorf("no server is told as %q", l.UnavailableReason)
	}
}

func TestAnswersOfTheSTSAndTheResource(t *testing.T) {
	always := func(status int, body string) func(string) reply {
		return func(string) reply { return reply{status, body} }
	}
	quoting := func(status int, code string) func(string) reply {
		return func(sent string) reply {
			body, _ := json.Marshal(map[string]string{"error": code, "error_description": "token " + sent + " with " +
				sent[:90] + " is bad"})
			return reply{status, string(body)}
		}
	}
	good, whoami := always(200, goodExchange), always(200, "{}")
	tests := map[string]struct {
		sts, resource func(string) reply
		want          result
		reason        string
	}{
		"both accept": {good, whoami, accepted, ""},
		"invalid_grant": {always(400, `{"error":"invalid_grant","error_description":"no such key"}`), whoami,
			refused, "invalid_grant: no such key"},
		"invalid_request": {always(400, `{"error":"invalid_request"}`), whoami, refused, "invalid_request"},
		"invalid_grant, token quoted": {quoting(400, "invalid_grant"), whoami, refused,
			"invalid_grant: token ... with ... is bad"},
		"invalid_target": {always(400, `{"error":"invalid_target"}`), whoami, unavailable,
			"400 Bad Request, invalid_target"},
		"invalid_target, token quoted": {quoting(400, "invalid_target"), whoami, unavailable,
			"invalid_target: token ... with ... is bad"},
		"invalid_grant, not a 400": {always(500, `{"error":"invalid_grant"}`), whoami, unavailable,
			"500 Internal Server Error"},
		"invalid_client": {always(401, `{"error":"invalid_client"}`), whoami, unavailable,
			"401 Unauthorized, invalid_client"},
		"a 400 of somebody else": {always(400, "<html>invalid_grant</html>"), whoami, unavailable, "400 Bad Request"},
		"a 400 of another form": {always(400, `{"error":{"code":400,"message":"invalid_grant"}}`), whoami,
			unavailable, "400 Bad Request"},
		"a 503 that quotes": {func(sent string) reply { return reply{503, "upstream got " + sent} }, whoami,
			unavailable, "503 Service Unavailable"},
		"a redirect":      {always(307, ""), whoami, unavailable, "307 Temporary Redirect"},
		"no access token": {always(200, "{}"), whoami, unavailable, "expiry"},
		"no JSON": {func(sent string) reply { return reply{200, sent} }, whoami, unavailable,
			"unmarshal"},
		"resource: 401": {good, always(401, ""), refused, "401 Unauthorized, for its access token"},
		"resource: 403": {good, always(403, ""), unavailable, "403 Forbidden"},
		"resource: 429": {good, always(429, ""), unavailable, "429 Too Many Requests"},
		"resource: 500": {good, func(sent string) reply { return reply{500, sent} }, unavailable,
			"500 Internal Server Error"},
		"resource: a redirect":          {good, always(302, ""), unavailable, "302 Found"},
		"resource: no content, not 200": {good, always(204, ""), unavailable, "204 No Content"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			server, exchanges := unlikely(t, test.sts, test.resource)
			m := newMember(t, server)
			subject := poolToken(t, first)
			m.mount(subject)
			m.use()
			l := m.use()
			var want Counts
			want.count(test.want)
			want.count(test.want)
			m.wants(l, first, want)
			if exchanges.Load() != 2 {
				t.Errorf("%d exchanges in two uses", exchanges.Load())
			}
			reason := l.UnavailableReason
			if test.want == refused {
				reason = l.Spells[0].Reason
			}
			if !strings.Contains(reason, test.reason) {
				t.Errorf("reason %q, want %q", reason, test.reason)
			}
			holdsNoToken(t, m.rec.snapshot(), subject, accessToken)
		})
	}
}

// Through impersonation the library asks one more service, whose answers it quotes whole.
func TestAnImpersonationThatFailsIsUnavailable(t *testing.T) {
	t.Parallel()
	server, _ := unlikely(t, func(string) reply { return reply{200, goodExchange} }, func(sent string) reply {
		return reply{403, "you sent " + sent}
	})
	m := newMember(t, server)
	var c map[string]any
	must(t, json.Unmarshal(m.identity.credentials, &c))
	c["service_account_impersonation_url"] = server.URL + "/v1/impersonate"
	var err error
	m.identity.credentials, err = json.Marshal(c)
	must(t, err)
	m.mount(poolToken(t, first))
	l := m.use()
	m.wants(l, first, Counts{Unavailable: 1})
	if !strings.Contains(l.UnavailableReason, "you sent Bearer ...") {
		t.Errorf("reason %q", l.UnavailableReason)
	}
	holdsNoToken(t, m.rec.snapshot(), accessToken)
}

// holdsNoToken checks that no part of a token is in a report.
func holdsNoToken(t *testing.T, r Report, tokens ...string) {
	t.Helper()
	data, err := json.Marshal(r)
	must(t, err)
	for _, bearer := range tokens {
		for part := range strings.SplitSeq(bearer, ".") {
			if bytes.Contains(data, []byte(part[:min(len(part), 60)])) {
				t.Errorf("the report holds %q:\n%s", part, data)
			}
		}
	}
}

// Only the certificates of the CA file are trusted: a stranger in the middle must not get the token.
func TestAnUnknownSTSIsNotGivenTheToken(t *testing.T) {
	t.Parallel()
	server, exchanges := unlikely(t, func(string) reply { return reply{200, goodExchange} }, nil)
	m := newMember(t, server)
	must(t, os.WriteFile(m.options.CAFile, config.CAData, 0o600))
	var err error
	m.identity, err = newIdentity(m.options, 30*time.Second)
	must(t, err)
	m.mount(poolToken(t, first))
	l := m.use()
	m.wants(l, first, Counts{Unavailable: 1})
	if exchanges.Load() != 0 || !strings.Contains(l.UnavailableReason, "unknown authority") {
		t.Errorf("%d exchanges, because of %q", exchanges.Load(), l.UnavailableReason)
	}
}

func TestAWorkloadIdentityWithoutAToken(t *testing.T) {
	t.Parallel()
	m := newMember(t, newFleet(t, first).front)
	if l := m.use(); l.KeyIDs[""] != (Counts{Refused: 1}) || l.Spells[0].Reason != "the file is empty" {
		t.Errorf("an empty file: %+v", l)
	}
	must(t, os.Remove(m.file))
	if l := m.use(); l.KeyIDs[""] != (Counts{Refused: 1, Unavailable: 1}) {
		t.Errorf("no file: %+v", l)
	}
}

// The whole probe, with a workload identity among the other tokens.
func TestAProbeWithAWorkloadIdentity(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	f := newFleet(t, first)
	m := newMember(t, f.front)
	m.mount(poolToken(t, first))
	b.options.WorkloadIdentity = m.options
	stop := b.start()
	b.until("uses of all kinds", func(r Report) bool {
		return allAccepted(r) && uses(r, WorkloadIdentity, first).Accepted > 2
	})
	refused := poolToken(t, unknown)
	m.mount(refused)
	r := b.until("refusals", func(r Report) bool { return uses(r, WorkloadIdentity, unknown).Refused > 2 })
	stop()
	holdsNoToken(t, r, refused)
	if c := uses(r, WorkloadIdentity, first); c.Refused != 0 || c.Unavailable != 0 ||
		line(r, WorkloadIdentity, f.front.URL).Counts().Accepted == 0 {
		t.Errorf("uses of the workload identity: %+v", c)
	}
	var out, talk bytes.Buffer
	code := Main(b.ctx, Env{Stdout: &out, Stderr: &talk, Getenv: os.Getenv},
		[]string{"report", "--kubeconfig", b.kubeconfig(), "-n", b.ns})
	if code != exitRefused || !strings.Contains(out.String(), "\nworkload-identity ") ||
		!strings.Contains(talk.String(), "a token was refused that must be accepted") {
		t.Errorf("report exits with %d:\n%s%s", code, &out, &talk)
	}
}

func TestWorkloadIdentityOptions(t *testing.T) {
	b := newBench(t)
	server, _ := unlikely(t, nil, nil)
	m := newMember(t, server)
	valid := m.options
	ran := filepath.Join(t.TempDir(), "ran")
	credentials := func(content string) workloadIdentityOptions {
		o := valid
		o.CredentialsFile = filepath.Join(t.TempDir(), "credentials.json")
		must(t, os.WriteFile(o.CredentialsFile, []byte(content), 0o600))
		return o
	}
	source := func(source string) workloadIdentityOptions {
		return credentials(`{"type":"external_account","audience":"a","subject_token_type":"t",` +
			`"token_url":"https://sts/v1/token","credential_source":` + source + `}`)
	}
	tests := map[string]struct {
		options workloadIdentityOptions
		says    string
	}{
		"all":  {valid, ""},
		"none": {workloadIdentityOptions{}, ""},
		"two are missing": {workloadIdentityOptions{Resource: valid.Resource},
			"lacks --workload-identity-credentials-file and --workload-identity-ca-file"},
		"no resource": {workloadIdentityOptions{CredentialsFile: valid.CredentialsFile, CAFile: valid.CAFile},
			"lacks --workload-identity-resource"},
		"a bad resource": {workloadIdentityOptions{CredentialsFile: valid.CredentialsFile, CAFile: valid.CAFile,
			Resource: "http://r"}, `"http://r" of the workload identity is not an https URL`},
		"no such CA file": {workloadIdentityOptions{CredentialsFile: valid.CredentialsFile, CAFile: "/no",
			Resource: valid.Resource}, "certificates of the security token service"},
		"no certificates": {workloadIdentityOptions{CredentialsFile: valid.CredentialsFile, CAFile: valid.CredentialsFile,
			Resource: valid.Resource}, "holds none"},
		"no credentials": {workloadIdentityOptions{CredentialsFile: "/no", CAFile: valid.CAFile, Resource: valid.Resource},
			"reading the credentials"},
		"no JSON":      {credentials("{"), "reading the credentials"},
		"another type": {credentials(`{"type":"service_account","private_key":"-"}`), `type "service_account"`},
		"a command":    {source(`{"executable":{"command":"/usr/bin/touch ` + ran + `"}}`), "not a file"},
		"a URL":        {source(`{"url":"https://other"}`), "not a file"},
		"AWS":          {source(`{"file":"/f","environment_id":"aws1"}`), "not a file"},
		"JSON in the file": {source(`{"file":"/f","format":{"type":"json","subject_token_field_name":"t"}}`),
			`format "json"`},
		"text in the file": {source(`{"file":"/f","format":{"type":"text"}}`), ""},
		"no https": {
			credentials(`{"type":"external_account","token_url":"http://sts/v1/token","credential_source":{"file":"/f"}}`),
			`token_url "http://sts/v1/token" is not an https URL`,
		},
	}
	for name, test := range tests {
		o := b.options
		o.WorkloadIdentity = test.options
		r, err := newRunner(o)
		if test.says == "" {
			must(t, err)
			if report := r.rec.snapshot(); report.has(WorkloadIdentity) != (name != "none") {
				t.Errorf("%s: report of before the first use: %+v", name, report)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: error is %v, want %q", name, err, test.says)
		}
	}
	if _, err := os.Stat(ran); !os.IsNotExist(err) {
		t.Errorf("the command of the credentials was run (%v)", err)
	}
}
