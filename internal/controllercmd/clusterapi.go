package controllercmd

import (
	"flag"
	"fmt"

	"k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/controlplane/clusterapi"
	"github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/keystore"
)

// clusterAPIFlags are the flags for rotating clusters of Cluster API, in addition to the images of kubeadmFlags.
type clusterAPIFlags struct {
	namespaces []string
}

func (f *clusterAPIFlags) addFlags(set *flag.FlagSet) {
	set.Func("cluster-api-namespace", "`namespace` whose UserClusters may name a Cluster of Cluster API beside them, "+
		"with the rights of an administrator of that cluster; can be repeated (default: none)", f.addNamespace)
}

func (f *clusterAPIFlags) addNamespace(value string) error {
	if problems := validation.ValidateNamespaceName(value, false); len(problems) > 0 {
		return fmt.Errorf("%s", problems[0])
	}
	f.namespaces = append(f.namespaces, value)
	return nil
}

// infrastructure opens clusters of Cluster API, whose objects are in the admin cluster.
func (f *clusterAPIFlags) infrastructure(
	admin client.Client, images kubeadm.Images, keys keystore.Store, prover *controlplane.Prover,
) infrastructure {
	clusters := clusterapi.NewClusters(clusterapi.Options{
		Client: admin, Namespaces: f.namespaces, Images: images, Keys: keys, Prover: prover,
	})
	return infrastructure{
		controlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) { return clusters.Open(uc), nil },
		nodes: func(uc *v1alpha1.UserCluster) (machines, error) {
			return machines{roll: clusters.Roller(uc)}, nil
		},
		object: clusters.Object,
		forget: func(c keystore.Cluster) { clusters.Forget(types.UID(c.UID)) },
	}
}
