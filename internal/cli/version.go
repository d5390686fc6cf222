package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/version"
)

func (a *app) version() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Show the version of this program",
		Example: fmt.Sprintf("  %[1]s version\n  %[1]s version -o json", a.program.command),
	}
	outputFlag(cmd, &o, "text", "json", "yaml")
	return a.verb(cmd, func(context.Context) error {
		info := version.Get()
		return o.write(a.Out, info, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s %s (commit %s, %s, %s)\n",
				a.program.agent, info.Version, orDash(info.Commit), info.GoVersion, info.Platform)
			return err
		})
	})
}
