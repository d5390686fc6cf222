package probe

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	typeddiscoveryv1 "k8s.io/client-go/kubernetes/typed/discovery/v1"
	"k8s.io/client-go/rest"
)

// options describe what run does.
type options struct {
	Pod, Namespace, Node string
	// Workload is how the pod gets its tokens. LegacyToken is its legacy token if that is Environment or Sidecar.
	Workload    Workload
	LegacyToken string
	// Files are read again for each use, unless Workload differs.
	Files Files
	// CAFile holds the certificates that verify API servers.
	CAFile string
	// Audience is the audience of the third-party token.
	Audience string
	// WorkloadIdentity makes the pod use its workload identity, too, unless it is the zero value.
	WorkloadIdentity workloadIdentityOptions
	// Servers are the URLs of the API servers; empty: those that the cluster lists.
	Servers []string
	// Config reaches the cluster, to list its API servers, store the report and watch the legacy Secret. Nil: none of
	// these.
	Config *rest.Config
	// LegacySecret is the Secret whose token is in Files.Legacy; empty: it is not watched.
	LegacySecret string
	// Rate is how many times a second each kind of token is used at each API server, or at the STS.
	Rate float64
	// Timeout is how long a use may take.
	Timeout time.Duration
	// Refresh is how often the list of API servers is read.
	Refresh time.Duration
	// Save is the minimum time between two writes of the report, and SaveLast how long the last write may take.
	Save, SaveLast time.Duration
	// Listen is the address of /metrics, /report and /readyz; empty: none.
	Listen string
	Log    *slog.Logger
}

// defaults returns the options that a pod of Manifests runs with.
func defaults() options {
	dir := "/var/run/secrets/keyturn-probe/"
	return options{
		Files:        Files{Bound: dir + "bound/token", Legacy: dir + "legacy/token", ThirdParty: dir + "third-party/token"},
		CAFile:       dir + "bound/ca.crt",
		Audience:     "keyturn-probe",
		LegacySecret: "keyturn-probe-legacy",
		Rate:         10,
		Timeout:      2 * time.Second,
		Refresh:      5 * time.Second,
		Save:         2 * time.Second,
		SaveLast:     3 * time.Second,
		Listen:       ":8080",
		Log:          slog.New(slog.DiscardHandler),
	}
}

// run uses tokens until ctx ends, or for as long as its workload lives, and then stores the last report.
func run(ctx context.Context, o options) error {
	if life := o.Workload.life(); life > 0 {
		limited, cancel := context.WithTimeout(ctx, life)
		defer cancel()
		ctx = limited
	}
	r, err := newRunner(o)
	if err != nil {
		return err
	}
	stop, err := r.serve()
	if err != nil {
		return err
	}
	defer stop()
	r.run(ctx)
	return nil
}

func newRunner(o options) (*runner, error) {
	if o.Rate <= 0 {
		return nil, fmt.Errorf("rate %v is not above zero", o.Rate)
	}
	if err := o.copyTokens(); err != nil {
		return nil, err
	}
	roots, err := readRoots(o.CAFile)
	if err != nil {
		return nil, fmt.Errorf("reading the certificates of the API servers: %w", err)
	}
	directory, err := fixedDirectory(o.Servers)
	if err != nil {
		return nil, err
	}
	r := &runner{
		options: o, roots: roots, directory: directory,
		rec: newRecorder(o.Pod, o.Node, time.Now()), lanes: map[string]context.CancelFunc{},
	}
	r.rec.report.Workload = o.Workload
	if err := r.openIdentity(); err != nil {
		return nil, err
	}
	if o.Config == nil {
		return r, nil
	}
	return r, r.connect()
}

// openIdentity prepares the use of the workload identity, if it is configured.
func (r *runner) openIdentity() (err error) {
	if r.WorkloadIdentity == (workloadIdentityOptions{}) {
		return nil
	}
	if r.identity, err = newIdentity(r.WorkloadIdentity, r.Timeout); err != nil {
		return err
	}
	r.Files.identity = r.identity.tokenFile
	r.rec.expect(WorkloadIdentity, r.identity.server())
	return nil
}

func readRoots(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds none", file)
	}
	return pool, nil
}

