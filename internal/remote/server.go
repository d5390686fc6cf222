package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/signer/ledger"
)

const (
	healthPath = "/healthz"
	// writeTimeout is how long an answer may take: a call, and time to write it.
	writeTimeout = callTimeout + 10*time.Second
	// readTimeout is how long a client may take to send a request.
	readTimeout = 10 * time.Second
)

// Machines are the machines of one cluster, and the tokens on them.
type Machines interface {
	nodes.Machines
	nodes.Refresher
}

// Server serves the adapters of clusters to clients with a certificate of its authority. Each client may do everything
// that the adapters can, to every cluster.
type Server struct {
	// ControlPlane and Machines open the adapters of a cluster. Its name and namespace are valid names of Kubernetes
	// objects; its spec is unchecked.
	ControlPlane func(*v1alpha1.UserCluster) (controlplane.Adapter, error)
	Machines     func(*v1alpha1.UserCluster) (Machines, error)
	// Watch calls wake for each cluster in which something changes, until ctx ends. Nil: clients get no wakes.
	Watch func(ctx context.Context, wake func(context.Context, types.NamespacedName)) error
	// Credentials are the credentials of the server.
	Credentials Credentials
	// Metrics registers the metrics of the calls; nil: there are none.
	Metrics prometheus.Registerer
	// Log receives errors below a call; nil: slog.Default.
	Log *slog.Logger
}

// Serve answers requests on a listener, which it closes, until ctx ends. It then cancels pending calls, and returns
// when all of them have ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	log := s.Log
	if log == nil {
		log = slog.Default()
	}
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	var calls sync.RWMutex // held for reading by each
	server := &http.Server{
		Handler: whileRead(&calls, s.handler()), TLSConfig: s.Credentials.server(), Protocols: &protocols,
		ReadHeaderTimeout: readTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: 10 * time.Minute,
		MaxHeaderBytes: 64 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelWarn),
		BaseContext:    func(net.Listener) context.Context { return ctx },
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	err := server.ServeTLS(l, "", "")
	if stop() {
		return errors.Join(fmt.Errorf("serving %s: %w", l.Addr(), err), server.Close())
	}
	calls.Lock()
	defer calls.Unlock()
	return nil
}

// whileRead makes a handler hold a lock for reading, unless its request is over by then.
func whileRead(lock *sync.RWMutex, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		lock.RLock()
		defer lock.RUnlock()
		if r.Context().Err() == nil {
			h.ServeHTTP(w, r)
		}
	})
}

func (s *Server) handler() http.Handler {
	mux := routes{http.NewServeMux(), newServerMetrics(s.Metrics)}
	mux.HandleFunc("GET "+healthPath, func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, []byte("{}"))
	})
	mux.HandleFunc("GET "+wakesPath, s.serveWakes)
	s.handleControlPlane(mux)
	s.handleMachines(mux)
	return mux
}

func (s *Server) handleControlPlane(mux routes) {
	open := s.ControlPlane
	handle(mux, observe, open, func(ctx context.Context, p controlplane.Adapter, _ none) (controlplane.State, error) {
		return p.Observe(ctx)
	})
	handle(mux, converge, open, func(ctx context.Context, p controlplane.Adapter, args convergeArgs) (none, error) {
		keys, err := decodeKeys(args.Keys)
		clearKeys(args.Keys)
		if err != nil {
			return none{}, refuse(http.StatusBadRequest, "reading the keys of the call: %v", err)
		}
		return none{}, p.Converge(ctx, args.Target, keys)
	})
	handle(mux, config, open, func(ctx context.Context, p controlplane.Adapter, server string) (access, error) {
		cfg, err := p.Config(ctx, server)
		if err != nil {
			return access{}, err
		}
		return encodeConfig(cfg)
	})
	handle(mux, adminKubeconfig, open, func(ctx context.Context, p controlplane.Adapter, _ none) ([]byte, error) {
		return p.AdminKubeconfig(ctx)
	})
	handle(mux, deletePlane, open, func(ctx context.Context, p controlplane.Adapter, _ none) (bool, error) {
		return p.Delete(ctx)
	})
	handle(mux, ledgerOf, open, func(ctx context.Context, p controlplane.Adapter, server string) (ledger.Report, error) {
		return p.Ledger(ctx, server)
	})
}

