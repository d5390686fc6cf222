package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"
)

// statusOptions are the flags of status.
type statusOptions struct {
	output  output
	waiting waiting
}

func (a *app) status() *cobra.Command {
	var from source
	var o statusOptions
	cmd := statusCommand(&o)
	cmd.Example = `  gkectl update credentials ksa-signing-key status --config user-cluster.yaml --kubeconfig kubeconfig
  gkectl update credentials ksa-signing-key status --config user-cluster.yaml --kubeconfig kubeconfig --wait
  gkectl update credentials ksa-signing-key status --config user-cluster.yaml --kubeconfig kubeconfig -o json`
	a.sourceFlags(cmd, &from)
	return a.verb(cmd, func(ctx context.Context) error {
		c, admin, err := a.open(from)
		if err != nil {
			return err
		}
		return a.statusOf(ctx, admin, c.Name, o)
	})
}

// statusCommand returns the status command of both programs, without the flags that name the cluster.
func statusCommand(o *statusOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state of a KSA signing key rotation",
		Long: `Show the state of the KSA signing key of a user cluster: the wanted key version, and the observed key
versions of tokens, private key and public keys. The status is True when the wanted version is the only one. The
command prints what a rotation waits for to standard error.

As JSON or YAML, the output also has the step of the rotation, what it waits for and since when, and what is published
where. With --wait, the command first follows a running rotation to its end.`,
	}
	outputFlag(cmd, &o.output, "text", "json", "yaml")
	waitFlags(cmd, &o.waiting, false)
	return cmd
}

func (a *app) statusOf(ctx context.Context, c admin, name string, o statusOptions) error {
	if o.waiting.wait {
		if err := a.awaitRotation(ctx, c, name, o.waiting); err != nil {
			return err
		}
	}
	return a.showState(ctx, c, name, o.output)
}

// awaitRotation follows the rotation to the current wanted key version.
func (a *app) awaitRotation(ctx context.Context, c admin, name string, w waiting) error {
	uc, err := c.existing(ctx, name)
	if err != nil {
		return err
	}
	return a.follow(ctx, c, name, w, untilRotated(uc.Spec.KSASigningKey.Version))
}

func (a *app) showState(ctx context.Context, c admin, name string, o output) error {
	uc, err := c.existing(ctx, name)
	if err != nil {
		return err
	}
	s := rotationOf(uc)
	return o.write(a.Out, s, func(w io.Writer) error {
		if s.Step != "" && s.WaitingFor != "" {
			a.note("step %s waits for %s", s.Step, s.WaitingFor)
		}
		_, err := io.WriteString(w, s.text())
		return err
	})
}
