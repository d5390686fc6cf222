// Command keyturn-signer signs the service account tokens of one kube-apiserver with keys that the API server does not
// hold. `keyturn-signer ledger` shows which of its tokens are valid.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/keyturn/keyturn/internal/signer/signercmd"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == signercmd.LedgerCommand {
		os.Exit(signercmd.Ledger(os.Args[2:], os.Stdout, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	hangUp := make(chan os.Signal, 1)
	signal.Notify(hangUp, syscall.SIGHUP)
	os.Exit(signercmd.Run(ctx, os.Args[1:], hangUp, os.Stderr))
}
