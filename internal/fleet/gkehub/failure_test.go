package gkehub_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/fleet/gkehub"
	"github.com/keyturn/keyturn/internal/fleetserver"
)

// unreliable is a fleet three of whose ten answers are errors, half of them after the request was carried out, and
// some of whose operations fail.
var unreliable = fleetserver.Faults{
	ErrorRate: 0.3, ErrorCodes: []int{409, 429, 500}, OperationErrorRate: 0.3, OperationDelay: time.Millisecond,
}

// Calling again gets over everything, and an observation that was made is right.
func TestUnreliableFleet(t *testing.T) {
	t.Parallel()
	w := newWorld(t, unreliable)
	m := w.membership()
	for _, versions := range [][]int{{1}, {1, 2}, {2}} {
		again(t, func() error { return m.Publish(t.Context(), keyPairs(), versions) })
		again(t, func() error {
			seen, err := m.Observe(t.Context(), keyPairs())
			if err == nil && len(seen.Accepts)+len(seen.Refuses) != 2 || len(seen.Accepts) > len(versions) {
				t.Errorf("observed %+v, want %v accepted", seen, versions)
			}
			return err
		})
	}
	again(t, func() error { return m.Remove(t.Context()) })
	w.SetFaults(fleetserver.Faults{})
	wantSeen(t, m, nil, []int{1, 2})
}

// An operation that fails is reported, and changes nothing.
func TestOperationFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	publish(t, w.membership(), 1)
	m := w.membership(within(time.Second))
	w.SetFaults(fleetserver.Faults{OperationErrorRate: 1})
	for doing, err := range map[string]error{
		"publishing": m.Publish(t.Context(), keyPairs(), []int{2}), "removing": m.Remove(t.Context()),
	} {
		if err == nil || !strings.Contains(err.Error(), "operation failed") {
			t.Errorf("%s: %v, want that the operation failed", doing, err)
		}
	}
	wantSeen(t, m, []int{1}, []int{2})
}

// again calls until there is no error, so often that it cannot be chance if there always is.
func again(t *testing.T, do func() error) {
	t.Helper()
	var err error
	for range 50 {
		if err = do(); err == nil {
			return
		}
		if !strings.Contains(err.Error(), name) {
			t.Errorf("an error does not name the membership: %v", err)
		}
	}
	t.Errorf("still failing after 50 calls: %v", err)
}

// A fleet that is down is no answer about any key, and says so before long.
func TestDown(t *testing.T) {
	t.Parallel()
	for _, only := range []string{"", "memberships", "sts"} {
		t.Run("only "+only, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			publish(t, w.membership(), 1)
			m := w.membership(within(time.Second))
			w.SetFaults(fleetserver.Faults{Down: true, Only: only})
			seen, err := m.Observe(t.Context(), keyPairs())
			if err == nil || len(seen.Accepts) > 0 || len(seen.Refuses) > 0 || !strings.Contains(err.Error(), name) {
				t.Errorf("observed %+v, %v, want an error that names the membership", seen, err)
			}
			if only != "sts" {
				if err := m.Publish(t.Context(), keyPairs(), []int{2}); err == nil {
					t.Error("publishing: no error")
				}
				if err := m.Remove(t.Context()); err == nil {
					t.Error("removing: no error")
				}
			}
			w.SetFaults(fleetserver.Faults{})
			wantSeen(t, w.membership(), []int{1}, []int{2})
		})
	}
}

