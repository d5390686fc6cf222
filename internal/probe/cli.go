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
	exitOK      = 0 // success; report: no token was refused that must never be
	exitRefused = 1 // report: such a token was refused
	exitUsage   = 2 // the command line is invalid
	exitFailed  = 3 // failure; report: too little was observed to prove anything
)

// Env is the environment of the command.
type Env struct {
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// exitError is an error with an exit code.
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
			"Exit codes: 0 success; 1 a token was refused that must be accepted (report);\n" +
			"2 invalid command line; 3 failure, or too little was observed to prove anything.",
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

// failed adds exitFailed to an error.
func failed(err error) error {
	if err == nil {
		return nil
	}
	return exitError{code: exitFailed, error: err}
}
