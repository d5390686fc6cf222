package diagnose

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/preflight"
	"github.com/keyturn/keyturn/internal/controlplane/clusterapi"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
)

// inspectTimeout bounds what is read of a user cluster, which may have thousands of pods.
const inspectTimeout = time.Minute

// GatherCluster reads the facts of one UserCluster, and of the cluster that it is about.
func GatherCluster(ctx context.Context, s Source, uc *v1alpha1.UserCluster) (*ClusterFacts, error) {
	a, err := s.connect()
	if err != nil {
		return nil, fmt.Errorf("using the kubeconfig: %w", err)
	}
	s.Progress("reading the metadata of key Secrets")
	f := &ClusterFacts{Object: uc}
	f.Secrets = read(func() ([]metav1.PartialObjectMetadata, error) { return a.keySecrets(ctx, uc.Name) })
	if uc.Spec.Infrastructure.ClusterAPI != nil {
		f.ClusterAPI = read(func() (string, error) { return a.waitsForClusterAPI(ctx, uc) })
	}
	s.Progress("reaching the user cluster")
	config, err := s.Reach(ctx, uc)
	if err != nil {
		f.Access.Err = err
		return f, nil //nolint:nilerr // it is one of the facts
	}
	f.Access.Value = Access{Endpoint: config.Host, Expires: Expires(config.CertData)}
	if f.Server = read(func() (Server, error) { return ask(ctx, config, "/version") }); f.Server.Err != nil {
		return f, nil //nolint:nilerr // likewise
	}
	return f, f.inspect(ctx, s, config)
}

// Expires is when a client certificate, in PEM, does; nil if there is none.
func Expires(certificate []byte) *time.Time {
	block, _ := pem.Decode(certificate)
	if block == nil {
		return nil
	}
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil
	}
	return &parsed.NotAfter
}

func (a admin) waitsForClusterAPI(ctx context.Context, uc *v1alpha1.UserCluster) (string, error) {
	reader, err := client.New(a.Config, client.Options{})
	if err != nil {
		return "", err
	}
	return clusterapi.Waiting(ctx, reader, uc)
}

// inspect reads the facts of a user cluster that answers.
func (f *ClusterFacts) inspect(ctx context.Context, s Source, config *rest.Config) error {
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("using the kubeconfig of the user cluster: %w", err)
	}
	s.Progress("reading nodes of the user cluster")
	f.Nodes = read(func() ([]corev1.Node, error) {
		list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		return list.Items, nil
	})
	if f.Object.Spec.Infrastructure.Adopted() {
		s.Progress("asking each API server alone")
		f.ControlPlane = read(func() (ControlPlane, error) { return findControlPlane(ctx, client, config) })
	}
	s.Progress("reading what a rotation would meet in the user cluster")
	f.Preflight = read(func() (preflight.Report, error) {
		return preflight.Inspect(ctx, config, f.Object.Spec.NodeRefresh())
	})
	return nil
}

// findControlPlane finds the API servers of a cluster that kubeadm made, and asks each alone whether it is ready.
func findControlPlane(ctx context.Context, client kubernetes.Interface, config *rest.Config) (p ControlPlane,
	err error) {
	found, err := kubeadm.Find(ctx, client)
	if err != nil {
		return p, err
	}
	p.Problems = found.Problems
	for _, s := range found.Servers {
		lone := LoneServer{Node: s.Node, Waiting: s.Waiting, Leaving: s.Leaving, Unlabelled: s.Unlabelled}
		if s.Waiting == "" && !s.Leaving {
			lone.Answer = read(func() (Server, error) { return askAlone(ctx, config, s) })
		}
		p.Servers = append(p.Servers, lone)
	}
	return p, nil
}

func askAlone(ctx context.Context, config *rest.Config, s kubeadm.Server) (Server, error) {
	own, err := kubeadm.Config(config, s)
	if err != nil {
		return Server{}, err
	}
	return ask(ctx, own, "/readyz")
}
