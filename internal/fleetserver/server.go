package fleetserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"
)

// Options are the options of a Server.
type Options struct {
	// StateFile is the path of the state file. The file may be missing, but not its directory. Only one server at a
	// time can use it.
	StateFile string
	// Registrars are the service accounts that may read and change memberships.
	Registrars []Registrar
	// TokenURI is the URL of /token in the registrars' keys: the audience of their assertions.
	TokenURI string
	// Faults are the initial faults; nil for none.
	Faults *Faults
	// FaultsFile is read again whenever it changes, and overrides Faults. It may be missing or empty.
	FaultsFile string
	// Now is the clock; nil for time.Now.
	Now func() time.Time
	// Log receives a line for each write and each refusal, never a token; nil for none.
	Log *slog.Logger
}

// Server is a local fleet. It is safe for concurrent use.
type Server struct {
	store      *store
	tokens     *tokens
	registrars map[string]verifier
	tokenURI   string
	faults     *faultSource
	now        func() time.Time
	log        *slog.Logger
	handler    http.Handler
}

// New opens the state and returns a server of it. Close it in the end.
func New(o Options) (*Server, error) {
	if o.StateFile == "" || o.TokenURI == "" {
		return nil, errors.New("making fleet server: state file and token URI are needed")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	registrars, err := verifiers(o.Registrars)
	if err != nil {
		return nil, fmt.Errorf("making fleet server: %w", err)
	}
	s := &Server{registrars: registrars, tokenURI: o.TokenURI, now: o.Now, log: o.Log}
	if s.faults, err = newFaultSource(o); err != nil {
		return nil, fmt.Errorf("making fleet server: %w", err)
	}
	if s.store, err = openStore(o.StateFile, o.Now); err != nil {
		return nil, err
	}
	if s.tokens, err = openTokens(o.StateFile+".tokens", o.Now); err != nil {
		return nil, errors.Join(err, s.store.close())
	}
	s.handler = s.withFaults(s.routes())
	return s, nil
}

// Close releases the state file. Later requests fail.
func (s *Server) Close() error { return errors.Join(s.tokens.close(), s.store.close()) }

// SetFaults replaces the faults, except those in the faults file.
func (s *Server) SetFaults(f Faults) { s.faults.set(f) }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handler.ServeHTTP(w, r) }

func (s *Server) routes() http.Handler {
	const (
		parent     = "/v1/projects/{project}/locations/{location}"
		collection = parent + "/memberships"
		membership = collection + "/{membership}"
	)
	mux := http.NewServeMux()
	mux.Handle("POST "+collection, s.api(s.createMembership))
	mux.Handle("GET "+collection, s.api(s.listMemberships))
	mux.Handle("GET "+membership, s.api(s.getMembership))
	mux.Handle("PATCH "+membership, s.api(s.patchMembership))
	mux.Handle("DELETE "+membership, s.api(s.deleteMembership))
	mux.Handle("GET "+parent+"/operations/{operation}", s.api(s.getOperation))
	mux.Handle("POST /v1/token", s.oauth(s.exchange))
	mux.Handle("POST /token", s.oauth(s.accountToken))
	mux.Handle("POST /revoke", s.oauth(s.revoke))
	mux.HandleFunc("GET /v1/whoami", s.whoami)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeError(w, notFound("there is nothing at this path, or not by this method"))
	})
	return mux
}
