// Command keyturn-signer signs the service account tokens of one kube-apiserver with keys that the API server does not
// hold.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/keyturn/keyturn/internal/signer/signercmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	os.Exit(signercmd.Run(ctx, os.Args[1:], hangUp, os.Stderr))
}
