// Package dashboard serves a read-only web page about the UserClusters of an admin cluster, to the browsers of one
// person on one machine.
//
// Start with Server. It reads the clusters with one list and one watch for all browsers, and sends each browser the
// rows that have changed since its last update (server-sent events). The page is embedded, needs no other host, and
// shows text from clusters only as text.
//
// It answers only GET, only with a Host header of the loopback interface, and only below a path that begins with a
// random token. Other users of the machine and pages of other sites learn nothing.
package dashboard

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// Server serves the page. Its fields must not change while it serves.
type Server struct {
	// Client reads the clusters in Namespace; in all namespaces if that is empty.
	Client    client.WithWatch
	Namespace string
	// AdminCluster is the name of the admin cluster for people.
	AdminCluster string
	// Row and Detail return what is shown of a cluster.
	Row    func(*v1alpha1.UserCluster) Row
	Detail func(*v1alpha1.UserCluster) Detail
}

// Row is what the list shows of a cluster.
type Row struct {
	Namespace      string `json:"namespace"`
	Name           string `json:"name"`
	Infrastructure string `json:"infrastructure"`
	Kubernetes     string `json:"kubernetes"`
	// Revision changes with each change of the cluster.
	Revision string `json:"revision"`
	Phase    Phase  `json:"phase"`
	// State is the phase, or the step of a rotation, in one word.
	State      string `json:"state"`
	WaitingFor string `json:"waitingFor,omitempty"`
	// Since is when the step began, or when the cluster became ready or stopped being ready.
	Since *time.Time `json:"since,omitempty"`
	// KeyVersion is the wanted key version, and KeyCreatedAt when the newest key was stored.
	KeyVersion   int32      `json:"keyVersion"`
	KeyCreatedAt *time.Time `json:"keyCreatedAt,omitempty"`
	// APIServers and Nodes are, for example, "3/3".
	APIServers string `json:"apiServers"`
	Nodes      string `json:"nodes"`
}

// Phase orders clusters by how much they need a person.
type Phase string

// The phases of a cluster.
const (
	PhaseBlocked  Phase = "blocked"
	PhaseRotating Phase = "rotating"
	PhasePending  Phase = "pending"
	PhaseReady    Phase = "ready"
)

// Detail is everything that is shown of one cluster.
type Detail struct {
	Row
	// Status is the status of the UserCluster.
	Status v1alpha1.UserClusterStatus `json:"status"`
	// Tokens are the tokens of the status, as text.
	Tokens   []TokenRow `json:"tokens"`
	Commands Commands   `json:"commands"`
}

// Commands are what a person may run in a shell.
type Commands struct {
	// Describe prints the cluster as JSON, and Tokens asks which tokens are valid.
	Describe string `json:"describe"`
	Tokens   string `json:"tokens"`
}

// TokenRow is a row of the table of tokens.
type TokenRow struct {
	Kind      string     `json:"kind"`
	Workload  string     `json:"workload"`
	Account   string     `json:"account"`
	Audience  string     `json:"audience"`
	Key       string     `json:"key"`
	Count     int64      `json:"count"`
	ExpiresAt *time.Time `json:"expiresAt,omitempty"`
	// Expires describes the expiry if there is no time.
	Expires string `json:"expires,omitempty"`
	Refresh string `json:"refresh"`
}

// maxConnections is how many connections are served at once; a browser uses at most six.
const maxConnections = 64

// Listen listens on a port of the loopback interface; 0 chooses a free one.
func Listen(ctx context.Context, port int) (net.Listener, error) {
	var config net.ListenConfig
	return config.Listen(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// NewToken returns a random token of 26 letters and digits, and at least 128 bits.
func NewToken() string { return rand.Text() }

// URL returns the URL of the page.
func URL(l net.Listener, token string) string {
	return fmt.Sprintf("http://%s/%s/", l.Addr(), token)
}

// Serve serves the page until the context ends, and then closes the listener.
func (s *Server) Serve(ctx context.Context, l net.Listener, token string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	feed := newFeed()
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		(&watcher{Server: s, feed: feed}).run(ctx)
	}()
	server := &http.Server{
		Handler:           s.handler(feed, l.Addr().String(), token),
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	err := server.Serve(netutil.LimitListener(l, maxConnections))
	cancel()
	<-watching
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}
