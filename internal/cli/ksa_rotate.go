package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/preflight"
)

// rotateFlags are the flags of `rotate` that name neither the admin cluster nor a file.
type rotateFlags struct {
	skipPrompt, dryRun bool
	output             output
	waiting            waiting
	many               manyClusters
}

func (a *app) rotate() *cobra.Command {
	var path, kubeconfig string
	var how rotateFlags
	cmd := rotateCommand(&how)
	cmd.Example = `  gkectl update credentials ksa-signing-key rotate --config user-cluster.yaml --kubeconfig kubeconfig
  gkectl update credentials ksa-signing-key rotate --config user-cluster.yaml --skip-prompt --wait
  gkectl update credentials ksa-signing-key rotate --config user-cluster.yaml --kubeconfig kubeconfig --dry-run -o json
  gkectl update credentials ksa-signing-key rotate --kubeconfig kubeconfig --all --older-than 90d --skip-prompt
  gkectl update credentials ksa-signing-key rotate --kubeconfig kubeconfig --all --all-namespaces --dry-run`
	configFlag(cmd, &path)
	kubeconfigFlag(cmd, &kubeconfig)
	cmd.Flags().StringSliceVarP(&how.many.namespaces, "namespace", "n", nil, "`namespace` of the user cluster, with "+
		"--all also several (default \""+v1alpha1.SystemNamespace+"\"; with Cluster API always that of its Cluster)")
	return a.verb(cmd, func(ctx context.Context) error {
		if err := how.check(cmd); err != nil {
			return err
		}
		from := source{path: path, connect: func() (admin, error) { return a.connect(kubeconfig) }}
		if how.many.all {
			c, err := from.connect()
			if err != nil {
				return err
			}
			return a.rotateAll(ctx, c, how)
		}
		if len(how.many.namespaces) > 0 {
			from.namespace = how.many.namespaces[0]
		}
		file, c, err := a.open(from)
		if err != nil {
			return err
		}
		return a.rotateOne(ctx, c, file.Name, how)
	})
}

// rotateCommand returns the rotate command of both programs, without the flags that name the cluster.
func rotateCommand(how *rotateFlags) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Rotate the KSA signing key of a user cluster",
		Long: `Rotate the KSA signing key of a user cluster. Keyturn makes a new key pair, publishes its public key to the
fleet of the cluster and to all other destinations, signs tokens with it, replaces the tokens of running pods in the
way that nodeRefresh says, and deletes the old keys.

The command first shows what will happen: what would stop the rotation, and what the rotation would break. With
--dry-run it stops there; the preview is also available as JSON or YAML. Otherwise it starts the rotation and returns;
with --wait it follows the rotation to its end. A rotation cannot be paused or rolled back. While it runs, no other
rotation and no update of the cluster can start. Keys of advanced clusters cannot be rotated.

With --all, the command rotates the keys of all user clusters of the namespace, or with --all-namespaces of all
namespaces, the oldest keys first. With --selector and --older-than, it rotates only those that they select. The next
rotation starts when one has ended or, with --parallel N, while fewer than N run. Rotations that are already running
come first, whoever started them. No further rotation starts after one is blocked, fails, or has not ended within
--timeout. Clusters whose state does not allow a rotation are skipped. The first failure determines the exit code. With
--all, user clusters are not inspected, so no permission to read Secrets is needed.`,
	}
	skipPromptFlag(cmd, &how.skipPrompt)
	cmd.Flags().BoolVar(&how.dryRun, "dry-run", false, "show what would happen, and change nothing")
	outputFlag(cmd, &how.output, "text", "json", "yaml")
	waitFlags(cmd, &how.waiting, false)
	manyClustersFlags(cmd, &how.many)
	return cmd
}

// check refuses flags that exclude each other.
func (how rotateFlags) check(cmd *cobra.Command) error {
	if err := how.many.check(cmd); err != nil {
		return err
	}
	return onlyDryRun(how.dryRun, how.output)
}

// onlyDryRun refuses an output format that only a dry run has.
func onlyDryRun(dryRun bool, o output) error {
	if !dryRun && o.form != "text" {
		return usage("add --dry-run", "only what a dry run shows can be written as %s", o.form)
	}
	return nil
}

