package controllercmd

import (
	"errors"
	"flag"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/keystore"
)

// kubeadmFlags are the flags for rotating clusters that kubeadm made.
type kubeadmFlags struct {
	images kubeadm.Images
	own    types.NamespacedName
}

func (f *kubeadmFlags) addFlags(set *flag.FlagSet) {
	set.StringVar(&f.images.Agent, "agent-image", "",
		"`image` of keyturn-agent, which runs on control-plane nodes of kubeadm clusters")
	set.StringVar(&f.images.Signer, "signer-image", "",
		"`image` of keyturn-signer, which runs on these nodes for clusters with source external")
	set.StringVar(&f.images.Namespace, "agent-namespace", kubeadm.DefaultAgentNamespace,
		"`namespace` of keyturn-agent in these clusters, which the controller creates")
	set.Func("own-cluster", "`NAMESPACE/NAME` of the only UserCluster that may be the cluster in which the controller "+
		"runs (default: none)", f.setOwn)
}

func (f *kubeadmFlags) setOwn(value string) error {
	namespace, name, ok := strings.Cut(value, "/")
	if !ok || namespace == "" || name == "" || strings.Contains(name, "/") {
		return errors.New("want NAMESPACE/NAME")
	}
	f.own = types.NamespacedName{Namespace: namespace, Name: name}
	return nil
}

func (f *kubeadmFlags) check() error {
	if problems := validation.ValidateNamespaceName(f.images.Namespace, false); len(problems) > 0 {
		return fmt.Errorf("--agent-namespace: %s", problems[0])
	}
	return nil
}

// infrastructure opens clusters that kubeadm made. own reaches the cluster that the controller runs in.
func (f *kubeadmFlags) infrastructure(
	own *rest.Config, secrets client.Reader, keys keystore.Store, prover *controlplane.Prover,
) infrastructure {
	clusters := &kubeadm.Clusters{
		Access: kubeadm.Access{Secrets: secrets, Own: own, OwnCluster: f.own},
		Images: f.images, Keys: keys, Prover: prover,
	}
	return infrastructure{
		controlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) { return clusters.Open(uc), nil },
		nodes:        func(*v1alpha1.UserCluster) (machines, error) { return machines{}, nil },
		forget:       func(c keystore.Cluster) { clusters.Forget(types.UID(c.UID)) },
	}
}
