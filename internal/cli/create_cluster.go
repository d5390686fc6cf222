package cli

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

func (a *app) createCluster() *cobra.Command {
	var from source
	var w waiting
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Create a user cluster",
		Long: `Create the user cluster that a configuration file describes, wait until it is ready, and write its kubeconfig
next to the configuration file as NAME-kubeconfig, with mode 0600. If a file of that name exists and is not a
kubeconfig of the cluster, nothing is created.

With gkeConnect in the file, the cluster is registered with that fleet. The service account key for it is stored in
Secret NAME-gke-connect of the admin cluster. Deleting the cluster deletes it.

If the command was interrupted, run it again: it then waits for the cluster that it began to create.`,
		Example: `  gkectl create cluster --config user-cluster.yaml
  gkectl create cluster --config user-cluster.yaml --kubeconfig kubeconfig --timeout 20m`,
	}
	a.sourceFlags(cmd, &from)
	waitFlags(cmd, &w, true)
	return a.verb(cmd, func(ctx context.Context) error {
		uc, c, err := a.openWanted(from)
		if err != nil {
			return err
		}
		if uc.file.Adopts() {
			return usage("adopt it with `gkectl adopt --config "+from.path+"`",
				"user cluster %s is a cluster that exists already: there is nothing to create", uc.Name)
		}
		file := userKubeconfig(from.path, uc.Name)
		if err := c.checkKubeconfig(ctx, uc.Name, file); err != nil {
			return err
		}
		if err := a.createObject(ctx, c, uc); err != nil {
			return err
		}
		if !w.wait {
			fmt.Fprintf(a.Out, "User cluster %s is being created.\n", uc.Name)
			a.note("Run the same command with --wait to wait for it and to get its kubeconfig.")
			return nil
		}
		if err := a.follow(ctx, c, uc.Name, w, untilReady); err != nil {
			return err
		}
		made, err := c.existing(ctx, uc.Name)
		if err != nil {
			return err
		}
		if err := c.writeKubeconfig(ctx, made, file); err != nil {
			return err
		}
		fmt.Fprintf(a.Out, "User cluster %s is ready; its kubeconfig is %s.\n", uc.Name, file)
		return nil
	})
}

// createObject creates the UserCluster, after the Secret that it names, unless an identical one exists.
func (a *app) createObject(ctx context.Context, c admin, w wanted) error {
	old, err := c.get(ctx, w.Name)
	if err == nil {
		return a.sameObject(ctx, c, old, w)
	}
	if !isMissing(err) {
		return err
	}
	own, err := c.secrets(ctx, w, "")
	if err != nil {
		return err
	}
	err = own.with(ctx, func() error {
		bounded, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		return c.client.Create(bounded, w.DeepCopy())
	})
	if !apierrors.IsAlreadyExists(err) {
		return inWords(err, "creating user cluster %s", w.Name)
	}
	// Another client created it meanwhile.
	if old, err = c.existing(ctx, w.Name); err != nil {
		return err
	}
	return a.sameObject(ctx, c, old, w)
}

// sameObject refuses a UserCluster that differs from the file.
func (a *app) sameObject(ctx context.Context, c admin, old *v1alpha1.UserCluster, w wanted) error {
	if old.DeletionTimestamp != nil {
		return refused("wait until it is gone; `"+a.program.list+"` shows it", "user cluster %s is being deleted", w.Name)
	}
	own, err := c.secrets(ctx, w, old.UID)
	if err != nil {
		return err
	}
	fixed, updates := changes(old, w.UserCluster)
	if len(fixed)+len(updates) > 0 || !own.asWanted() {
		return refused("change it with `"+a.program.update+"`, or choose another name",
			"user cluster %s exists already, and differs from the configuration file", w.Name)
	}
	a.note("User cluster %s exists already.", w.Name)
	return nil
}

// userKubeconfig returns the path of the kubeconfig of a user cluster, next to the configuration file.
func userKubeconfig(configPath, cluster string) string {
	return filepath.Join(filepath.Dir(configPath), cluster+"-kubeconfig")
}