// A server that answers without end does not fill the memory, and what it says moves no cursor.
func TestHugeAndColourfulAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 1)
	sent := &atomic.Int64{}
	huge := func(code int) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(code)
			_, _ = io.WriteString(rw, `{"name":"`)
			for block := bytes.Repeat([]byte("x"), 1<<20); sent.Load() < 1<<30; sent.Add(1 << 20) {
				if _, err := rw.Write(block); err != nil {
					return
				}
			}
		}
	}
	for _, code := range []int{http.StatusOK, http.StatusForbidden} {
		sent.Store(0)
		w.answer(huge(code))
		if _, err := m.Observe(t.Context(), keyPairs()); err == nil {
			t.Errorf("%d: no error", code)
		}
		if n := sent.Load(); n > 64<<20 {
			t.Errorf("%d: %d MiB of an answer were read", code, n>>20)
		}
	}
	w.answer(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(rw,
			`{"error":{"status":"PERMISSION_DENIED","message":"go \u001b[2Jaway\n\u202e`+strings.Repeat("no ", 1000)+`"}}`)
	})
	_, err := m.Observe(t.Context(), keyPairs())
	if err == nil || !strings.Contains(err.Error(), "go [2Jaway no") || strings.ContainsAny(err.Error(), "\x1b\u202e\n") ||
		len(err.Error()) > 800 {
		t.Errorf("observing: %q", err)
	}
}

// A server that never answers does not hold a call for longer than its bound. The test hangs if it does.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	publish(t, w.membership(), 1)
	m := w.membership(within(200 * time.Millisecond))
	w.answer(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err := m.Observe(t.Context(), keyPairs())
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer in time") {
		t.Errorf("observing: %v", err)
	}
}

// An access token that the server does not know any more is replaced.
func TestAccessTokenForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 1)
	var old atomic.Value
	w.answer(func(rw http.ResponseWriter, r *http.Request) {
		if shown := r.Header.Get("Authorization"); shown != "" {
			old.CompareAndSwap(nil, shown)
			if shown == old.Load() {
				http.Error(rw, `{"error": {"code": 401, "status": "UNAUTHENTICATED", "message": "no"}}`, http.StatusUnauthorized)
				return
			}
		}
		w.Server.ServeHTTP(rw, r)
	})
	wantSeen(t, m, []int{1}, []int{2})
}

// Answers that are not the STS's own word about the token are no refusals.
func TestAnswersThatSayNothing(t *testing.T) {
	t.Parallel()
	answers := map[string]struct {
		code int
		body string
	}{
		"proxy":            {http.StatusBadRequest, "<html>bad request</html>"},
		"another error":    {http.StatusBadRequest, `{"error": "invalid_scope"}`},
		"forbidden":        {http.StatusForbidden, `{"error": "invalid_grant"}`},
		"unauthorized":     {http.StatusUnauthorized, `{"error": "invalid_client"}`},
		"no token":         {http.StatusOK, `{}`},
		"no JSON":          {http.StatusOK, "ok"},
		"other success":    {http.StatusAccepted, `{"access_token": "x"}`},
		"too many":         {http.StatusTooManyRequests, `{"error": "invalid_grant"}`},
		"unavailable":      {http.StatusServiceUnavailable, `{"error": "invalid_grant"}`},
		"redirect":         {http.StatusTemporaryRedirect, ""},
		"error of the API": {http.StatusNotFound, `{"error": {"code": 404, "status": "NOT_FOUND", "message": "no"}}`},
	}
	for what, answer := range answers {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			m := w.membership()
			publish(t, m, 1)
			w.answer(func(rw http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/v1/token" {
					w.Server.ServeHTTP(rw, r)
					return
				}
				rw.WriteHeader(answer.code)
				_, _ = io.WriteString(rw, answer.body)
			})
			if seen, err := m.Observe(t.Context(), keyPairs()); err == nil {
				t.Errorf("observed %+v, want an error", seen)
			}
		})
	}
}

// Only GKE Hub can answer that the membership does not exist; a proxy with a page of its own cannot.
func TestNotFoundOfSomebodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 1)
	w.answer(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/projects/") {
			http.NotFound(rw, r)
			return
		}
		w.Server.ServeHTTP(rw, r)
	})
	seen, err := m.Observe(t.Context(), keyPairs())
	if err == nil || !strings.Contains(err.Error(), "gkeConnect.endpoint") {
		t.Errorf("observed %+v, %v", seen, err)
	}
	if err := m.Remove(t.Context()); err == nil {
		t.Error("removing: no error")
	}
}

