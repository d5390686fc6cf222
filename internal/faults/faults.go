// Package faults names the ways in which one write can fail, for the conformance suites of ports and for tests that
// have a write of a port fail.
package faults

// Fault is how one write fails.
type Fault int

// The faults. Who writes sees the same error for both.
const (
	// None lets the write pass.
	None Fault = iota
	// Failed fails the write, which does not happen, or not wholly.
	Failed
	// FailedButPersisted fails the write, which happens nevertheless.
	FailedButPersisted
)
