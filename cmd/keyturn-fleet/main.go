// Command keyturn-fleet is the local fleet: memberships and a security token service, for machines without Google
// Cloud.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/keyturn/keyturn/internal/fleetserver"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(fleetserver.Run(ctx, os.Args[1:], os.Stderr))
}