// What a person can do is in the error.
func TestCures(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		path string
		code int
		want string
	}{
		"no permission":  {"/v1/projects/", http.StatusForbidden, "roles/gkehub.admin"},
		"no login":       {"/v1/projects/", http.StatusUnauthorized, "registerServiceAccountKeyPath"},
		"revoked key":    {"/token", http.StatusBadRequest, "registerServiceAccountKeyPath"},
		"STS turned off": {"/v1/token", http.StatusForbidden, "sts.googleapis.com"},
	}
	for what, test := range tests {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.answer(func(rw http.ResponseWriter, r *http.Request) {
				if strings.HasPrefix(r.URL.Path, test.path) {
					http.Error(rw, `{"error": "invalid_grant"}`, test.code)
					return
				}
				w.Server.ServeHTTP(rw, r)
			})
			_, err := w.membership().Observe(t.Context(), keyPairs())
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), name) {
				t.Errorf("%v, want one that names the membership and %s", err, test.want)
			}
		})
	}
	w := newWorld(t)
	_, err := w.membership(func(o *gkehub.Options) { o.CABundle = nil }).Observe(t.Context(), keyPairs())
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
}

// A server that says to come back later than the call may last ends the call at once.
func TestRetryAfter(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, after := range []string{"3600", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)} {
		w.answer(func(rw http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet {
				w.Server.ServeHTTP(rw, r)
				return
			}
			rw.Header().Set("Retry-After", after)
			http.Error(rw, "later", http.StatusTooManyRequests)
		})
		w.takeRequests()
		_, err := w.membership().Observe(t.Context(), keyPairs())
		if err == nil || !strings.Contains(err.Error(), "429") {
			t.Errorf("observing: %v", err)
		}
		gets := 0
		for _, r := range w.takeRequests() {
			if strings.HasPrefix(r, "GET ") {
				gets++
			}
		}
		if gets != 1 {
			t.Errorf("asked %d times, want once", gets)
		}
	}
}

// No request follows a redirect: it would carry a token to wherever the redirect points.
func TestRedirects(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("%s %s followed a redirect", r.Method, r.URL.Path)
	}))
	t.Cleanup(elsewhere.Close)
	for _, path := range []string{"/token", "/v1/projects/", "/v1/token"} {
		w := newWorld(t)
		w.answer(func(rw http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, path) {
				http.Redirect(rw, r, elsewhere.URL, http.StatusTemporaryRedirect)
				return
			}
			w.Server.ServeHTTP(rw, r)
		})
		// The certificate of every httptest server is the same one, so only the redirect is what stops the client.
		if _, err := w.membership().Observe(t.Context(), keyPairs()); err == nil {
			t.Errorf("%s redirected: no error", path)
		}
	}
}

// Servers that send back what they were sent, and everything that is written down on the way, tell no secret.
func TestSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	m := w.membership()
	publish(t, m, 1)
	wantSeen(t, m, []int{1}, []int{2})
	texts := w.log.String() + fmt.Sprintf("%s %+v %s %#v", m, m, *m, *m) + fmt.Sprintf("%s %+v %v", w.options, w.options,
		&w.options)
	for _, path := range []string{"/token", "/v1/projects/", "/v1/token"} {
		for _, code := range []int{http.StatusBadRequest, http.StatusForbidden, http.StatusInternalServerError} {
			w.answer(func(rw http.ResponseWriter, r *http.Request) {
				if !strings.HasPrefix(r.URL.Path, path) {
					w.Server.ServeHTTP(rw, r)
					return
				}
				body, _ := io.ReadAll(r.Body)
				echo, _ := json.Marshal(map[string]any{"error": map[string]any{
					"code": code, "status": "INTERNAL", "message": "you sent " + string(body) + r.Header.Get("Authorization"),
				}})
				if path != "/v1/projects/" {
					echo, _ = json.Marshal(map[string]any{"error": string(body), "error_description": string(body)})
				}
				rw.WriteHeader(code)
				_, _ = rw.Write(echo)
			})
			again := w.membership()
			if code == http.StatusInternalServerError {
				again = w.membership(within(300 * time.Millisecond)) // it is repeated
			}
			_, observed := again.Observe(t.Context(), keyPairs())
			for _, err := range []error{
				observed, again.Publish(t.Context(), keyPairs(), []int{1, 2}), again.Remove(t.Context()),
			} {
				if err != nil {
					texts += err.Error() + "\n"
				}
			}
		}
	}
	if !strings.Contains(texts, "GKE Hub answered 403") || !strings.Contains(texts, "the STS answered 403") {
		t.Errorf("the test did not get to all of the errors: %s", texts)
	}
	for _, secret := range append(w.accessTokens(), "eyJ", "subject_token=", "assertion=", "PRIVATE KEY") {
		if strings.Contains(texts, secret) {
			t.Errorf("%q is in the errors or the log", secret)
		}
	}
}

