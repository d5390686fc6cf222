package cli

import (
	"context"
	"net/url"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/fleet/discovery/bucketurl"
	"github.com/keyturn/keyturn/internal/local/datadir"
)

// hostFlags are the flags that name where on this host clusters are kept.
type hostFlags struct {
	dataDir, kubeBinDir, network string
}

func (a *app) addHostFlags(cmd *cobra.Command, h *hostFlags) {
	cmd.Flags().StringVar(&h.dataDir, "data-dir", "", "`directory` of the local clusters "+
		"(default /var/lib/keyturn for root, else $XDG_STATE_HOME/keyturn or ~/.local/state/keyturn)")
	cmd.Flags().StringVar(&h.kubeBinDir, "kube-bin-dir", "", "`directory` of the Kubernetes and etcd binaries "+
		"(default $KEYTURN_KUBE_BIN_DIR, else kube next to gkectl)")
	cmd.Flags().StringVar(&h.network, "network", datadir.DefaultNetwork.String(),
		"IPv4 /16 from which local clusters get their addresses")
	must(cmd.MarkFlagDirname("data-dir"))
	must(cmd.MarkFlagDirname("kube-bin-dir"))
}

func (a *app) createAdmin() *cobra.Command {
	var h hostFlags
	var kubeconfig string
	var allow allowFlags
	var images imageFlags
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Create the admin cluster on this host",
		Long: `Create the admin cluster on this host: etcd, an API server that encrypts Secrets at rest, the controller that
creates user clusters and rotates their keys, and keyturn-local, which runs these programs and the user clusters. The
command writes the kubeconfig to a file with mode 0600.

A controller that runs elsewhere needs a client certificate for keyturn-local. The command writes one to the directory
local-credentials next to the kubeconfig. Whoever has it has full control of the user clusters of this host.

A local fleet stands in for Google Cloud: clusters can be registered with it, and pods can exchange their tokens for
access tokens. Next to the kubeconfig, the command writes the key that registers clusters as connect-register-sa.json,
with mode 0600, and the certificate of the fleet as fleet-ca.crt.

User clusters can be registered with the local fleet, and with Google Cloud if they name a key. The controller runs as
your user and has your cloud credentials. The flags --allow-… allow what else user clusters may make it reach.

Clusters that kubeadm made can be adopted if --agent-image names an image that their control-plane nodes can pull.

The command can be run again at any time, for example after a reboot or a crash: it starts what is missing and leaves
the rest unchanged. The host must run Linux. Without root, user clusters cannot have nodes.`,
		Example: `  gkectl create admin
  gkectl create admin --data-dir /srv/keyturn --kubeconfig admin-kubeconfig --kube-bin-dir /opt/kubernetes`,
	}
	a.addHostFlags(cmd, &h)
	allow.add(cmd)
	images.add(cmd)
	kubeconfigFlag(cmd, &kubeconfig)
	cmd.Flags().Lookup("kubeconfig").Usage = "`file` to which the kubeconfig of the admin cluster is written"
	return a.verb(cmd, func(ctx context.Context) error {
		if err := allow.check(); err != nil {
			return err
		}
		return a.createHost(ctx, h, kubeconfig, append(allow.ofController(), images.ofController()...))
	})
}

// allowFlags are the flags that allow what UserClusters may make the controller reach.
type allowFlags struct {
	publish, fleetEndpoints []string
	defaultCredentials      bool
}

func (f *allowFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringArrayVar(&f.publish, "allow-publish", nil,
		"`URL` of a bucket or directory within which user clusters may publish their keys, like file:///var/www/oidc; "+
			"can be repeated")
	cmd.Flags().StringArrayVar(&f.fleetEndpoints, "allow-fleet-endpoint", nil,
		"https `URL` of another fleet with which user clusters may be registered; can be repeated")
	cmd.Flags().BoolVar(&f.defaultCredentials, "allow-default-credentials", false,
		"let user clusters that name no key be registered with Google Cloud with your credentials")
}

func (f *allowFlags) check() error {
	for _, value := range f.publish {
		if err := bucketurl.Validate(value); err != nil {
			return usage("for example --allow-publish file:///var/www/oidc", "--allow-publish %w", err)
		}
	}
	for _, value := range f.fleetEndpoints {
		if u, err := url.Parse(value); err != nil || u.Scheme != "https" || u.Host == "" {
			return usage("for example --allow-fleet-endpoint https://fleet.example.com",
				"--allow-fleet-endpoint is not an https URL")
		}
	}
	return nil
}

// ofController returns the flags of keyturn-controller.
func (f *allowFlags) ofController() []string {
	var flags []string
	for _, url := range f.publish {
		flags = append(flags, "--allow-publish="+url)
	}
	for _, url := range f.fleetEndpoints {
		flags = append(flags, "--allow-fleet-endpoint="+url)
	}
	if f.defaultCredentials {
		flags = append(flags, "--allow-default-credentials")
	}
	return flags
}

// imageFlags are the flags for the images that run on control-plane nodes of adopted clusters.
type imageFlags struct{ agent, signer string }

func (f *imageFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.agent, "agent-image", "",
		"`image` of keyturn-agent, which runs on control-plane nodes of adopted clusters")
	cmd.Flags().StringVar(&f.signer, "signer-image", "",
		"`image` of keyturn-signer, which runs there for adopted clusters with source external")
}

// ofController returns the flags of keyturn-controller.
func (f *imageFlags) ofController() (flags []string) {
	if f.agent != "" {
		flags = append(flags, "--agent-image="+f.agent)
	}
	if f.signer != "" {
		flags = append(flags, "--signer-image="+f.signer)
	}
	return flags
}
