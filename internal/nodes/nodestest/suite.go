// Package nodestest has the conformance suites of nodes.Adapter, nodes.Machines and nodes.Refresher, and machines in
// memory for the tests of their callers.
//
// RunMachines and RunAdapter test the contracts. An adapter gives them a fixture: how to open it, and as many of the
// other hooks as it supports. The tests of a missing hook are skipped.
package nodestest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

var errInjected = errors.New("injected failure")

// defaultPatience is how long a suite waits for the result of an asynchronous call.
const defaultPatience = 30 * time.Second

// eventually repeats try until it returns nil.
func eventually(t *testing.T, what string, patience time.Duration, try func() error) {
	t.Helper()
	if patience == 0 {
		patience = defaultPatience
	}
	// Cleanups run after the context of the test has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-tick.C:
		}
	}
}

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func errorf(is bool, format string, args ...any) error {
	if is {
		return nil
	}
	return fmt.Errorf(format, args...)
}
