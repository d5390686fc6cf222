package dashboard

import (
	"bytes"
	"crypto/subtle"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

//go:embed page
var embedded embed.FS

// policy allows the page to load only its own files, and to turn no text into markup or code.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

const (
	// sendEvery is the minimum time between two updates to a browser.
	sendEvery = 250 * time.Millisecond
	// aliveEvery is how often it gets a sign of life, and sendTimeout how long one send may take.
	aliveEvery  = 20 * time.Second
	sendTimeout = 30 * time.Second
)

// handler serves the page at an address, below a token.
func (s *Server) handler(feed *feed, address, token string) http.Handler {
	page, err := fs.Sub(embedded, "page")
	if err != nil {
		panic(err) // the name is valid
	}
	mux := http.NewServeMux()
	mux.Handle("GET /{$}", http.FileServerFS(page))
	mux.Handle("GET /page/", http.StripPrefix("/page", http.FileServerFS(page)))
	mux.HandleFunc("GET /admin", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]string{"name": s.AdminCluster})
	})
	mux.HandleFunc("GET /events", feed.serve)
	mux.HandleFunc("GET /clusters/{namespace}/{name}", func(w http.ResponseWriter, r *http.Request) {
		uc, ok := feed.cluster(types.NamespacedName{Namespace: r.PathValue("namespace"), Name: r.PathValue("name")})
		if !ok {
			http.NotFound(w, r)
			return
		}
		answer(w, s.Detail(uc))
	})
	return guard(address, token, mux)
}

// guard answers only requests of the page itself, and sets headers that restrict how browsers use the answers.
func guard(address, token string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{
			"Content-Security-Policy":      policy,
			"Cross-Origin-Opener-Policy":   "same-origin",
			"Cross-Origin-Resource-Policy": "same-origin",
			"Referrer-Policy":              "no-referrer",
			"X-Content-Type-Options":       "nosniff",
			"Cache-Control":                "no-store",
		} {
			w.Header().Set(name, value)
		}
		if !isLoopback(r.Host, address) {
			http.Error(w, "this page is served at "+address+" only", http.StatusMisdirectedRequest)
			return
		}
		given, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
		if subtle.ConstantTimeCompare([]byte(given), []byte(token)) != 1 {
			http.Error(w, "open the URL that the command dashboard printed", http.StatusForbidden)
			return
		}
		r.URL.Path, r.URL.RawPath = "/"+rest, ""
		next.ServeHTTP(w, r)
	})
}

// isLoopback reports whether a Host header names a loopback address, or localhost with its port. Any other name that
// leads here belongs to a page that wants to read this one (DNS rebinding).
func isLoopback(host, address string) bool {
	_, port, err := net.SplitHostPort(address)
	return err == nil && (host == address || host == net.JoinHostPort("localhost", port))
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// serve sends a browser what is newer than what it has, until it goes away.
func (f *feed) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	out := stream{ResponseWriter: w, control: http.NewResponseController(w)}
	version, err := strconv.ParseUint(r.Header.Get("Last-Event-ID"), 10, 64)
	if err != nil {
		version = 0
	}
	alive := time.NewTicker(aliveEvery)
	defer alive.Stop()
	for {
		u, now, more := f.since(version)
		if err := out.send(u, now); err != nil {
			return
		}
		version = now
		if !f.await(r, more, alive.C, out) {
			return
		}
	}
}

// await waits until there is more to send, but at least sendEvery. It returns false when the browser is gone.
func (f *feed) await(r *http.Request, more <-chan struct{}, alive <-chan time.Time, out stream) bool {
	pause := time.NewTimer(sendEvery)
	defer pause.Stop()
	for waiting := true; waiting; {
		select {
		case <-more:
			waiting = false
		case <-alive:
			if out.write(": alive\n\n") != nil {
				return false
			}
		case <-r.Context().Done():
			return false
		}
	}
	select {
	case <-pause.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// stream is a stream of server-sent events.
type stream struct {
	http.ResponseWriter
	control *http.ResponseController
}

// send sends an update with the version that the browser then has.
func (s stream) send(u update, version uint64) error {
	var data bytes.Buffer
	if err := json.NewEncoder(&data).Encode(u); err != nil {
		return err
	}
	return s.write(fmt.Sprintf("id: %d\ndata: %s\n", version, data.Bytes()))
}

func (s stream) write(text string) error {
	if err := s.control.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	if _, err := s.ResponseWriter.Write([]byte(text)); err != nil {
		return err
	}
	return s.control.Flush()
}
