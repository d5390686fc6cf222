package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/config"
)

func (a *app) checkConfig() *cobra.Command {
	var path string
	cmd := &cobra.Command{
		Use:   "check-config",
		Short: "Check the configuration file of a user cluster",
		Long: `Check the configuration file of a user cluster, and then the files that it names, without any cluster. All problems
are shown at once, and the exit code is 2 when there are some.`,
		Example: "  gkectl check-config --config user-cluster.yaml",
	}
	configFlag(cmd, &path)
	return a.verb(cmd, func(context.Context) error {
		c, err := a.loadWanted(path)
		if err != nil {
			return err
		}
		if c.file.Adopts() {
			fmt.Fprintf(a.Out, "%s is valid: user cluster %s, which somebody else made.\n", path, c.Name)
			return nil
		}
		version := kubernetesVersion(c.UserCluster)
		fmt.Fprintf(a.Out, "%s is valid: user cluster %s with Kubernetes %s.\n", path, c.Name, version)
		return nil
	})
}

// noteFile tells what to know of a valid file, and of the files that it names.
func (a *app) noteFile(path string, c *config.UserCluster, files config.Files) {
	if fields := c.WithoutEffect(); len(fields) > 0 {
		a.note("note: these fields of %s are accepted, but have no effect: %s", path, strings.Join(fields, ", "))
	}
	for _, note := range slices.Concat(c.Notes(), files.Notes) {
		a.note("note: %s", note)
	}
	for _, warning := range files.Warnings {
		a.note("warning: %s", warning)
	}
}
