package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/config"
)

func (a *app) createConfig() *cobra.Command {
	return group(&cobra.Command{
		Use: "create-config", Short: "Write a configuration file to start from", Example: "  gkectl create-config cluster",
	}, a.createConfigCluster(), a.createConfigPatches())
}

func (a *app) createConfigCluster() *cobra.Command {
	var path, name, version string
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Write a commented configuration file of a user cluster",
		Long: `Write a commented configuration file of a user cluster. It is valid without changes; edit it to your needs.
An existing file is not overwritten.`,
		Example: `  gkectl create-config cluster
  gkectl create-config cluster --config blue.yaml --name blue --gke-on-prem-version 1.35.8-gke.1`,
	}
	configFlag(cmd, &path)
	path = defaultConfigFile
	cmd.Flags().Lookup("config").DefValue = defaultConfigFile
	cmd.Flags().Lookup("config").Usage = "`file` to write, or - for standard output"
	cmd.Flags().StringVar(&name, "name", "my-user-cluster", "`name` of the user cluster")
	cmd.Flags().StringVar(&version, "gke-on-prem-version", config.DefaultVersion, "`version` of the user cluster")
	return a.verb(cmd, func(context.Context) error {
		data, err := config.Template(name, version)
		if err != nil {
			return usage("supported are Kubernetes "+strings.Join(config.Minors(), " and "), "%w", err)
		}
		if path == "-" {
			_, err := a.Out.Write(data)
			return err
		}
		if err := writeNew(path, data); err != nil {
			return err
		}
		fmt.Fprintf(a.Out, "Wrote %s.\n", path)
		a.note("Next: edit it, then gkectl create cluster --config %s", path)
		return nil
	})
}

// writeNew writes a file that does not exist yet.
func writeNew(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return usage("give another name with --config, or delete it first", "%s exists already", path)
	}
	if err != nil {
		return fmt.Errorf("writing the configuration file: %w", err)
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the configuration file: %w", err)
	}
	return nil
}
