// Package thread runs functions that change what a thread sees of the host: its namespaces.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run calls f on a thread that ends with it, so that nothing else ever runs in the namespaces that f made for its
// thread. It is never the main thread, which does not end and stands for the whole process in /proc/self.
func Run(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// As long as this goroutine keeps the main thread, the other gets another one.
			done <- Run(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f() // the goroutine ends locked to its thread, and so the runtime ends the thread
	}()
	return <-done
}
