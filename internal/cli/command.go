package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// group is a command that does nothing but hold others. Without one of them, or with one that does not exist, it
// is an error, which it would not be by cobra's own rules; only the root then shows its help.
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

// verb makes a command run f. An error of f is not one of the command line.
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

// note tells the user something that is neither data nor an error.
func (a *app) note(format string, args ...any) { fmt.Fprintf(a.Err, format+"\n", args...) }

// addCompletion puts cobra's completion command into place now, to give each shell an example.
func addCompletion(root *cobra.Command, of program) {
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() != "completion" {
			continue
		}
		group(c)
		c.Example = "  # Complete commands, flags and cluster names in this shell.\n  source <(" + of.command + " completion bash)"
		for _, shell := range c.Commands() {
			shell.Example = fmt.Sprintf("  %s completion %s > %s-completion.%[2]s", of.command, shell.Name(), of.agent)
		}
	}
}
