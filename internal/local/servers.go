package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/process"
)

const (
	// serverGrace is how long an API server may take over the requests that it has; it usually takes about two seconds.
	serverGrace = 20 * time.Second
	// managerGrace is that of a kube-controller-manager, which serves nobody, goes on where another stopped, and takes longer than
	// this to end by itself.
	managerGrace = time.Second
)

func (p *plane) convergeServers(ctx context.Context, v view, target controlplane.Target, keys []keystore.KeyPair) error {
	var errs []error
	for i, s := range v.servers {
		change := serverChange{plane: p, i: i, serverView: s, balancing: v.balancing, mayGo: s.Name == target.Next, live: target.Live}
		if err := change.converge(ctx, target.Keys, keys); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}

// serverChange is the next thing to do about one API server.
type serverChange struct {
	*plane
	i int
	serverView
	// balancing says that the load balancer can be told, mayGo that this server may be taken out, and live that it may change
	// without that.
	balancing, mayGo, live bool
}

func (c *serverChange) converge(ctx context.Context, wanted controlplane.Keys, keys []keystore.KeyPair) error {
	dir := keyDir(c.keyDir(c.Server.Name))
	if c.mayConfigure(wanted) {
		if err := dir.configureServer(wanted, keys); err != nil {
			return err
		}
		c.Configured = wanted
		if c.Running.External && wanted.External {
			c.Running = wanted
		}
		// Crash here: a signer serves its old keys until the next call.
	}
	if err := c.convergeSigner(keys); err != nil {
		return err
	}
	if err := c.move(ctx); err != nil {
		return err
	}
	return dir.tidy(filesOf(c.Configured), filesOf(c.Running))
}

// mayConfigure says that the API server is to be given other keys now.
func (c *serverChange) mayConfigure(wanted controlplane.Keys) bool {
	changes := c.live && c.Configured.External && wanted.External
	return c.Configured.Sign == 0 || (c.mayGo || changes) && !c.Configured.Equal(wanted)
}

// move brings the process one step nearer to running with what is configured.
func (c *serverChange) move(ctx context.Context) error {
	switch {
	case !c.alive:
		return c.bringUp(ctx)
	case c.stopping, c.mayGo && !c.Running.Equal(c.Configured): // keys of a signer are equal at once
		return c.takeDown(ctx)
	case c.healthy && !c.balanced && c.balancing:
		return c.lb.take(ctx, c.Server.Name)
	}
	return nil
}

func (c *serverChange) takeDown(ctx context.Context) error {
	if err := c.leaveBalancer(ctx); err != nil {
		return err
	}
	// Crash here: it serves on, outside the load balancer; the next look goes on, or takes it back in.
	if !c.stopping {
		c.host.log.Info("ending API server", "cluster", c.plane.Name, "process", c.Server.Name)
	}
	gone, err := c.run.Stop(c.Server.Name, serverGrace)
	if err != nil || !gone {
		return err
	}
	return c.bringUp(ctx)
}

// bringUp starts the process outside the load balancer: it listens before it can authorize anybody.
func (c *serverChange) bringUp(ctx context.Context) error {
	if err := c.leaveBalancer(ctx); err != nil {
		return err
	}
	c.Running = controlplane.Keys{}
	return c.ensure(binaryAPIServer, func(path string) process.Spec { return c.apiServer(path, c.i, c.Configured) })
}

func (c *serverChange) leaveBalancer(ctx context.Context) error {
	if !c.balancing {
		return nil
	}
	return c.lb.drain(ctx, c.Server.Name)
}

// convergeManagers restarts those that sign with another key all at once: nobody waits for them.
func (p *plane) convergeManagers(v view, sign int, keys []keystore.KeyPair) error {
	var errs []error
	for i, m := range v.managers {
		if err := p.convergeManager(i, m, sign, keys); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (p *plane) convergeManager(i int, m managerView, sign int, keys []keystore.KeyPair) error {
	dir := keyDir(p.keyDir(m.Name))
	if sign != 0 && m.Configured != sign {
		if err := dir.configure(managerConfig{Sign: sign}, nil, sign, keys); err != nil {
			return err
		}
		m.Configured = sign
	}
	if m.Configured == 0 {
		return nil
	}
	if m.alive && (m.stopping || m.Running != m.Configured) {
		gone, err := p.run.Stop(m.Name, managerGrace)
		if err != nil {
			return err
		}
		m.alive = !gone
	}
	if !m.alive {
		m.Running = 0
		err := p.ensure(binaryManager, func(path string) process.Spec { return p.controllerManager(path, i, m.Configured) })
		if err != nil {
			return err
		}
	}
	return dir.tidy(use{sign: m.Configured}, use{sign: m.Running})
}

func (p *plane) ensureSchedulers() error {
	var errs []error
	for i := range p.secondaries() {
		errs = append(errs, p.ensure(binaryScheduler, func(path string) process.Spec { return p.scheduler(path, i) }))
	}
	return errors.Join(errs...)
}
