package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

func (a *app) updateCluster() *cobra.Command {
	var path, kubeconfig string
	var w waiting
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Change the node pools of a user cluster",
		Long: `Bring a user cluster to what its configuration file says: node pools are added, removed and changed. Everything
else but the algorithm of the next signing key cannot be changed. What changes is shown first.

While a key rotation runs, a cluster cannot be updated.`,
		Example: `  gkectl update cluster --config user-cluster.yaml
  gkectl update cluster --config user-cluster.yaml --kubeconfig kubeconfig --wait=false`,
	}
	configFlag(cmd, &path)
	kubeconfigFlag(cmd, &kubeconfig)
	waitFlags(cmd, &w, true)
	return a.verb(cmd, func(ctx context.Context) error {
		c, admin, err := a.open(path, kubeconfig)
		if err != nil {
			return err
		}
		a.noteUnused(path, c)
		changed, err := a.updateObject(ctx, admin, c.Object())
		if err != nil {
			return err
		}
		if w.wait {
			if err := a.follow(ctx, admin, c.Name, w, untilReady); err != nil {
				return err
			}
		}
		fmt.Fprintln(a.Out, updated(c.Name, changed, w.wait))
		return nil
	})
}

func updated(name string, changed, waited bool) string {
	switch {
	case !changed:
		return fmt.Sprintf("User cluster %s is as its configuration file says; nothing was changed.", name)
	case waited:
		return fmt.Sprintf("User cluster %s is updated.", name)
	}
	return fmt.Sprintf("User cluster %s is being updated.", name)
}

// updateObject shows what changes and asks the admin cluster for it. The wanted key version is not the file's to say.
func (a *app) updateObject(ctx context.Context, c admin, wanted *v1alpha1.UserCluster) (changed bool, err error) {
	old, err := c.existing(ctx, wanted.Name)
	if err != nil {
		return false, err
	}
	fixed, pools := changes(old, wanted)
	if len(fixed) > 0 {
		return false, usage("set these fields back, or create another cluster",
			"fields of user cluster %s that cannot be changed:\n  %s", wanted.Name, strings.Join(fixed, "\n  "))
	}
	if len(pools) == 0 {
		return false, nil
	}
	a.note("User cluster %s changes:\n  %s", wanted.Name, strings.Join(pools, "\n  "))
	err = c.change(ctx, old, func(uc *v1alpha1.UserCluster) {
		uc.Spec.NodePools = wanted.Spec.NodePools
		uc.Spec.KSASigningKey.Algorithm = wanted.Spec.KSASigningKey.Algorithm
	})
	return true, inWords(err, "updating user cluster %s", wanted.Name)
}
