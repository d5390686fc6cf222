package fleetserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// Faults are injected failures. The zero value is none. In a file they are a JSON object, with durations such as "5s";
// replace such a file with a rename, so that no request sees half of it:
//
//	{"propagationDelay": "5s", "errorRate": 0.3, "errorCodes": [409, 429, 500], "only": "memberships"}
type Faults struct {
	// PropagationDelay is how long the STS continues to trust the old content after a membership was changed or
	// deleted. It is fixed when the change is made.
	PropagationDelay time.Duration
	// OperationDelay is how long each write takes until its operation is done.
	OperationDelay time.Duration
	// OperationErrorRate is the fraction of writes whose operation fails and changes nothing.
	OperationErrorRate float64
	// ErrorRate is the fraction of requests that are answered with an error. Half of them are carried out nevertheless.
	ErrorRate float64
	// ErrorCodes are the HTTP codes of these errors, equally often; empty means only 503.
	ErrorCodes []int
	// Down closes connections without an answer: ServeHTTP panics with http.ErrAbortHandler.
	Down bool
	// Only limits ErrorRate and Down to "memberships" or to the "sts"; empty means all requests.
	Only string
}

// The values of Faults.Only.
const (
	onlyMemberships = "memberships"
	onlySTS         = "sts"
)

// validate returns what is wrong with faults.
func (f Faults) validate() error {
	rate := func(x float64) bool { return x >= 0 && x <= 1 }
	switch {
	case f.PropagationDelay < 0 || f.OperationDelay < 0:
		return errors.New("a delay is negative")
	case !rate(f.ErrorRate) || !rate(f.OperationErrorRate):
		return errors.New("a rate is not from 0 to 1")
	case f.Only != "" && f.Only != onlyMemberships && f.Only != onlySTS:
		return fmt.Errorf("only is neither %q nor %q", onlyMemberships, onlySTS)
	}
	for _, code := range f.ErrorCodes {
		if code < 400 || code > 599 {
			return fmt.Errorf("%d is not the code of an error", code)
		}
	}
	return nil
}

// faultsNow are the faults of one request.
type faultsNow struct{ Faults }

func (f faultsNow) failsOperation() bool { return chance(f.OperationErrorRate) }

func chance(rate float64) bool {
	return rand.Float64() < rate //nolint:gosec // which requests fail is no secret
}

// hits reports whether Only includes a request.
func (f faultsNow) hits(r *http.Request) bool {
	switch f.Only {
	case onlyMemberships:
		return strings.HasPrefix(r.URL.Path, "/v1/projects/")
	case onlySTS:
		return r.URL.Path == "/v1/token"
	}
	return true
}

func (f faultsNow) code() int {
	if len(f.ErrorCodes) == 0 {
		return http.StatusServiceUnavailable
	}
	return f.ErrorCodes[rand.IntN(len(f.ErrorCodes))] //nolint:gosec // which requests fail is no secret
}

// withFaults answers some requests according to the faults.
func (s *Server) withFaults(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, err := s.faults.now()
		switch {
		case err != nil:
			fail(w, r, http.StatusInternalServerError, err.Error())
		case f.Down && f.hits(r):
			panic(http.ErrAbortHandler) // closes the connection, or the stream of HTTP/2
		case f.hits(r) && r.URL.Path != "/healthz" && chance(f.ErrorRate):
			if chance(0.5) {
				next.ServeHTTP(discarded{http.Header{}}, r) // failed, but persisted
			}
			fail(w, r, f.code(), "injected failure")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// discarded is an answer that is not sent.
type discarded struct{ header http.Header }

func (d discarded) Header() http.Header         { return d.header }
func (d discarded) Write(b []byte) (int, error) { return len(b), nil }
func (d discarded) WriteHeader(int)             {}

// fail answers with an error in the form of the path.
func fail(w http.ResponseWriter, r *http.Request, code int, message string) {
	switch r.URL.Path {
	case "/v1/token", "/token", "/revoke":
		kind := "server_error"
		if code < http.StatusInternalServerError {
			kind = "temporarily_unavailable"
		}
		writeOAuthError(w, &oauthError{code, kind, message})
	default:
		status := statuses[code]
		if status == "" {
			status = "UNKNOWN"
		}
		writeError(w, &apiError{code, status, message})
	}
}

// faultSource returns the current faults.
type faultSource struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	base    Faults
	seen    []byte // the content of the file that current and err are from; nil: none
	current Faults
	err     error
}

func newFaultSource(o Options) (*faultSource, error) {
	s := &faultSource{path: o.FaultsFile, log: o.Log}
	if o.Faults != nil {
		s.base = *o.Faults
	}
	s.current = s.base
	return s, s.base.validate()
}

func (s *faultSource) set(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.base, s.seen = f, nil
	s.current, s.err = f, f.validate()
}

// now reads the file, which is small, for each request, since its times do not prove that it has not changed. An
// invalid file is an error for every request, so that no test runs without the faults that it wanted.
func (s *faultSource) now() (faultsNow, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		return faultsNow{s.current}, s.err
	}
	content, err := os.ReadFile(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		s.seen, s.current, s.err = nil, s.base, s.base.validate()
		return faultsNow{s.current}, s.err
	}
	if err != nil {
		return faultsNow{}, fmt.Errorf("reading faults: %w", err)
	}
	if s.seen == nil || !bytes.Equal(content, s.seen) {
		s.seen = content
		s.current, s.err = parseFaults(s.path, content, s.base)
		s.log.Info("faults changed", "file", s.path, "faults", fmt.Sprintf("%+v", s.current), "error", s.err)
	}
	return faultsNow{s.current}, s.err
}

// wireFaults is Faults in JSON.
type wireFaults struct {
	PropagationDelay   duration `json:"propagationDelay"`
	OperationDelay     duration `json:"operationDelay"`
	OperationErrorRate float64  `json:"operationErrorRate"`
	ErrorRate          float64  `json:"errorRate"`
	ErrorCodes         []int    `json:"errorCodes"`
	Down               bool     `json:"down"`
	Only               string   `json:"only"`
}

type duration time.Duration

// UnmarshalText reads a duration like "5s".
func (d *duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	*d = duration(parsed)
	return err
}

// parseFaults reads the content of a file; what it does not set is as in base.
func parseFaults(path string, content []byte, base Faults) (Faults, error) {
	if len(bytes.TrimSpace(content)) == 0 {
		return base, base.validate()
	}
	w := wireFaults{
		duration(base.PropagationDelay), duration(base.OperationDelay), base.OperationErrorRate,
		base.ErrorRate, base.ErrorCodes, base.Down, base.Only,
	}
	d := json.NewDecoder(bytes.NewReader(content))
	d.DisallowUnknownFields()
	if err := d.Decode(&w); err != nil {
		return base, fmt.Errorf("reading faults from %s: %w", path, err)
	}
	f := Faults{
		time.Duration(w.PropagationDelay), time.Duration(w.OperationDelay), w.OperationErrorRate,
		w.ErrorRate, w.ErrorCodes, w.Down, w.Only,
	}
	if err := f.validate(); err != nil {
		return base, fmt.Errorf("reading faults from %s: %w", path, err)
	}
	return f, nil
}
