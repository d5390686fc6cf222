// Command keyturn-agent changes the signing keys of the control-plane node on which its pod runs.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/keyturn/keyturn/internal/agent/agentcmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(agentcmd.Run(ctx, os.Args[1:], agentcmd.IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr}))
}
