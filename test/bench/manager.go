package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// unlimited is a client limit, in requests a second, that nobody reaches.
const unlimited = "5000"

// withUnlimitedManager runs, while f runs, a kube-controller-manager that only fills legacy tokens, without the client
// limits that the cluster's own one has. That one is stopped meanwhile, and the controller, which would end the
// stranger.
func (p *place) withUnlimitedManager(ctx context.Context, f func() error) (err error) {
	manager, err := p.process("kube-controller-manager", "--service-account-private-key-file=")
	if err != nil {
		return err
	}
	controller, err := p.controller()
	if err != nil {
		return err
	}
	for _, q := range []process{controller, manager} {
		if err := syscall.Kill(q.pid, syscall.SIGSTOP); err != nil {
			return fmt.Errorf("stopping process %d: %w", q.pid, err)
		}
		defer func() { err = errors.Join(err, syscall.Kill(q.pid, syscall.SIGCONT)) }()
	}
	end, err := p.startManager(ctx, manager)
	if err != nil {
		return err
	}
	defer end()
	return f()
}

// startManager starts a kube-controller-manager like another one, and returns what ends it.
func (p *place) startManager(ctx context.Context, like process) (end func(), err error) {
	log, err := os.Create(filepath.Join(p.dir, "unlimited.log"))
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, like.path, unlimitedArgs(like.args)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("starting kube-controller-manager: %w", err), log.Close())
	}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
	}, nil
}

// unlimitedArgs are the arguments without the limits, the server and all controllers but the one for legacy tokens.
func unlimitedArgs(args []string) []string {
	var kept []string
	for _, a := range args {
		name, _, _ := strings.Cut(a, "=")
		switch name {
		case "--kube-api-qps", "--kube-api-burst", "--controllers", "--secure-port", "--use-service-account-credentials":
		default:
			kept = append(kept, a)
		}
	}
	return append(kept, "--kube-api-qps="+unlimited, "--kube-api-burst="+unlimited,
		"--controllers=serviceaccount-token-controller", "--secure-port=0")
}
