package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// group makes a command that only holds other commands. Calling it without one of them, or with an unknown one, is an
// error, unlike in cobra by default. Only the root command then shows its help.
func group(cmd *cobra.Command, children ...*cobra.Command) *cobra.Command {
	cmd.AddCommand(children...)
	cmd.DisableFlagsInUseLine = true
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 && !cmd.HasParent() {
			return nil
		}
		if len(args) == 0 {
			var names []string
			for _, c := range cmd.Commands() {
				names = append(names, c.Name())
			}
			return fmt.Errorf("%s needs one of these commands: %s", cmd.CommandPath(), strings.Join(names, ", "))
		}
		text := fmt.Sprintf("unknown command %q for %q", args[0], cmd.CommandPath())
		cmd.SuggestionsMinimumDistance = 2
		if s := cmd.SuggestionsFor(args[0]); len(s) > 0 {
			text += fmt.Sprintf("; did you mean %q?", s[0])
		}
		return fmt.Errorf("%s", text)
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	return cmd
}

// verb makes a command run f. Errors of f do not count as errors of the command line.
func (a *app) verb(cmd *cobra.Command, f func(ctx context.Context) error) *cobra.Command {
	if cmd.Args == nil {
		cmd.Args = cobra.NoArgs
	}
	cmd.DisableFlagsInUseLine = true
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		a.started = true
		return f(cmd.Context())
	}
	return cmd
}

// note prints a message to standard error that is neither data nor an error.
func (a *app) note(format string, args ...any) { fmt.Fprintf(a.Err, format+"\n", args...) }

// addCompletion adds cobra's completion command, with an example for each shell.
func addCompletion(root *cobra.Command, of program) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		group(c)
		c.Example = "  # Complete commands, flags and cluster names in this shell.\n" +
			"  source <(" + of.command + " completion bash)"
		for _, shell := range c.Commands() {
			shell.Example = fmt.Sprintf("  %s completion %s > %s-completion.%[2]s", of.command, shell.Name(), of.agent)
		}
	}
}