func (s *Server) handleMachines(mux routes) {
	open := s.Machines
	handle(mux, listMachines, open, func(ctx context.Context, m Machines, _ none) ([]nodes.Machine, error) {
		return m.List(ctx)
	})
	handle(mux, ensureMachine, open, func(ctx context.Context, m Machines, args ensureArgs) (none, error) {
		return none{}, named(args.Machine.Name, func() error { return m.Ensure(ctx, args.Machine, args.Pool) })
	})
	handle(mux, removeMachine, open, func(ctx context.Context, m Machines, name string) (gone bool, err error) {
		err = named(name, func() (err error) { gone, err = m.Remove(ctx, name); return err })
		return gone, err
	})
	handle(mux, remember, open, func(ctx context.Context, m Machines, of nodes.Machine) (none, error) {
		return none{}, named(of.Name, func() error { return m.Remember(ctx, of) })
	})
	handle(mux, restartKubelet, open, func(ctx context.Context, m Machines, name string) (none, error) {
		return none{}, named(name, func() error { return m.RestartKubelet(ctx, name) })
	})
	handle(mux, readTokens, open, func(ctx context.Context, m Machines, args tokensArgs) (list []nodes.Token, err error) {
		err = named(args.Machine, func() (err error) { list, err = m.Tokens(ctx, args.Machine, args.Files); return err })
		return list, err
	})
}

// handle serves a method: it reads the request, opens the adapter of its cluster, and answers with the result of do.
func handle[A, R, P any](
	mux routes, m method[A, R], open func(*v1alpha1.UserCluster) (P, error),
	do func(ctx context.Context, port P, args A) (R, error),
) {
	mux.Handle("POST "+m.path(), mux.metrics.observe(string(m),
		http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), callTimeout)
			defer cancel()
			body, err := serve(ctx, w, r, open, do)
			if err != nil {
				writeError(w, err)
				return
			}
			defer clear(body)
			write(w, http.StatusOK, body)
		})))
}

func serve[A, R, P any](
	ctx context.Context, w http.ResponseWriter, r *http.Request, open func(*v1alpha1.UserCluster) (P, error),
	do func(ctx context.Context, port P, args A) (R, error),
) ([]byte, error) {
	req, err := read[A](w, r)
	if err != nil {
		return nil, err
	}
	port, err := open(req.Cluster)
	if err != nil {
		return nil, err
	}
	result, err := do(ctx, port, req.Args)
	if err != nil {
		return nil, err
	}
	return json.Marshal(response[R]{Result: result})
}

// read reads a request. Its errors quote nothing of the request.
func read[A any](w http.ResponseWriter, r *http.Request) (req request[A], err error) {
	switch {
	case r.ContentLength < 0:
		return req, refuse(http.StatusLengthRequired, "the length of the body is not given")
	case r.ContentLength > maxBody:
		return req, refuse(http.StatusRequestEntityTooLarge, "the body is longer than %d bytes", maxBody)
	}
	body := make([]byte, r.ContentLength)
	defer clear(body)
	if _, err := io.ReadFull(http.MaxBytesReader(w, r.Body, maxBody), body); err != nil {
		return req, refuse(http.StatusBadRequest, "reading the body: %v", err)
	}
	if err := decode(body, &req); err != nil {
		return req, refuse(http.StatusBadRequest, "reading the body: %v", err)
	}
	return req, checkCluster(req.Cluster)
}

// checkCluster refuses names that no Kubernetes object can have, since adapters use them for files and directories.
func checkCluster(uc *v1alpha1.UserCluster) error {
	switch {
	case uc == nil:
		return refuse(http.StatusBadRequest, "the call is for no cluster")
	case len(validation.IsDNS1123Label(uc.Namespace)) > 0, len(validation.IsDNS1123Label(uc.Name)) > 0:
		return refuse(http.StatusBadRequest, "the call is for a cluster whose name or namespace is not a name of Kubernetes")
	case uc.UID == "":
		return refuse(http.StatusBadRequest, "the call is for a cluster without a UID")
	}
	return nil
}

// named calls do for a machine if its name is a valid name of a Node.
func named(machine string, do func() error) error {
	if problems := validation.IsDNS1123Subdomain(machine); len(problems) > 0 {
		return refuse(http.StatusBadRequest, "the name of the machine: %s", strings.Join(problems, "; "))
	}
	return do()
}

func write(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone asks again
}