func (a *app) rotateOne(ctx context.Context, c admin, name string, how rotateFlags) error {
	if how.dryRun {
		return a.dryRun(ctx, c, name, how.output)
	}
	version, err := a.startRotation(ctx, c, name, how.skipPrompt)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, a.program.started+"\n", version, c.arguments(name))
	if !how.waiting.wait {
		return nil
	}
	if err := a.follow(ctx, c, name, how.waiting, untilRotated(version)); err != nil {
		return err
	}
	return a.showState(ctx, c, name, output{form: "text"})
}

// startRotation shows what a rotation will do, asks for confirmation, and raises the wanted key version by one.
func (a *app) startRotation(ctx context.Context, c admin, name string, skipPrompt bool) (version int32, err error) {
	uc, err := c.rotatable(ctx, name)
	if err != nil {
		return 0, err
	}
	preview, unseen := c.preview(ctx, uc)
	writePreview(a.Err, uc, preview, unseen)
	question := "A key rotation cannot be paused or rolled back. Do you want to continue?"
	if err := a.confirm(ctx, skipPrompt, question); err != nil {
		return 0, err
	}
	return c.raise(ctx, uc)
}

// dryRun shows what a rotation will do. It fails if it cannot show everything.
func (a *app) dryRun(ctx context.Context, c admin, name string, o output) error {
	uc, err := c.rotatable(ctx, name)
	if err != nil {
		return err
	}
	preview, err := c.preview(ctx, uc)
	if err := errors.Join(err, preview.unread); err != nil {
		return fmt.Errorf("inspecting user cluster %s: %w", name, err)
	}
	return o.write(a.Out, preview, func(w io.Writer) error {
		writePreview(w, uc, preview, nil)
		return nil
	})
}

// rotatable returns a cluster whose key can be rotated now. It checks first what the API server would refuse after the
// question.
func (c admin) rotatable(ctx context.Context, name string) (*v1alpha1.UserCluster, error) {
	uc, err := c.existing(ctx, name)
	if err != nil {
		return nil, err
	}
	if uc.Spec.EnableAdvancedCluster {
		return nil, refused("only clusters with enableAdvancedCluster: false can have their keys rotated",
			"user cluster %s is an advanced cluster: key rotation isn't supported on advanced clusters", name)
	}
	_, err = c.raise(ctx, uc, client.DryRunAll)
	return uc, err
}

// raise raises the wanted key version of a cluster by one, unless the spec has changed since it was read.
func (c admin) raise(
	ctx context.Context, read *v1alpha1.UserCluster, o ...client.PatchOption,
) (version int32, err error) {
	version = read.Spec.KSASigningKey.Version + 1
	err = c.change(ctx, read, func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.Version = version }, o...)
	return version, inWords(err, "raising the key version of user cluster %s", read.Name)
}

// untilRotated returns a look that ends when the key version is the only one.
func untilRotated(version int32) look {
	return func(uc *v1alpha1.UserCluster) (step, detail string, done bool) {
		if uc == nil {
			return "gone", "", false
		}
		s := rotationOf(uc)
		switch {
		case s.KSASigningKeyVersion > version:
			return "key version " + fmt.Sprint(version) + " is replaced by a later rotation", "", true
		case s.done():
			return "completed", "", true
		case s.Step == "":
			return "starting", s.WaitingFor, false
		case blocked(uc):
			return s.Step + isBlocked, s.WaitingFor, false
		}
		return s.Step, s.WaitingFor, false
	}
}

// inspect inspects a user cluster with the kubeconfig that the controller wrote.
func (c admin) inspect(ctx context.Context, uc *v1alpha1.UserCluster) (preflight.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	config, err := c.clientConfig(ctx, uc)
	if err != nil {
		return preflight.Report{}, err
	}
	return preflight.Inspect(ctx, config, uc.Spec.NodeRefresh())
}

// machines finds what keeps Cluster API from replacing the machines of a user cluster.
func (c admin) machines(ctx context.Context, uc *v1alpha1.UserCluster) ([]preflight.Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return preflight.OfMachines(ctx, c.client, uc)
}
