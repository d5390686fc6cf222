//go:build !linux

package cli

import (
	"context"
	"runtime"
)

func (a *app) createHost(context.Context, hostFlags, string, []string) error {
	return needsLinux("gkectl create admin makes network namespaces")
}

func (a *app) deleteHost(context.Context, hostFlags, hostDeletion) error {
	return needsLinux("gkectl delete admin removes network namespaces")
}

// needsLinux returns the error of a command that this operating system cannot run, after the reason.
func needsLinux(why string) error {
	return usage("run it on a Linux host; the other commands need only a kubeconfig file of the admin cluster",
		"%s and needs Linux; this host runs %s", why, runtime.GOOS)
}
