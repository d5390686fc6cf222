package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

func (a *app) deleteCluster() *cobra.Command {
	var path, name, kubeconfig, namespace string
	var skipPrompt, force bool
	var w waiting
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Delete a user cluster, or release one that kubeadm made",
		Long: `Delete a user cluster with its nodes, its data and its keys, remove it from its fleet, and wait until it is
gone. This cannot be undone. With --config, the kubeconfig file that "create cluster" wrote next to the configuration
file is removed, too.

An adopted cluster is released instead: it keeps running with its current key. Keyturn removes only what it added to
the cluster, and the copies of its keys in the admin cluster. The cluster can be adopted again.`,
		Example: `  gkectl delete cluster --config user-cluster.yaml
  gkectl delete cluster --cluster my-cluster --kubeconfig kubeconfig --skip-prompt`,
	}
	configFlag(cmd, &path)
	a.clusterFlag(cmd, &name, &kubeconfig)
	cmd.MarkFlagsMutuallyExclusive("config", "cluster")
	kubeconfigFlag(cmd, &kubeconfig)
	fileNamespaceFlag(cmd, &namespace)
	skipPromptFlag(cmd, &skipPrompt)
	cmd.Flags().BoolVar(&force, "force", false, "the same as --skip-prompt")
	waitFlags(cmd, &w, true)
	return a.verb(cmd, func(ctx context.Context) error {
		if name == "" && path == "" {
			return usage("for example --config "+defaultConfigFile+" or --cluster my-cluster", "no user cluster named")
		}
		from := source{path: path, connect: func() (admin, error) { return a.connect(kubeconfig) }, namespace: namespace}
		c, name, err := a.find(from, name)
		if err != nil {
			return err
		}
		uc, err := c.existing(ctx, name)
		if err != nil {
			return err
		}
		if err := a.confirm(ctx, skipPrompt || force, deletion(uc)); err != nil {
			return err
		}
		return a.deleteObject(ctx, c, uc, path, w)
	})
}

// find returns the admin cluster and the name of a user cluster, which a flag names or a configuration file.
func (a *app) find(from source, name string) (admin, string, error) {
	if name == "" {
		file, c, err := a.open(from)
		if err != nil {
			return c, "", err
		}
		return c, file.Name, nil
	}
	c, err := from.connect()
	if from.namespace != "" {
		c = c.in(from.namespace)
	}
	return c, name, err
}

// deleteObject deletes exactly the cluster that the user was asked about, and its kubeconfig file.
func (a *app) deleteObject(ctx context.Context, c admin, uc *v1alpha1.UserCluster, path string, w waiting) error {
	written, _ := c.kubeconfigFile(ctx, uc) // There is none when the cluster never became ready, or was adopted.
	err := c.client.Delete(ctx, uc, client.Preconditions{UID: &uc.UID})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("deleting user cluster %s: %w", uc.Name, err)
	}
	if !w.wait {
		fmt.Fprintf(a.Out, "User cluster %s is being %s.\n", uc.Name, gone(uc))
		return nil
	}
	if err := a.follow(ctx, c, uc.Name, w, untilGone(uc)); err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "User cluster %s is %s.\n", uc.Name, gone(uc))
	if path == "" || uc.Spec.Infrastructure.Adopted() {
		return nil
	}
	file := userKubeconfig(path, uc.Name)
	removed, err := removeKubeconfig(file, written)
	if err == nil && !removed {
		a.note("note: %s was not removed: it is not the file that was written for this cluster", file)
	}
	return err
}

// untilGone returns a look that ends when the cluster is gone, or replaced by another one of its name.
func untilGone(deleted *v1alpha1.UserCluster) look {
	return func(uc *v1alpha1.UserCluster) (step, detail string, done bool) {
		if uc == nil || uc.UID != deleted.UID {
			return "gone", "", true
		}
		if uc.Spec.Infrastructure.Adopted() {
			return "releasing", readyOf(uc).Message, false
		}
		return "deleting", readyOf(uc).Message, false
	}
}

// gone returns what happens to a cluster whose UserCluster is deleted.
func gone(uc *v1alpha1.UserCluster) string {
	if uc.Spec.Infrastructure.Adopted() {
		return "released"
	}
	return "deleted"
}

// deletion returns the question whether to delete a cluster.
func deletion(uc *v1alpha1.UserCluster) string {
	if !uc.Spec.Infrastructure.Adopted() {
		return fmt.Sprintf("Delete user cluster %s with %s and all that runs in it?", uc.Name, count(nodesOf(uc), "node"))
	}
	var first string
	if uc.Spec.KeySource() == v1alpha1.KeySourceExternal {
		first = fmt.Sprintf(" First its API servers read files again, which %s.", convertsEach(wantedServers(uc)))
	}
	return fmt.Sprintf("Release user cluster %s? It runs on with the key that it has, and Keyturn deletes its copies "+
		"of the keys.%s",
		uc.Name, first)
}

func nodesOf(uc *v1alpha1.UserCluster) int {
	var n int
	for _, p := range uc.Status.NodePools {
		n += int(p.Replicas)
	}
	return n
}
