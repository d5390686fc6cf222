// Command keyturn-local runs the admin cluster and the user clusters of this host, and serves the latter to
// controllers.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/keyturn/keyturn/internal/localcmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(localcmd.Run(ctx, os.Args[1:], os.Stderr))
}
