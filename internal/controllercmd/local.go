package controllercmd

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/remote"
)

// localFlags name the keyturn-local that runs local clusters.
type localFlags struct {
	endpoint, credentials string
}

const (
	localEndpointFlag    = "local-endpoint"
	localCredentialsFlag = "local-credentials"
)

func (f *localFlags) addFlags(set *flag.FlagSet) {
	set.StringVar(&f.endpoint, localEndpointFlag, "", "https `URL` of the keyturn-local that runs local clusters")
	set.StringVar(&f.credentials, localCredentialsFlag, "",
		"`directory` of the credentials for keyturn-local: tls.crt, tls.key and ca.crt")
}

// check refuses one of the flags without the other.
func (f *localFlags) check() error {
	if (f.endpoint == "") != (f.credentials == "") {
		return fmt.Errorf("--%s and --%s must be used together", localEndpointFlag, localCredentialsFlag)
	}
	return nil
}

// errNoLocal is why a local cluster waits if the controller has no keyturn-local.
var errNoLocal = errors.New("the cluster is local, but keyturn-controller was started without --" + localEndpointFlag +
	" and --" + localCredentialsFlag + ", which name its host")

// infrastructure opens local clusters.
func (f *localFlags) infrastructure() (infrastructure, error) {
	if f.endpoint == "" {
		return local(func() (*remote.Client, error) { return nil, errNoLocal }, nil), nil
	}
	client, err := remote.NewClient(f.endpoint, remote.CredentialsIn(f.credentials))
	if err != nil {
		return infrastructure{}, fmt.Errorf("reaching keyturn-local by --%s and --%s: %w",
			localEndpointFlag, localCredentialsFlag, err)
	}
	return local(func() (*remote.Client, error) { return client, nil }, client.Wakes), nil
}

func local(
	open func() (*remote.Client, error), watch func(context.Context, func(context.Context, types.NamespacedName)),
) infrastructure {
	return infrastructure{
		controlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
			client, err := open()
			if err != nil {
				return nil, err
			}
			return client.ControlPlane(uc), nil
		},
		nodes: func(uc *v1alpha1.UserCluster) (machines, error) {
			client, err := open()
			if err != nil {
				return machines{}, err
			}
			of := client.Machines(uc)
			return machines{pools: uc.Spec.Infrastructure.Local.NodePools, machines: of, refresh: of}, nil
		},
		watch: watch,
	}
}