// Credentials that are not a service account's key are refused before anything is asked, without a word of what they
// hold.
func TestCredentials(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-s3cr3t"
	good, _ := account()
	tests := map[string][]byte{
		"no JSON":               []byte(secret),
		"cut off":               bytes.Replace(good[:len(good)/2], []byte("service_account"), []byte(secret), 1),
		"an array":              []byte(`["` + secret + `"]`),
		"a number for the type": []byte(`{"type": 7, "x": "` + secret + `"}`),
		"authorized user":       []byte(`{"type": "authorized_user", "client_secret": "` + secret + `"}`),
		"external account": []byte(
			`{"type": "external_account", "credential_source": {"executable": {"command": "` + secret + `"}}}`,
		),
		"another type":    withField(t, good, "type", secret),
		"no private key":  withField(t, good, "private_key", secret),
		"no email":        withField(t, good, "client_email", ""),
		"plain token_uri": withField(t, good, "token_uri", "http://"+secret),
	}
	w := newWorld(t)
	for what, credentials := range tests {
		o := w.options
		o.CredentialsJSON = credentials
		_, err := gkehub.New(t.Context(), o)
		if err == nil {
			t.Errorf("%s: no error", what)
			continue
		}
		text := err.Error()
		if strings.Contains(text, secret) || strings.Contains(text, "PRIVATE KEY") || strings.Count(text, "\n") > 0 {
			t.Errorf("%s: the error quotes the credentials: %v", what, err)
		}
		if !strings.Contains(text, name) || !strings.Contains(text, "gkeConnect.registerServiceAccountKeyPath") {
			t.Errorf("%s: the error does not say what to do: %v", what, err)
		}
	}
	if got := w.takeRequests(); len(got) > 0 {
		t.Errorf("requests %q", got)
	}
}

// Without a key file the application default credentials are used, here from the environment.
func TestApplicationDefaultCredentials(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "key.json")
	must(t, os.WriteFile(path, w.options.CredentialsJSON, 0o600))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
	m := w.membership(func(o *gkehub.Options) { o.CredentialsJSON = nil })
	publish(t, m, 1)
	wantSeen(t, m, []int{1}, []int{2})

	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", path+".missing")
	o := w.options
	o.CredentialsJSON = nil
	if _, err := gkehub.New(t.Context(), o); err == nil ||
		!strings.Contains(err.Error(), "gkeConnect.registerServiceAccountKeyPath") {
		t.Errorf("without credentials: %v", err)
	}
}

// All that is wrong with the options is said at once.
func TestOptions(t *testing.T) {
	t.Parallel()
	_, err := gkehub.New(t.Context(), gkehub.Options{
		ProjectID: "P/../x", Location: "us central1", Membership: "Blue", Issuer: "http://blue.example",
		Endpoint: "http://hub.example", STSEndpoint: "https://u:p@sts.example", Timeout: -time.Second,
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"project ID", "location", "name", "external ID", "issuer", "endpoint", "STS endpoint", "timeout",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name the %s: %v", want, err)
		}
	}
	w := newWorld(t)
	o := w.options
	o.CABundle = []byte("no certificate")
	if _, err := gkehub.New(t.Context(), o); err == nil || !strings.Contains(err.Error(), "gkeConnect.caBundle") {
		t.Errorf("a bad CA bundle: %v", err)
	}
}
