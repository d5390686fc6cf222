package kubeadm

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/controlplane"
)

// plane is what is seen of a control plane.
type plane interface {
	// find finds the API servers, as Find does.
	find(ctx context.Context) (Found, error)
	// served asks one API server, once it is ready, which keys it serves.
	served(ctx context.Context, s Server) (controlplane.Served, error)
	// prove asks it what it accepts. Question.Config and Question.Cluster are not set.
	prove(ctx context.Context, s Server, q controlplane.Question) (controlplane.Proof, error)
	// leaders names components of which none holds its lease, at the time of an API server; empty when all do.
	leaders(ctx context.Context, now time.Time) (string, error)
	// lastLog reads the end of the log of a node's kube-apiserver: of the process before the one of now, if there is one.
	lastLog(ctx context.Context, node string) (string, error)
	// wake has the kubelet of a node see to its kube-controller-manager, once a second at most.
	wake(ctx context.Context, node string, now time.Time) error
	// uploaded reports whether there are keys that kubeadm has uploaded for control-plane nodes that join.
	uploaded(ctx context.Context) (bool, error)
	// dropUpload deletes the keys that kubeadm has uploaded for control-plane nodes that join.
	dropUpload(ctx context.Context) error
}

// reach reaches the API servers of one cluster: any of them, and each alone. It keeps connections.
type reach struct {
	cluster types.UID
	cfg     *rest.Config
	prover  *controlplane.Prover
	// amend adds to what was found; nil: nobody does.
	amend func(context.Context, *Found) error

	mu sync.Mutex
	// own are the connections to each API server.
	own map[string]*connections
}

// connections are those to one API server, and how others use them.
type connections struct {
	cfg       *rest.Config
	transport *http.Transport
}

func newReach(cluster types.UID, cfg *rest.Config, prover *controlplane.Prover) *reach {
	return &reach{cluster: cluster, cfg: cfg, prover: prover, own: map[string]*connections{}}
}

func (r *reach) close() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.own {
		c.transport.CloseIdleConnections()
	}
}

// client reaches any API server.
func (r *reach) client() (kubernetes.Interface, error) { return r.prover.Clients.Get(r.cluster, r.cfg) }

func (r *reach) find(ctx context.Context) (Found, error) {
	client, err := r.client()
	if err != nil {
		return Found{}, err
	}
	found, err := Find(ctx, client)
	if err == nil && r.amend != nil {
		err = r.amend(ctx, &found)
	}
	if err == nil {
		r.forget(found.Servers)
	}
	return found, err
}

// forget closes the connections to API servers that are gone.
func (r *reach) forget(but []Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.own, func(key string, c *connections) bool {
		gone := !slices.ContainsFunc(but, func(s Server) bool { return s.key() == key })
		if gone {
			c.transport.CloseIdleConnections()
		}
		return gone
	})
}

// key names an API server and its port.
func (s Server) key() string { return net.JoinHostPort(s.Node, strconv.Itoa(s.Port)) }

// Times of a connection to one API server.
const (
	idleTimeout   = 30 * time.Second
	askTimeout    = 5 * time.Second
	handshakeTime = 3 * time.Second
)

// config reaches one API server alone, by connections that are kept.
func (r *reach) config(s Server) (*rest.Config, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c, ok := r.own[s.key()]; ok {
		return c.cfg, nil
	}
	c, err := connectTo(r.cfg, s)
	if err != nil {
		return nil, fmt.Errorf("reaching the API server on node %s: %w", s.Node, err)
	}
	r.own[s.key()] = c
	return c.cfg, nil
}

func connectTo(cfg *rest.Config, s Server) (*connections, error) {
	own, err := Config(cfg, s)
	if err != nil {
		return nil, err
	}
	tls, err := rest.TLSConfigFor(own)
	if err != nil {
		return nil, err
	}
	transport := utilnet.SetTransportDefaults(&http.Transport{
		TLSClientConfig: tls, TLSHandshakeTimeout: handshakeTime, IdleConnTimeout: idleTimeout,
		DialContext: own.Dial,
	})
	return &connections{transport: transport, cfg: &rest.Config{
		Host: own.Host, Transport: transport, BearerToken: own.BearerToken, BearerTokenFile: own.BearerTokenFile,
	}}, nil
}

// askAgain is what happens after an API server has not answered.
const askAgain = "Keyturn asks again until it is ready"

func (r *reach) served(ctx context.Context, s Server) (controlplane.Served, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	served, err := r.ask(ctx, s)
	return served, explain(err, apiServer, askAgain)
}

// ask asks an API server that is ready which keys it serves.
func (r *reach) ask(ctx context.Context, s Server) (served controlplane.Served, err error) {
	cfg, err := r.config(s)
	if err != nil {
		return served, err
	}
	client, err := r.prover.Clients.Get(r.cluster, cfg)
	if err != nil {
		return served, err
	}
	if err := client.Discovery().RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err != nil {
		return served, fmt.Errorf("asking whether it is ready: %w", err)
	}
	return r.prover.Served(ctx, r.cluster, cfg)
}

func (r *reach) prove(ctx context.Context, s Server, q controlplane.Question) (controlplane.Proof, error) {
	cfg, err := r.config(s)
	if err != nil {
		return controlplane.Proof{}, err
	}
	q.Cluster, q.Config = r.cluster, cfg
	proof, err := r.prover.Prove(ctx, q)
	return proof, explain(err, apiServer, askAgain)
}

// leaderElected are the components of which one must hold a lease.
var leaderElected = []string{controllerManager, "kube-scheduler"}

// leaders returns which component does not hold its lease yet; empty if all do. A component that falls with an API
// server holds no lease before it runs again.
func (r *reach) leaders(ctx context.Context, now time.Time) (string, error) {
	client, err := r.client()
	if err != nil {
		return "", err
	}
	for _, name := range leaderElected {
		lease, err := client.CoordinationV1().Leases(metav1.NamespaceSystem).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue // it elects no leader
		}
		if err != nil {
			return "", fmt.Errorf("reading the lease of %s: %w", name, err)
		}
		if !held(lease.Spec, now) {
			return name + " to hold its lease", nil
		}
	}
	return "", nil
}

// wakeAnnotation is on the mirror pod of a kube-controller-manager for whose change a kubelet was woken. Its value is
// when.
const wakeAnnotation = "keyturn.dev/woken"

func (r *reach) wake(ctx context.Context, node string, now time.Time) error {
	client, err := r.client()
	if err != nil {
		return err
	}
	// Any change of a mirror pod has the kubelet see to its static pod.
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q}}}`, wakeAnnotation, now.UTC().Format(time.RFC3339))
	mirrors := client.CoreV1().Pods(metav1.NamespaceSystem)
	_, err = mirrors.Patch(ctx, controllerManager+"-"+node, types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

func held(l coordinationv1.LeaseSpec, now time.Time) bool {
	if l.RenewTime == nil || l.LeaseDurationSeconds == nil || l.HolderIdentity == nil || *l.HolderIdentity == "" {
		return false
	}
	return now.Sub(l.RenewTime.Time) < time.Duration(*l.LeaseDurationSeconds)*time.Second
}
