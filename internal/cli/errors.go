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
	// ExitOK says that it was done.
	ExitOK = 0
	// ExitFailed says that something went wrong on the way.
	ExitFailed = 1
	// ExitUsage says that the command line or a file is wrong; nothing was changed.
	ExitUsage = 2
	// ExitRefused says that the state of the cluster does not allow it; nothing was changed.
	ExitRefused = 3
	// ExitTimeout says that the time to wait was over; what was started goes on.
	ExitTimeout = 4
	// ExitBlocked says that a rotation waits for a person.
	ExitBlocked = 5
	// ExitUnhealthy means that diagnosing found something wrong.
	ExitUnhealthy = 6
	// ExitInterrupted says that a signal ended it; what was started goes on.
	ExitInterrupted = 130
)

func exitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `The exit codes are:

  0    it was done
  1    it failed on the way; the error says at what
  2    the command line or a file is wrong; nothing was changed
  3    the state of the cluster does not allow it, for example because a rotation or an update runs;
       nothing was changed
  4    the time given with --timeout was over; what was started goes on
  5    a rotation is blocked until a person acts (rotate --all); what was started goes on
  6    a check failed (diagnose)
  130  it was interrupted by a signal; what was started goes on`,
	}
}

// maxError bounds the text of an error, in characters: it may quote the API server of somebody else.
const maxError = 8192

// exitError is an error with its exit code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// usage is an error in what was given to gkectl.
func usage(advice, format string, args ...any) error {
	return &exitError{code: ExitUsage, err: hint.Errorf(advice, format, args...)}
}

// refused is an error in what is asked of a cluster in its state.
func refused(advice, format string, args ...any) error {
	return &exitError{code: ExitRefused, err: hint.Errorf(advice, format, args...)}
}

// failed is any other error with a hint.
func failed(advice, format string, args ...any) error {
	return &exitError{code: ExitFailed, err: hint.Errorf(advice, format, args...)}
}

// report tells the user about an error and returns its exit code.
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

// explain finds the exit code of an error, and a hint if neither it nor what it wraps has one.
func (a *app) explain(ctx context.Context, err error) *exitError {
	var e *exitError
	var status apierrors.APIStatus
	var urlError *url.Error
	var netError net.Error
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(ctx.Err(), context.Canceled):
		return &exitError{code: ExitInterrupted, err: errors.New("interrupted")}
	case deniedByPolicy(err):
		errors.As(err, &status)
		return advise(ExitRefused, "wait until the cluster is ready; `"+a.program.list+"` shows it", errors.New(status.Status().Message))
	case apierrors.IsInvalid(err):
		return advise(ExitUsage, "correct the configuration file; `gkectl check-config` checks it without changing anything", err)
	case apierrors.IsUnauthorized(err):
		return advise(ExitFailed, "name a kubeconfig file with valid credentials with --kubeconfig; they may have expired", err)
	case errors.As(err, &status):
		return &exitError{code: ExitFailed, err: err}
	case errors.As(err, &urlError), errors.As(err, &netError):
		return advise(ExitFailed, "the admin cluster does not answer; `gkectl create admin` starts what is missing of a local one", err)
	}
	return &exitError{code: ExitFailed, err: err}
}

// advise gives an error an exit code, and a hint unless it has one.
func advise(code int, advice string, err error) *exitError {
	if hint.Of(err) == "" {
		err = hint.Errorf(advice, "%w", err)
	}
	return &exitError{code: code, err: err}
}

// deniedByPolicy says that a ValidatingAdmissionPolicy of the admin cluster refused a request. RBAC refuses with
// the same status; only the text differs.
func deniedByPolicy(err error) bool {
	return apierrors.IsForbidden(err) && strings.Contains(err.Error(), "ValidatingAdmissionPolicy") && strings.Contains(err.Error(), "denied request")
}

// invalidConfig shows every problem of a configuration file.
func invalidConfig(path string, err error) error {
	if _, ok := errors.AsType[*config.InvalidError](err); !ok {
		return usage("give an existing file with --config, or make one with `gkectl create-config cluster`", "%w", err)
	}
	return usage("correct the file; nothing was changed", "%s is not valid:\n  %s", path, strings.ReplaceAll(err.Error(), "\n", "\n  "))
}
