package probe

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/hint"
)

// The exit codes of the command.
const (
	exitOK      = 0 // done; for report: no refusal of a token that never may be refused
	exitRefused = 1 // report: such a token was refused
	exitUsage   = 2 // the command line is wrong
	exitFailed  = 3 // it could not be done, or, for report, too little was seen to prove anything
)

// Env is what the command takes from its process.
type Env struct {
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	error
}

func (e exitError) Unwrap() error { return e.error }

// Main runs the command keyturn-probe and returns its exit code.
func Main(ctx context.Context, env Env, args []string) int {
	root := &cobra.Command{
		Use:   "keyturn-probe",
		Short: "A workload that uses every kind of service account token all the time and counts refusals",
		Long: "A workload that uses every kind of service account token all the time and counts refusals.\n\n" +
			"Exit codes: 0 done; 1 a token was refused that must be accepted (report);\n" +
			"2 wrong command line; 3 it could not be done, or too little was seen to prove anything.",
		Args:              cobra.NoArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.AddCommand(runCommand(env), reportCommand(env), manifestsCommand(env))
	root.SetArgs(args)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(env.Stderr, "keyturn-probe:", err)
	if advice := hint.Of(err); advice != "" {
		fmt.Fprintln(env.Stderr, "hint:", advice)
	}
	if exit, ok := errors.AsType[exitError](err); ok {
		return exit.code
	}
	return exitUsage // cobra's own errors
}

// failed gives an error the exit code of what could not be done.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return exitError{code: exitFailed, error: err}
}
