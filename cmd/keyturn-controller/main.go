// Command keyturn-controller rotates the signing keys of the UserClusters of an admin cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/keyturn/keyturn/internal/controllercmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(controllercmd.Run(ctx, os.Args[1:], os.Stderr))
}
