// Package a has comments in plain English.
package a

// even reports whether a number is even. It says `says that` and "whatsoever".
func even(n int) bool { return n%2 == 0 }
