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

// infrastructure opens what runs a cluster.
type infrastructure struct {
	controlPlane func(*v1alpha1.UserCluster) (controlplane.Adapter, error)
	machines     func(*v1alpha1.UserCluster) (remote.Machines, error)
	// watch calls wake for each cluster of which something has died or was started, until ctx ends.
	watch func(ctx context.Context, wake func(context.Context, types.NamespacedName))
}

// localFlags lead to the keyturn-local that runs the clusters of local infrastructure.
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
		return fmt.Errorf("--%s and --%s are needed together", localEndpointFlag, localCredentialsFlag)
	}
	return nil
}

// errNoLocal is why a local cluster waits for as long as the controller knows no keyturn-local.
var errNoLocal = errors.New("the cluster is local, and keyturn-controller was started without --" + localEndpointFlag +
	" and --" + localCredentialsFlag + ", which lead to its host")

// infrastructure returns what opens the clusters of each infrastructure that is served.
func (f *localFlags) infrastructure() (infrastructure, error) {
	if f.endpoint == "" {
		on := serving(func() (*remote.Client, error) { return nil, errNoLocal })
		on.watch = func(context.Context, func(context.Context, types.NamespacedName)) {} // there is none
		return on, nil
	}
	client, err := remote.NewClient(f.endpoint, remote.CredentialsIn(f.credentials))
	if err != nil {
		return infrastructure{}, fmt.Errorf("reaching keyturn-local by --%s and --%s: %w",
			localEndpointFlag, localCredentialsFlag, err)
	}
	on := serving(func() (*remote.Client, error) { return client, nil })
	on.watch = client.Wakes
	return on, nil
}

// serving refuses the clusters of an infrastructure that this version does not know.
func serving(local func() (*remote.Client, error)) infrastructure {
	of := func(uc *v1alpha1.UserCluster) (*remote.Client, error) {
		if uc.Spec.Infrastructure.Local == nil {
			return nil, errors.New("its infrastructure is not served by this controller, which serves spec.infrastructure.local")
		}
		return local()
	}
	return infrastructure{
		controlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
			client, err := of(uc)
			if err != nil {
				return nil, err
			}
			return client.ControlPlane(uc), nil
		},
		machines: func(uc *v1alpha1.UserCluster) (remote.Machines, error) {
			client, err := of(uc)
			if err != nil {
				return nil, err
			}
			return client.Machines(uc), nil
		},
	}
}
