// Package a has comments with phrases that are not written. It is whatever.
package a

// even says that a number is even, and that is
// anew in two lines.
func even(n int) bool { return n%2 == 0 }

// odd reports whether a number is odd; `anew` is code.
func odd(n int) bool { return !even(n) }
