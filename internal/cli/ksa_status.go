package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"
)

func (a *app) status() *cobra.Command {
	var path, kubeconfig string
	var o output
	var w waiting
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state of a KSA signing key rotation",
		Long: `Show the state of the KSA signing key of a user cluster: the wanted key version, and the key versions of
tokens, private key and public keys that were observed. The status is True when the wanted version is the only one.
What a rotation waits for is told on standard error.

As JSON or YAML it has the step of the rotation too, what it waits for, since when, and what is published where. With
--wait it follows a rotation that runs to its end first.`,
		Example: `  gkectl update credentials ksa-signing-key status --config user-cluster.yaml --kubeconfig kubeconfig
  gkectl update credentials ksa-signing-key status --config user-cluster.yaml --kubeconfig kubeconfig --wait
  gkectl update credentials ksa-signing-key status --config user-cluster.yaml --kubeconfig kubeconfig -o json`,
	}
	configFlag(cmd, &path)
	kubeconfigFlag(cmd, &kubeconfig)
	outputFlag(cmd, &o, "text", "json", "yaml")
	waitFlags(cmd, &w, false)
	return a.verb(cmd, func(ctx context.Context) error {
		file, c, err := a.open(path, kubeconfig)
		if err != nil {
			return err
		}
		if w.wait {
			if err := a.awaitRotation(ctx, c, file.Name, w); err != nil {
				return err
			}
		}
		return a.showState(ctx, c, file.Name, o)
	})
}

// awaitRotation follows the rotation to the key version that is wanted now.
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
