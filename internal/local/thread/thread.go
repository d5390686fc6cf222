// Package thread runs functions that change a thread's view of the host: its namespaces.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run calls f on a thread that ends with it, so that nothing else ever runs in the namespaces that f made for its
// thread. It never uses the main thread, which does not end and represents the whole process in /proc/self.
func Run(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// While this goroutine keeps the main thread, the other gets another one.
			done <- Run(f)
			runtime.UnlockOSThread()
			return
		}
		done <- f() // the goroutine ends while locked to its thread, so the runtime ends the thread
	}()
	return <-done
}
