// Command keyturn-controller rotates the signing keys of the UserClusters of an admin cluster.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	// certificate authorities of the web, where the system has none: in an image
	_ "golang.org/x/crypto/x509roots/fallback"

	"github.com/keyturn/keyturn/internal/controllercmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(controllercmd.Run(ctx, os.Args[1:], os.Stderr))
}