// runner is a running probe.
type runner struct {
	options
	roots     *x509.CertPool
	rec       *recorder
	directory *directory
	// identity is nil if workload identity is not used.
	identity *identity
	core     typedcorev1.CoreV1Interface
	// lanes has a function for each API server's URL that stops using it.
	lanes map[string]context.CancelFunc
	work  sync.WaitGroup
}

// connect sets up what needs the cluster as a whole.
func (r *runner) connect() error {
	core, err := typedcorev1.NewForConfig(r.Config)
	if err != nil {
		return fmt.Errorf("reaching the cluster: %w", err)
	}
	r.core = core
	if len(r.Servers) > 0 {
		return nil
	}
	discovery, err := typeddiscoveryv1.NewForConfig(r.Config)
	if err != nil {
		return fmt.Errorf("reaching the cluster: %w", err)
	}
	r.directory.slices = discovery.EndpointSlices("default")
	return nil
}

func (r *runner) run(ctx context.Context) {
	if r.core != nil {
		r.work.Go(func() { r.keepSaving(ctx) })
	}
	if r.mountsSecret() {
		r.work.Go(func() { followSecret(ctx, r.core.Secrets(r.Namespace), r.LegacySecret, r.rec) })
	}
	if r.identity != nil {
		u := &user{server: r.identity.server(), files: r.Files, identity: r.identity, rec: r.rec}
		r.work.Go(func() { r.lane(ctx, u, WorkloadIdentity) })
	}
	tick := time.NewTicker(r.Refresh)
	defer tick.Stop()
	for ctx.Err() == nil {
		r.follow(ctx)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	r.work.Wait()
	r.saveLast(ctx)
}

// mountsSecret reports whether the legacy token is in a file that follows a Secret, which can be read.
func (r *runner) mountsSecret() bool {
	return r.core != nil && r.LegacySecret != "" && !r.Workload.Copies()
}

// secret returns how to read the token that the Secret of the legacy token holds now; nil if it is not mounted.
func (r *runner) secret() func(context.Context) (string, error) {
	if !r.mountsSecret() {
		return nil
	}
	return func(ctx context.Context) (string, error) {
		s, err := r.core.Secrets(r.Namespace).Get(ctx, r.LegacySecret, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		return string(s.Data[corev1.ServiceAccountTokenKey]), nil
	}
}

// follow uses every API server in the list, and stops using those that left it.
func (r *runner) follow(ctx context.Context) {
	listing, cancel := context.WithTimeout(ctx, r.Refresh)
	defer cancel()
	servers, err := r.directory.list(listing, time.Now())
	if err != nil && ctx.Err() == nil {
		r.Log.Warn("cannot list API servers; using the last known ones", "error", err)
	}
	for server, end := range r.lanes {
		if !slices.Contains(servers, server) {
			end()
			delete(r.lanes, server)
			r.Log.Info("API server left", "server", server)
		}
	}
	for _, server := range servers {
		if r.lanes[server] == nil {
			r.lanes[server] = r.open(ctx, server)
			r.Log.Info("API server joined", "server", server)
		}
	}
}

// open starts one lane for each kind of token, so that none waits for another.
func (r *runner) open(ctx context.Context, server string) context.CancelFunc {
	ctx, cancel := context.WithCancel(ctx)
	client := &http.Client{
		Timeout:       r.Timeout,
		Transport:     transport(r.roots),
		CheckRedirect: stay,
	}
	for _, kind := range r.Workload.kinds() {
		u := &user{server: server, http: client, files: r.Files, audience: r.Audience, rec: r.rec, secret: r.secret()}
		r.work.Go(func() { r.lane(ctx, u, kind) })
	}
	return cancel
}

// stay follows no redirect, since tokens are only for the server that was asked.
func stay(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// transport detects within two seconds that a connection is dead, and closes it.
func transport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2: true,
		HTTP2:             &http.HTTP2Config{SendPingTimeout: time.Second, PingTimeout: time.Second},
		IdleConnTimeout:   30 * time.Second,
	}
}

// lane uses one kind of token at one server at the given rate. It skips uses that are late.
func (r *runner) lane(ctx context.Context, u *user, kind Kind) {
	tick := time.NewTicker(time.Duration(float64(time.Second) / r.Rate))
	defer tick.Stop()
	for {
		u.use(ctx, kind)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
