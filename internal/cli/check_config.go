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
	cmd := checkConfigCommand()
	cmd.Example = "  gkectl check-config --config user-cluster.yaml"
	configFlag(cmd, &path)
	return a.verb(cmd, func(context.Context) error { return a.checkFile(path) })
}

// checkConfigCommand returns the check-config command of both programs, without the flag for the file.
func checkConfigCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check-config",
		Short: "Check the configuration file of a user cluster",
		Long: `Check the configuration file of a user cluster, and the files that it names, without any cluster. The command
shows all problems at once, and exits with code 2 if there are any.`,
	}
}

func (a *app) checkFile(path string) error {
	c, err := a.loadWanted(path)
	if err != nil {
		return err
	}
	if c.file.Adopts() {
		fmt.Fprintf(a.Out, "%s is valid: user cluster %s, which Keyturn did not create.\n", path, c.Name)
		return nil
	}
	version := kubernetesVersion(c.UserCluster)
	fmt.Fprintf(a.Out, "%s is valid: user cluster %s with Kubernetes %s.\n", path, c.Name, version)
	return nil
}

// noteFile prints notes and warnings about a valid file and the files that it names.
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
