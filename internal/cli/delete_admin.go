package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyturn/keyturn/internal/local/admincluster"
)

func (a *app) deleteAdmin() *cobra.Command {
	var h hostFlags
	var kubeconfig string
	var force, skipPrompt bool
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Delete the admin cluster on this host",
		Long: `Delete the admin cluster on this host, its controller, its local fleet, its data, and the kubeconfig and
other files that "create admin" wrote. This cannot be undone. Delete the user clusters first, or use --force to delete
them, too.`,
		Example: `  gkectl delete admin
  gkectl delete admin --force --skip-prompt`,
	}
	a.addHostFlags(cmd, &h)
	kubeconfigFlag(cmd, &kubeconfig)
	skipPromptFlag(cmd, &skipPrompt)
	cmd.Flags().BoolVar(&force, "force", false, "delete the user clusters that are left, too")
	return a.verb(cmd, func(ctx context.Context) error {
		cluster, err := a.adminCluster(h)
		if err != nil {
			return err
		}
		question, err := deletionOf(cluster, force)
		if err != nil {
			return err
		}
		if err := a.confirm(ctx, skipPrompt, question); err != nil {
			return err
		}
		return a.deleteHost(ctx, cluster, force, kubeconfig)
	})
}

// deletionOf returns the question that names what is deleted with the admin cluster.
func deletionOf(cluster *admincluster.Cluster, force bool) (question string, err error) {
	names, err := cluster.UserClusters()
	if err != nil {
		return "", err
	}
	switch {
	case len(names) == 0:
		return "Delete the admin cluster?", nil
	case !force:
		return "", refused("delete them first with `gkectl delete cluster`, or together with the admin cluster by --force",
			"there are user clusters: %s", strings.Join(names, ", "))
	}
	return fmt.Sprintf("Delete the admin cluster, its user clusters %s, and all that runs in them?",
		strings.Join(names, ", ")), nil
}

func (a *app) deleteHost(ctx context.Context, cluster *admincluster.Cluster, force bool, kubeconfig string) error {
	var written []string
	files := hostFiles(kubeconfig)
	if sameCluster(kubeconfig, cluster.Site().Path("controller.kubeconfig")) {
		written = append(cluster.FilesLike(files), kubeconfig)
	}
	p := a.progress()
	defer p.end()
	if err := cluster.Delete(ctx, admincluster.DeleteOptions{Force: force,
		Progress: func(step string) { p.show(step, "") }}); err != nil {
		return err
	}
	p.leave(markDone, p.stepBegun)
	fmt.Fprintln(a.Out, "The admin cluster is deleted.")
	for _, path := range written {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing a file of the admin cluster: %w", err)
		}
	}
	if len(written) > 0 {
		_ = os.Remove(files.LocalCredentials) // it stays if it holds anything else
	}
	return nil
}

// sameCluster reports whether two kubeconfig files exist and reach the same cluster.
func sameCluster(path, other string) bool {
	a, errA := reach(path)
	b, errB := reach(other)
	return errA == nil && errB == nil && a.Host == b.Host && len(a.CAData) > 0 && bytes.Equal(a.CAData, b.CAData)
}

func reach(kubeconfig string) (*rest.Config, error) {
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}
