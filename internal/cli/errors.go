package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keyturn/keyturn/internal/config"
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/printable"
)

// The exit codes of gkectl.
const (
	// ExitOK: the command succeeded.
	ExitOK = 0
	// ExitFailed: the command failed while it ran.
	ExitFailed = 1
	// ExitUsage: the command line or a file is invalid; nothing was changed.
	ExitUsage = 2
	// ExitRefused: the state of the cluster does not allow it; nothing was changed.
	ExitRefused = 3
	// ExitTimeout: the timeout expired; what was started continues.
	ExitTimeout = 4
	// ExitBlocked: a rotation is blocked until a person acts.
	ExitBlocked = 5
	// ExitUnhealthy: diagnose found a problem.
	ExitUnhealthy = 6
	// ExitInterrupted: a signal ended the command; what was started continues.
	ExitInterrupted = 130
)

func exitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `The exit codes are:

  0    the command succeeded
  1    the command failed while it ran; the error says why
  2    the command line or a file is invalid; nothing was changed
  3    the state of the cluster does not allow it, for example because a rotation or an update runs;
       nothing was changed
  4    the timeout of --timeout expired; what was started continues
  5    a rotation is blocked until a person acts (rotate --all); what was started continues
  6    a check failed (diagnose)
  130  a signal interrupted the command; what was started continues`,
	}
}

// maxError is the longest text of an error, in characters. An error may quote a foreign API server.
const maxError = 8192

// exitError is an error with its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage returns an error about the user's input.
func usage(advice, format string, args ...any) error {
	return &exitError{code: ExitUsage, err: hint.Errorf(advice, format, args...)}
}

// refused returns an error about the state of a cluster.
func refused(advice, format string, args ...any) error {
	return &exitError{code: ExitRefused, err: hint.Errorf(advice, format, args...)}
}

// failed returns any other error with a hint.
func failed(advice, format string, args ...any) error {
	return &exitError{code: ExitFailed, err: hint.Errorf(advice, format, args...)}
}

// report prints an error and returns its exit code.
func (a *app) report(ctx context.Context, err error) int {
	if err == nil {
		return ExitOK
	}
	e := a.explain(ctx, err)
	form := "Error: %s\n"
	if deniedByPolicy(err) {
		form = "Exit with error:\n%s\n"
	}
	fmt.Fprintf(a.Err, form, printable.Text(e.Error(), maxError))
	if advice := hint.Of(e); advice != "" {
		fmt.Fprintf(a.Err, "hint: %s\n", printable.Text(advice, maxError))
	}
	return e.code
}

// explain returns an error with its exit code, and with a hint if it has none yet.
func (a *app) explain(ctx context.Context, err error) *exitError {
	var e *exitError
	var status apierrors.APIStatus
	var urlError *url.Error
	var netError net.Error
	switch {
	case errors.Is(err, errNotInstalled):
		return advise(ExitFailed, a.program.noAdmin, err)
	case errors.As(err, &e):
		return e
	case errors.Is(ctx.Err(), context.Canceled):
		return &exitError{code: ExitInterrupted, err: errors.New("interrupted")}
	case deniedByPolicy(err):
		errors.As(err, &status)
		return advise(ExitRefused, "wait until the cluster is ready; `"+a.program.list+"` shows it",
			errors.New(status.Status().Message))
	case apierrors.IsInvalid(err):
		return advise(ExitUsage,
			"correct the configuration file; `"+a.program.check+"` checks it without changing anything", err)
	case apierrors.IsUnauthorized(err):
		return advise(ExitFailed, "name a kubeconfig file with valid credentials with --kubeconfig; they may have expired",
			err)
	case errors.As(err, &status):
		return &exitError{code: ExitFailed, err: err}
	case errors.As(err, &urlError), errors.As(err, &netError):
		return advise(ExitFailed, "the admin cluster does not answer; "+a.program.down, err)
	}
	return &exitError{code: ExitFailed, err: err}
}

// advise adds an exit code to an error, and a hint if it has none.
func advise(code int, advice string, err error) *exitError {
	if hint.Of(err) == "" {
		err = hint.Errorf(advice, "%w", err)
	}
	return &exitError{code: code, err: err}
}

// deniedByPolicy reports whether a ValidatingAdmissionPolicy of the admin cluster refused a request. RBAC refuses with
// the same status; only the text differs.
func deniedByPolicy(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy") &&
		strings.Contains(err.Error(), "denied request")
}

// invalidConfig returns an error with all problems of a configuration file.
func (a *app) invalidConfig(path string, err error) error {
	if _, ok := errors.AsType[*config.InvalidError](err); !ok {
		return usage(a.program.noFile, "%w", err)
	}
	return usage("correct the file; nothing was changed", "%s is not valid:\n  %s", path,
		strings.ReplaceAll(err.Error(), "\n", "\n  "))
}
