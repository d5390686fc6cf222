package cli

import (
	"context"

	"github.com/spf13/cobra"
)

// hostDeletion is how to delete the admin cluster of this host.
type hostDeletion struct {
	// kubeconfig is the file that createHost wrote.
	kubeconfig string
	// force deletes the user clusters that are left, too.
	force, skipPrompt bool
}

func (a *app) deleteAdmin() *cobra.Command {
	var h hostFlags
	var d hostDeletion
	cmd := &cobra.Command{
		Use:   "admin",
		Short: "Delete the admin cluster on this host",
		Long: `Delete the admin cluster on this host, its controller, its local fleet, its data, and the kubeconfig and
other files that "create admin" wrote. This cannot be undone. Delete the user clusters first, or use --force to delete
them, too. The host must run Linux.`,
		Example: `  gkectl delete admin
  gkectl delete admin --force --skip-prompt`,
	}
	a.addHostFlags(cmd, &h)
	kubeconfigFlag(cmd, &d.kubeconfig)
	skipPromptFlag(cmd, &d.skipPrompt)
	cmd.Flags().BoolVar(&d.force, "force", false, "delete the user clusters that are left, too")
	return a.verb(cmd, func(ctx context.Context) error {
		return a.deleteHost(ctx, h, d)
	})
}
