package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/remote"
)

// adminInterval is how often the processes of the admin cluster are checked.
const adminInterval = time.Second

// Run is keyturn-local: it holds the lock of the data directory, keeps the admin cluster and its controller running,
// and serves the user clusters to controllers, until ctx ends. The controller gets these flags beside those that it
// needs. What Run started goes on when it ends.
func (h *Host) Run(ctx context.Context, controllerFlags []string) error {
	lock, err := h.Lock()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	defer keeping.Wait()
	defer cancel()
	keeping.Go(func() { h.keepAdmin(ctx, controllerFlags) })
	return h.serve(ctx)
}

// serve serves the adapters of user clusters.
func (h *Host) serve(ctx context.Context) error {
	p, err := h.adminPlane()
	if err != nil {
		return err
	}
	if err := h.ensureBridge(ctx); err != nil {
		return err
	}
	address := strings.TrimPrefix(h.LocalEndpoint(), "https://")
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", address, err)
	}
	server := h.server()
	server.Credentials = remote.Credentials{Cert: p.pki("local.crt"), Key: p.pki("local.key"), CA: p.pki("local-ca.crt")}
	return server.Serve(ctx, l)
}

// server has the adapters of this host.
func (h *Host) server() *remote.Server {
	return &remote.Server{
		ControlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
			if err := checkLocal(uc); err != nil {
				return nil, err
			}
			return h.ControlPlane(uc), nil
		},
		Machines: func(uc *v1alpha1.UserCluster) (remote.Machines, error) {
			if err := checkLocal(uc); err != nil {
				return nil, err
			}
			m, err := h.Machines(uc)
			if err != nil {
				return nil, err // not a nil *Machines
			}
			return m, nil
		},
		Watch: h.Watch,
		Log:   h.log,
	}
}

// checkLocal refuses a cluster of another infrastructure.
func checkLocal(uc *v1alpha1.UserCluster) error {
	if uc.Spec.Infrastructure.Local == nil {
		return fmt.Errorf("cluster %s is not local", uc.Name)
	}
	return nil
}

// keepAdmin starts again what dies of the admin cluster.
func (h *Host) keepAdmin(ctx context.Context, controllerFlags []string) {
	ticker := time.NewTicker(adminInterval)
	defer ticker.Stop()
	news := adminNews{log: h.log}
	for {
		news.tell(errors.Join(h.EnsureAdmin(ctx), h.ensureController(controllerFlags)))
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// ensureController starts the controller unless it runs. It does nothing when there is no admin cluster.
func (h *Host) ensureController(flags []string) error {
	p, err := h.adminPlane()
	if err != nil || !exists(p.Path(adminMark)) {
		return err
	}
	path, err := h.program("keyturn-controller")
	if err != nil {
		return err
	}
	return p.start(p.controller(path, flags))
}

// adminNews logs what is the matter with the admin cluster when that changes, and not at every check.
type adminNews struct {
	log  *slog.Logger
	last string
}

func (n *adminNews) tell(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == n.last:
		return
	case text == "":
		n.log.Info("the processes of the admin cluster can be started again")
	default:
		n.log.Error("the admin cluster is not kept up", "error", text)
	}
	n.last = text
}
