package admincluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/local/serve"
	"github.com/keyturn/keyturn/internal/remote"
)

// interval is how often the processes of the admin cluster are checked.
const interval = time.Second

// Run runs keyturn-local: it holds the lock of the data directory, keeps the admin cluster and its controller running,
// and serves the user clusters to controllers, until ctx ends. The controller gets these flags in addition to those
// that it needs. What Run started keeps running when Run ends.
func (c *Cluster) Run(ctx context.Context, controllerFlags []string) error {
	lock, err := c.host.Data.Lock()
	if err != nil {
		return err
	}
	defer func() { _ = lock.Close() }()
	ctx, cancel := context.WithCancel(ctx)
	var keeping sync.WaitGroup
	defer keeping.Wait()
	defer cancel()
	keeping.Go(func() { c.keep(ctx, controllerFlags) })
	return c.serve(ctx)
}

// serve serves the adapters of user clusters.
func (c *Cluster) serve(ctx context.Context) error {
	p, err := c.parts()
	if err != nil {
		return err
	}
	if err := c.ensureBridge(ctx); err != nil {
		return err
	}
	address := strings.TrimPrefix(c.LocalEndpoint(), "https://")
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", address, err)
	}
	server := serve.Server(c.host)
	server.Credentials = remote.Credentials{Cert: p.PKI("local.crt"), Key: p.PKI("local.key"), CA: p.PKI("local-ca.crt")}
	if c.metrics != nil {
		c.metrics.MustRegister(serve.Metrics(c.host))
		server.Metrics = c.metrics
	}
	return server.Serve(ctx, l)
}

// keep restarts processes of the admin cluster that died.
func (c *Cluster) keep(ctx context.Context, controllerFlags []string) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	news := news{log: c.host.Log}
	for {
		news.tell(errors.Join(c.Ensure(ctx), c.ensureController(controllerFlags)))
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// ensureController starts the controller unless it runs. It does nothing if there is no admin cluster.
func (c *Cluster) ensureController(flags []string) error {
	p, err := c.parts()
	if err != nil || !p.Has(markFile) {
		return err
	}
	path, err := c.host.Programs.Own("keyturn-controller")
	if err != nil {
		return err
	}
	return p.StartProcess(p.controller(path, flags))
}

// news logs problems of the admin cluster when they change, and not at every check.
type news struct {
	log  *slog.Logger
	last string
}

func (n *news) tell(err error) {
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
		n.log.Error("the admin cluster is not kept up", slog.String("error", text), hint.Attr(err))
	}
	n.last = text
}
