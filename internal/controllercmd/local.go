package controllercmd

import (
	"errors"
	"flag"
	"fmt"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/remote"
)

// infrastructure opens what runs a cluster.
type infrastructure struct {
	controlPlane func(*v1alpha1.UserCluster) (controlplane.Adapter, error)
	machines     func(*v1alpha1.UserCluster) (remote.Machines, error)
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

// infrastructure returns that of local clusters.
func (f *localFlags) infrastructure() (infrastructure, error) {
	if f.endpoint == "" {
		return infrastructure{
			controlPlane: func(*v1alpha1.UserCluster) (controlplane.Adapter, error) { return nil, errNoLocal },
			machines:     func(*v1alpha1.UserCluster) (remote.Machines, error) { return nil, errNoLocal },
		}, nil
	}
	client, err := remote.NewClient(f.endpoint, remote.CredentialsIn(f.credentials))
	if err != nil {
		return infrastructure{}, fmt.Errorf("reaching keyturn-local by --%s and --%s: %w",
			localEndpointFlag, localCredentialsFlag, err)
	}
	return infrastructure{
		controlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) { return client.ControlPlane(uc), nil },
		machines:     func(uc *v1alpha1.UserCluster) (remote.Machines, error) { return client.Machines(uc), nil },
	}, nil
}
