package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/adoption"
	"github.com/keyturn/keyturn/internal/cli/preflight"
	"github.com/keyturn/keyturn/internal/printable"
)

func (a *app) updateCluster() *cobra.Command {
	var from source
	var w waiting
	cmd := updateCommand(&w)
	cmd.Use = "cluster"
	cmd.Example = `  gkectl update cluster --config user-cluster.yaml
  gkectl update cluster --config user-cluster.yaml --kubeconfig kubeconfig --wait=false`
	a.sourceFlags(cmd, &from)
	return a.verb(cmd, func(ctx context.Context) error { return a.updateFile(ctx, from, w) })
}

// updateCommand is `update cluster` of gkectl and `update` of the plugin, without the flags that name the cluster.
func updateCommand(w *waiting) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "update",
		Short: "Change the node pools, the keys and the fleet of a user cluster",
		Long: `Update a user cluster to match its configuration file. The command first shows what changes.

It can add, remove and change node pools, except in adopted clusters. It can change the algorithm of the next signing
key, how API servers get their keys (ksaSigningKey.source; this restarts each API server once, one at a time), what
rotations do about the tokens of running pods, and where and for how long public keys are published. It registers a
cluster without a fleet with the fleet that gkeConnect names. In a registered cluster it can change the service
account key, the certificates and the propagation time. Files that the configuration names may have new content.
Everything else cannot be changed.

While a key rotation runs, only what it may need to end can be changed: the service account key, the certificates and
the kubeconfig that the configuration names, ksaSigningKey.retire and retireTimeout, ksaSigningKey.nodeRefresh until
the step Retire (but not to InPlace), and which URLs are removed from ksaSigningKey.publish. A change of
ksaSigningKey.source that does not succeed can be taken back.`,
	}
	waitFlags(cmd, w, true)
	return cmd
}

// updateFile changes a user cluster to match its configuration file.
func (a *app) updateFile(ctx context.Context, from source, w waiting) error {
	want, c, err := a.openWanted(from)
	if err != nil {
		return err
	}
	changed, err := a.updateObject(ctx, c, want)
	if err != nil {
		return err
	}
	if w.wait {
		if err := a.follow(ctx, c, want.Name, w, untilReady); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.Out, updated(want.Name, changed, w.wait))
	return nil
}

func updated(name string, changed, waited bool) string {
	switch {
	case !changed:
		return fmt.Sprintf("User cluster %s matches its configuration file; nothing was changed.", name)
	case waited:
		return fmt.Sprintf("User cluster %s is updated.", name)
	}
	return fmt.Sprintf("User cluster %s is being updated.", name)
}

// updateObject shows what changes and updates the cluster. The file has no say about the wanted key version.
func (a *app) updateObject(ctx context.Context, c admin, w wanted) (changed bool, err error) {
	old, err := c.existing(ctx, w.Name)
	if err != nil {
		return false, err
	}
	own, err := c.secrets(ctx, w, old.UID)
	if err != nil {
		return false, err
	}
	w.keep(old)
	fixed, updates := changes(old, w.UserCluster)
	if len(fixed) > 0 {
		return false, usage("set these fields back, or create another cluster",
			"fields of user cluster %s that cannot be changed:\n  %s", w.Name, strings.Join(fixed, "\n  "))
	}
	updates = append(updates, secretChanges(old, w, own)...)
	if len(updates) == 0 {
		return false, nil
	}
	a.note("User cluster %s changes:\n  %s", w.Name, strings.Join(updates, "\n  "))
	if err := a.checkSource(ctx, c, old, w.UserCluster); err != nil {
		return false, err
	}
	if old.Spec.KSASigningKey.Algorithm != w.Spec.KSASigningKey.Algorithm {
		after := old.DeepCopy()
		after.Spec = w.Spec
		writeFindings(a.Err, preflight.OfAlgorithm(after))
	}
	return true, inWords(c.update(ctx, old, w, own), "updating user cluster %s", w.Name)
}

// checkSource returns an error if API servers of an adopted cluster are to get signers that they cannot have.
func (a *app) checkSource(ctx context.Context, c admin, old, wanted *v1alpha1.UserCluster) error {
	to := wanted.Spec.KeySource()
	if !old.Spec.Infrastructure.Adopted() || to != v1alpha1.KeySourceExternal || old.Spec.KeySource() == to {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	var why []string
	config, err := c.clientConfig(ctx, old)
	if err == nil {
		why, err = adoption.NoSigner(ctx, config)
	}
	if err != nil {
		a.note("warning: whether its API servers can have signers cannot be checked: %s", printable.Line(err.Error()))
		return nil
	}
	if len(why) > 0 {
		return usage("keep ksaSigningKey.source files, or change that first",
			"the API servers of user cluster %s cannot have signers:\n  %s", old.Name, strings.Join(why, "\n  "))
	}
	return nil
}

// secretChanges returns lines that describe how Secrets change, except for a new fleet.
func secretChanges(old *v1alpha1.UserCluster, w wanted, own secrets) (lines []string) {
	if line := keyChange(old, w, own.fleet); line != "" {
		lines = append(lines, line)
	}
	if !own.kubeconfig.hold(w.kubeconfig) {
		lines = append(lines, "~ infrastructure.kubeadm.kubeconfigPath: a new kubeconfig")
	}
	return lines
}

// keyChange describes how the service account key changes, except for a new fleet.
func keyChange(old *v1alpha1.UserCluster, w wanted, secret credentials) string {
	const field = "~ gkeConnect.registerServiceAccountKeyPath: "
	if old.Spec.GKEConnect == nil || w.Spec.GKEConnect == nil {
		return ""
	}
	same := old.Spec.GKEConnect.CredentialsSecret == w.Spec.GKEConnect.CredentialsSecret
	switch {
	case same && secret.hold(w.key):
		return ""
	case w.key == nil:
		return field + "no key; the controller uses its application default credentials"
	}
	return field + "a new key"
}

// update changes the Secret, the spec, or both. The Secret exists as long as the spec names it. If the spec would be
// refused, nothing changes.
func (c admin) update(ctx context.Context, old *v1alpha1.UserCluster, w wanted, own secrets) error {
	edit := func(uc *v1alpha1.UserCluster) {
		version := uc.Spec.KSASigningKey.Version
		uc.Spec.Infrastructure = w.Spec.Infrastructure // fields that cannot change were compared
		uc.Spec.GKEConnect, uc.Spec.KSASigningKey = w.Spec.GKEConnect, w.Spec.KSASigningKey
		uc.Spec.KSASigningKey.Version = version
	}
	if err := c.change(ctx, old, edit, client.DryRunAll); err != nil {
		return err
	}
	err := own.with(ctx, func() error { return c.change(ctx, old, edit) })
	if err != nil || w.key != nil {
		return err
	}
	return own.fleet.remove(ctx)
}
