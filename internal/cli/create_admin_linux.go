package cli

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/keyturn/keyturn/internal/local/admincluster"
	"github.com/keyturn/keyturn/internal/local/datadir"
)

// createHost creates the admin cluster on this host. controller are the flags of keyturn-controller.
func (a *app) createHost(ctx context.Context, h hostFlags, kubeconfig string, controller []string) error {
	cluster, err := a.adminCluster(h)
	if err != nil {
		return err
	}
	p := a.progress()
	defer p.end()
	files := hostFiles(kubeconfig)
	err = cluster.Create(ctx, admincluster.CreateOptions{
		Kubeconfig: kubeconfig, Files: files, Controller: controller,
		Progress: func(step string) { p.show(step, "") },
	})
	if err != nil {
		return err
	}
	p.leave(markDone, p.stepBegun)
	fmt.Fprintf(a.Out, "The admin cluster is ready; its kubeconfig is %s.\n", kubeconfig)
	a.note("Next: gkectl create-config cluster")
	a.note("To register user clusters with the local fleet, add this to their configuration files:\n%s",
		connectBlock(cluster, files))
	return nil
}

func (a *app) adminCluster(h hostFlags) (*admincluster.Cluster, error) {
	network, err := netip.ParsePrefix(h.network)
	if err != nil || !network.Addr().Is4() || network.Bits() != 16 || network != network.Masked() {
		return nil, usage("for example --network "+datadir.DefaultNetwork.String(), "--network %q is not an IPv4 /16",
			h.network)
	}
	dir, err := dataDir(h.dataDir, os.Geteuid() == 0, a.Getenv)
	if err != nil {
		return nil, err
	}
	return admincluster.Open(admincluster.Options{
		DataDir:    dir,
		KubeBinDir: cmp.Or(h.kubeBinDir, a.Getenv("KEYTURN_KUBE_BIN_DIR")),
		Network:    network,
	})
}

// dataDir returns the directory of local clusters: the given one, or else the default of the user.
func dataDir(given string, root bool, getenv func(string) string) (string, error) {
	state := getenv("XDG_STATE_HOME")
	switch {
	case given != "":
		return given, nil
	case root:
		return "/var/lib/keyturn", nil
	case filepath.IsAbs(state):
		return filepath.Join(state, "keyturn"), nil
	case getenv("HOME") != "":
		return filepath.Join(getenv("HOME"), ".local", "state", "keyturn"), nil
	}
	return "", usage("name one with --data-dir", "there is no home directory for the local clusters")
}

// hostFiles returns the files next to the kubeconfig file of the admin cluster.
func hostFiles(kubeconfig string) admincluster.Files {
	dir := filepath.Dir(kubeconfig)
	return admincluster.Files{
		FleetKey: filepath.Join(dir, "connect-register-sa.json"), FleetCA: filepath.Join(dir, "fleet-ca.crt"),
		LocalCredentials: filepath.Join(dir, "local-credentials"),
	}
}

// connectBlock returns the part of a configuration file that registers a cluster with the local fleet. Its paths are
// relative to the configuration file, which is expected next to the kubeconfig file.
func connectBlock(cluster *admincluster.Cluster, files admincluster.Files) string {
	return fmt.Sprintf(`gkeConnect:
  projectID: "my-project"
  location: "global"
  registerServiceAccountKeyPath: %q
  endpoint: %q
  stsEndpoint: %[2]q
  certificateAuthorityPath: %[3]q`,
		filepath.Base(files.FleetKey), cluster.FleetEndpoint(), filepath.Base(files.FleetCA))
}
