// Package faults names the ways in which one write can fail, for conformance suites and for tests that make a write
// fail.
package faults

// Fault is how one write fails.
type Fault int

// The faults. The writer sees the same error for both.
const (
	// None lets the write pass.
	None Fault = iota
	// Failed fails the write without doing it, or without doing all of it.
	Failed
	// FailedButPersisted does the write, but reports a failure.
	FailedButPersisted
)
