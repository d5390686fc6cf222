package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

const (
	requestClients = 32
	requestRounds  = 8
	requestTime    = 3 * time.Second
)

// algorithms are those that clusters can sign with.
var algorithms = []v1alpha1.Algorithm{v1alpha1.ES256, v1alpha1.RS256}

// Requests compares TokenRequests at two clusters that differ in where their only API server gets its keys.
type Requests struct {
	Algorithm v1alpha1.Algorithm `json:"algorithm"`
	// External and Files are the turns; the n-th of each make a round.
	External []Turn `json:"external"`
	Files    []Turn `json:"files"`
	// Least are turns of a bare API server with the least signer that there can be, and LeastFiles those of one with
	// files.
	Least      []Turn `json:"least"`
	LeastFiles []Turn `json:"leastFiles"`
	// Child is the peak memory of the signer's process that signs, and Parent the peak of the one that keeps it
	// running, in MiB.
	Child  float64 `json:"signerChildMiB"`
	Parent float64 `json:"signerParentMiB"`
}

// Turn is what clients saw of one cluster for some seconds.
type Turn struct {
	PerSecond float64 `json:"perSecond"`
	P99       float64 `json:"p99Milliseconds"`
	// CPU is the processor time of the API server and its signer for each token, in milliseconds.
	CPU float64 `json:"cpuMilliseconds"`
	// SignerCPU is how much of it the signer took.
	SignerCPU float64 `json:"signerCPUMilliseconds,omitempty"`
}

// issuer is a cluster with one API server and no nodes, and its clients.
type issuer struct {
	shape
	server process
	// signer is the process that signs; nil without one.
	signer *process
	// clients have a connection each.
	clients []kubernetes.Interface
}

// measureRequests has an API server with a signer and one without issue tokens by turns, for each algorithm.
func measureRequests(ctx context.Context, p *place, r *Results) error {
	for _, algorithm := range algorithms {
		q, err := p.compareRequests(ctx, algorithm)
		if err != nil {
			return fmt.Errorf("%s: %w", algorithm, err)
		}
		r.Requests = append(r.Requests, q)
	}
	return nil
}

func (p *place) compareRequests(ctx context.Context, algorithm v1alpha1.Algorithm) (Requests, error) {
	q := Requests{Algorithm: algorithm}
	external, err := p.newIssuer(ctx, v1alpha1.KeySourceExternal, algorithm)
	if err != nil {
		return q, err
	}
	files, err := p.newIssuer(ctx, v1alpha1.KeySourceFiles, algorithm)
	if err != nil {
		return q, err
	}
	for i := range requestRounds + 1 {
		p.say("TokenRequests, %s, round %d of %d", algorithm, i, requestRounds)
		err := inTurn(i,
			func() error { return note(&q.External)(external.turn(ctx)) },
			func() error { return note(&q.Files)(files.turn(ctx)) })
		if err != nil {
			return q, err
		}
	}
	q.External, q.Files = q.External[1:], q.Files[1:] // the first ones made the connections
	if q.Child, q.Parent, err = external.signerMemory(); err != nil {
		return q, err
	}
	if err := errors.Join(p.deleteCluster(ctx, external.name), p.deleteCluster(ctx, files.name)); err != nil {
		return q, err
	}
	return q, p.compareLeast(ctx, &q)
}

// newIssuer creates a cluster, and a ServiceAccount whose tokens will be asked for.
func (p *place) newIssuer(ctx context.Context, source v1alpha1.KeySource, algorithm v1alpha1.Algorithm) (*issuer, error) {
	s := &issuer{shape: shape{name: strings.ToLower(fmt.Sprintf("%s-%s", algorithm, source)), servers: 1, source: source, algorithm: algorithm}}
	if err := p.createCluster(ctx, s.shape); err != nil {
		return nil, err
	}
	if err := p.connect(ctx, s); err != nil {
		return nil, err
	}
	if err := makeRobot(ctx, s.clients[0]); err != nil {
		return nil, err
	}
	return s, p.findProcesses(s)
}

// connect makes clients of the API server itself: the load balancer would only cost processor time.
func (p *place) connect(ctx context.Context, s *issuer) error {
	uc, err := p.cluster(ctx, s.name)
	if err != nil {
		return err
	}
	if len(uc.Status.APIServers) != 1 {
		return fmt.Errorf("cluster %s shows %d API servers, want one", s.name, len(uc.Status.APIServers))
	}
	cfg, err := p.restConfig(p.userKubeconfig(s.name))
	if err != nil {
		return err
	}
	cfg.Host = uc.Status.APIServers[0].Endpoint
	s.clients, err = connections(cfg)
	return err
}

func (p *place) findProcesses(s *issuer) error {
	of := v1alpha1.SystemNamespace + "." + s.name + "/"
	server, err := p.process("kube-apiserver", of)
	if err != nil {
		return err
	}
	s.server = server
	if s.source == v1alpha1.KeySourceExternal {
		child, err := p.process("keyturn-signer", of, "--state-file=") // which its parent is started without
		if err != nil {
			return err
		}
		s.signer = &child
	}
	return nil
}

// turn has the clients ask for tokens for a while.
func (s *issuer) turn(ctx context.Context) (Turn, error) {
	serverBefore, signerBefore, err := s.cpu()
	if err != nil {
		return Turn{}, err
	}
	began := time.Now()
	t, err := request(ctx, s.clients)
	if err != nil {
		return Turn{}, fmt.Errorf("requesting tokens of cluster %s: %w", s.name, err)
	}
	tokens := t.PerSecond * time.Since(began).Seconds()
	server, signer, err := s.cpu()
	t.SignerCPU = (signer - signerBefore).Seconds() * 1000 / tokens
	t.CPU = (server-serverBefore).Seconds()*1000/tokens + t.SignerCPU
	return t, err
}

// request has clients ask for tokens for a while.
func request(ctx context.Context, clients []kubernetes.Interface) (t Turn, err error) {
	t.PerSecond, t.P99, err = busy(ctx, len(clients), requestTime, func(ctx context.Context, i int) error {
		_, err := clients[i].CoreV1().ServiceAccounts(metav1.NamespaceDefault).CreateToken(ctx, robot,
			&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		return err
	})
	return t, err
}

// cpu is the processor time that the API server and the signer have used.
func (s *issuer) cpu() (server, signer time.Duration, err error) {
	if server, err = s.server.cpu(); err != nil || s.signer == nil {
		return server, 0, err
	}
	signer, err = s.signer.cpu()
	return server, signer, err
}

// signerMemory returns the peaks of the signer's two processes, in MiB.
func (s *issuer) signerMemory() (child, parent float64, err error) {
	if child, err = s.signer.megabytes("VmHWM"); err != nil {
		return 0, 0, fmt.Errorf("reading the memory of the signer that was there before the load: %w", err)
	}
	above, err := s.signer.parent()
	if err != nil {
		return 0, 0, err
	}
	parent, err = above.megabytes("VmHWM")
	return child, parent, err
}
