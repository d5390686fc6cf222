// Command kubectl-keyturn is a plugin of kubectl that rotates the KSA signing keys of clusters.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/keyturn/keyturn/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once, in case the first is not heeded.
	context.AfterFunc(ctx, stop)
	os.Exit(cli.RunPlugin(ctx, cli.System(), os.Args[1:]))
}
