// Package hint lets an error carry a hint what to do about it, separate from its text. So the hint is never in the
// middle of a wrapping error, and never printed twice.
//
// Errorf makes such an error. Code that shows an error to a person gets the hint with Of, and shows it last.
package hint

import (
	"errors"
	"fmt"
	"log/slog"
)

// hinted is an error with a hint.
type hinted struct {
	error
	hint string
}

func (e *hinted) Unwrap() error { return e.error }

// Hint returns what to do about the error.
func (e *hinted) Hint() string { return e.hint }

// Errorf is fmt.Errorf with a hint: one sentence that says what to do, without a period.
func Errorf(hint, format string, args ...any) error {
	return &hinted{fmt.Errorf(format, args...), hint}
}

// Of returns the outermost hint of an error; empty when it has none.
func Of(err error) string {
	if e, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		return e.Hint()
	}
	return ""
}

// Line returns an error with its hint in one line, for a status that people read.
func Line(err error) string {
	if hint := Of(err); hint != "" {
		return err.Error() + " (" + hint + ")"
	}
	return err.Error()
}

// Attr returns the hint of an error as an attribute of a log; an empty one, which is not written, if there is none.
func Attr(err error) slog.Attr {
	if hint := Of(err); hint != "" {
		return slog.String("hint", hint)
	}
	return slog.Attr{}
}
