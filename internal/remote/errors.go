package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hint"
)

// failure is the body of an answer with any status other than 200.
type failure struct {
	Message string `json:"message"`
	// Hint is what to do about the error; it may be empty.
	Hint string `json:"hint,omitempty"`
	// Is names what callers may test the error for: see kinds.
	Is []string `json:"is,omitempty"`
}

// kinds are the errors that callers test for, by their names on the wire.
var kinds = map[string]error{
	"stale":            controlplane.ErrStale,
	"noLedger":         controlplane.ErrNoLedger,
	"deadlineExceeded": context.DeadlineExceeded,
	"canceled":         context.Canceled,
	"notExist":         fs.ErrNotExist,
}

// failureOf converts an error for the wire.
func failureOf(err error) failure {
	f := failure{Message: err.Error(), Hint: hint.Of(err)}
	for name, kind := range kinds {
		if errors.Is(err, kind) {
			f.Is = append(f.Is, name)
		}
	}
	return f
}

// callError is an error of an adapter on the other side.
type callError struct {
	message, hint string
	kinds         []error
}

func (e *callError) Error() string { return e.message }

// Hint is the hint of the error on the other side.
func (e *callError) Hint() string { return e.hint }

// Unwrap lets errors.Is find what the error was on the other side.
func (e *callError) Unwrap() []error { return e.kinds }

func (f failure) err() error {
	e := &callError{message: f.Message, hint: f.Hint}
	for _, name := range f.Is {
		if kind, ok := kinds[name]; ok {
			e.kinds = append(e.kinds, kind)
		}
	}
	return e
}

// statusError is the error of a request that did not reach an adapter.
type statusError struct {
	status int
	reason string
}

func (e *statusError) Error() string { return e.reason }

func refuse(status int, format string, args ...any) error {
	return &statusError{status: status, reason: fmt.Sprintf(format, args...)}
}

// writeError answers with an error.
func writeError(w http.ResponseWriter, err error) {
	status := http.StatusUnprocessableEntity
	if refused := new(statusError); errors.As(err, &refused) {
		status = refused.status
	}
	body, jsonErr := json.Marshal(failureOf(err))
	if jsonErr != nil {
		panic(jsonErr) // strings always encode
	}
	write(w, status, body)
}
