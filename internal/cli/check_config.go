package cli

import (
	"context"
	"fmt"
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

// noteUnused tells which fields of a file do nothing.
func (a *app) noteUnused(path string, c *config.UserCluster) {
	if fields := c.WithoutEffect(); len(fields) > 0 {
		a.note("note: these fields of %s are accepted, but have no effect on a local cluster: %s", path, strings.Join(fields, ", "))
	}
}
