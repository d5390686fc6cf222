package gkehub

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"time"

	"golang.org/x/oauth2"
	"google.golang.org/api/googleapi"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/keyturn/keyturn/internal/printable"
)

// failure is why an attempt did not succeed, in our own words, since the errors of the clients quote whole answers.
type failure struct {
	// why is what happened, and cure what a person can do; cure may be empty.
	why, cure string
	// again means that another attempt may succeed; after is the minimum time to wait before it.
	again bool
	after time.Duration
	// busy means that nothing failed but an operation is still running.
	busy bool
	// end is the error of the context, if that is the cause.
	end error
	// kind is the corresponding error of package fleet; it may be nil.
	kind error
}

// Error returns what happened and what to do.
func (f *failure) Error() string {
	if f.cure == "" {
		return f.why
	}
	return f.why + "; " + f.cure
}

// Unwrap lets callers see that their context has ended, and errors of package fleet.
func (f *failure) Unwrap() []error { return []error{f.end, f.kind} }

// maxFailures is how often an attempt may fail in one call.
const maxFailures = 6

// The waits between two attempts double each time, plus a random time of at most the same length.
const (
	firstWait = 50 * time.Millisecond
	maxWait   = time.Second
)

// retry repeats an attempt until it succeeds, fails permanently or too often, or ctx leaves no time for another one.
func (m *Membership) retry(ctx context.Context, attempt func() error) error {
	var last *failure
	for attempts, failures := 1, 0; ; attempts++ {
		err := attempt()
		if err == nil {
			return nil
		}
		f := m.explain(ctx, err)
		if f.end != nil && last != nil {
			return last // it says more than that the context ended
		}
		if !f.busy {
			failures++
		}
		last = f
		pause := max(f.after, wait.Jitter(min(firstWait<<min(attempts, 10), maxWait), 1))
		if !f.again || failures == maxFailures || !sleep(ctx, pause) {
			f.again = false // retries may be nested; the outer one must not start over
			return f
		}
	}
}

// sleep waits, or returns false at once if ctx would end before that.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < d {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// explain converts an error of a client.
func (m *Membership) explain(ctx context.Context, err error) *failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f
	}
	if e, ok := errors.AsType[*googleapi.Error](err); ok {
		return m.explainHub(e)
	}
	if e, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		f := answered("the token endpoint of the service account", e.Response.StatusCode, e.Response.Header)
		f.cure = checkKeyFile
		return f
	}
	if ctx.Err() != nil {
		return &failure{why: "no answer in time", end: ctx.Err()}
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return &failure{
			why: "the certificate of the server is not trusted", cure: "check gkeConnect.caBundle and the endpoints",
		}
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &failure{why: fmt.Sprintf("an answer of more than %d bytes", e.Limit)}
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		return &failure{why: printable.Line(e.Error()), again: true}
	}
	return &failure{why: fmt.Sprintf("an answer that is not understood (%T)", err)}
}

func (m *Membership) explainHub(e *googleapi.Error) *failure {
	f := answered("GKE Hub", e.Code, e.Header)
	if message := said(e.Message); message != "" && !m.tokens.isIn(e.Message) {
		f.why += ": " + message
	}
	switch e.Code {
	case http.StatusNotFound:
		f.again = true // what was read before has changed
	case http.StatusUnauthorized:
		m.tokens.forget()
		f.again, f.cure = true, checkKeyFile
	case http.StatusForbidden:
		f.cure = "grant roles/gkehub.admin to the service account, and enable gkehub.googleapis.com in the project"
	}
	return f
}

// answered converts the status of an HTTP answer.
func answered(who string, code int, header http.Header) *failure {
	f := &failure{why: fmt.Sprintf("%s answered %d %s", who, code, http.StatusText(code))}
	switch {
	case code == http.StatusRequestTimeout, code == http.StatusConflict, code == http.StatusTooManyRequests, code >= 500:
		f.again, f.after = true, retryAfter(header)
	}
	return f
}

// retryAfter reads a Retry-After header (RFC 9110, section 10.2.3): seconds or a date. Zero if there is none.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil && seconds > 0 {
		return time.Duration(seconds) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(date))
	}
	return 0
}

// long matches text that is too long for a name and could be a token.
var long = regexp.MustCompile(`[-_.=~+A-Za-z0-9]{100,}`)

// said returns a server's message as a line without anything that could be a token.
func said(message string) string { return printable.Line(long.ReplaceAllString(message, "…")) }

// isNotFound reports whether the resource does not exist.
func isNotFound(err error) bool {
	e, ok := errors.AsType[*googleapi.Error](err)
	return ok && e.Code == http.StatusNotFound
}

// isOfHub reports whether an error has the form of GKE Hub's errors, and is not from a proxy in between.
func isOfHub(err error) bool {
	var body struct {
		Error struct {
			Status string `json:"status"`
		} `json:"error"`
	}
	e, ok := errors.AsType[*googleapi.Error](err)
	return ok && json.Unmarshal([]byte(e.Body), &body) == nil && body.Error.Status != ""
}
