package plane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/local/programs"
)

const (
	// serverGrace is how long an API server may take to finish pending requests; it usually takes about two seconds.
	serverGrace = 20 * time.Second
	// managerGrace is the same for a kube-controller-manager. It serves nobody, continues where another stopped, and
	// would take longer to stop on its own.
	managerGrace = time.Second
)

func (p *Plane) convergeServers(ctx context.Context, v view, target controlplane.Target, keys []hostkeys.Key) error {
	var errs []error
	for i, s := range v.servers {
		change := serverChange{
			Plane: p, i: i, serverView: s, wanted: target.Keys,
			balancing: v.balancing, mayGo: s.Name == target.Next, live: target.Live,
		}
		if err := change.converge(ctx, keys); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}

// serverChange is the next change of one API server.
type serverChange struct {
	*Plane
	i int
	serverView
	// wanted are the keys that it should run with in the end.
	wanted controlplane.Keys
	// balancing means that the load balancer answers, mayGo that this server may be restarted, and live that it may
	// change without a restart.
	balancing, mayGo, live bool
}

func (c *serverChange) converge(ctx context.Context, keys []hostkeys.Key) error {
	disk := c.APIServerKeys(c.i)
	if give := c.toConfigure(); !give.IsZero() {
		if err := disk.Configure(give, keys); err != nil {
			return err
		}
		c.Configured = give
		if c.Running.External && give.External {
			c.Running = give
		}
	}
	if err := disk.Repair(keys); err != nil {
		return err
	}
	if err := c.convergeSigner(); err != nil {
		return err
	}
	if err := c.move(ctx); err != nil {
		return err
	}
	return disk.Tidy(c.Running)
}

// toConfigure returns the keys to configure now; zero if nothing needs to be written.
func (c *serverChange) toConfigure() controlplane.Keys {
	live := c.live && c.Configured.External && c.wanted.External
	switch {
	case c.Configured.IsZero(), (c.mayGo || live) && !c.Configured.Equal(c.wanted):
		return c.wanted
	case c.unrecorded:
		return c.Configured
	}
	return controlplane.Keys{}
}

// move takes the next step towards running with what is configured.
func (c *serverChange) move(ctx context.Context) error {
	switch {
	case !c.alive:
		return c.bringUp(ctx)
	case c.stopping:
		return c.takeDown(ctx)
	case c.mayGo && !c.Running.Equal(c.Configured): // keys of a signer are equal at once
		return c.takeOut(ctx)
	}
	return c.comeBack(ctx)
}

// comeBack makes the load balancer use an API server that serves.
func (c *serverChange) comeBack(ctx context.Context) error {
	if !c.healthy || c.balanced || !c.balancing {
		return nil
	}
	return c.lb.take(ctx, c.Server.Name)
}

// takeOut stops an API server if all others serve, or if it refuses tokens that are in use. Nobody else can stop one
// between the check of the others and the moment from which everybody sees that this one is stopping.
func (c *serverChange) takeOut(ctx context.Context) error {
	lock, err := datadir.LockFile(c.Path("take-out.lock"), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, datadir.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	now, err := c.look(ctx)
	if err != nil {
		return err
	}
	refuses := !slices.Contains(c.Running.Verify, c.wanted.Sign)
	if !refuses && !now.othersServe(c.i) {
		return c.comeBack(ctx)
	}
	return c.takeDown(ctx)
}

func (c *serverChange) takeDown(ctx context.Context) error {
	if err := c.leaveBalancer(ctx); err != nil {
		return err
	}
	// After a crash here, it continues to serve, but not through the load balancer; the next round continues, or uses
	// it again.
	if !c.stopping {
		c.host.Log.Info("ending API server", "cluster", c.Plane.Name, "process", c.Server.Name)
	}
	gone, err := c.Processes.Stop(c.Server.Name, serverGrace)
	if err != nil || !gone {
		return err
	}
	return c.bringUp(ctx)
}

// bringUp starts the process without the load balancer, since it listens before it can authorize anybody.
func (c *serverChange) bringUp(ctx context.Context) error {
	if err := c.leaveBalancer(ctx); err != nil {
		return err
	}
	c.Running = controlplane.Keys{}
	return c.EnsureProcess(programs.APIServer,
		func(path string) process.Spec { return c.APIServerProcess(path, c.i, c.Configured) })
}

func (c *serverChange) leaveBalancer(ctx context.Context) error {
	if !c.balancing {
		return nil
	}
	return c.lb.drain(ctx, c.Server.Name)
}

// convergeManagers restarts those that sign with another key all at once, since nobody waits for them.
func (p *Plane) convergeManagers(v view, sign int, keys []hostkeys.Key) error {
	var errs []error
	for i, m := range v.managers {
		if err := p.convergeManager(i, m, sign, keys); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (p *Plane) convergeManager(i int, m managerView, sign int, keys []hostkeys.Key) error {
	disk := p.ControllerManagerKeys(i)
	if m.Configured != sign || m.unrecorded {
		if err := disk.Configure(sign, keys); err != nil {
			return err
		}
		m.Configured = sign
	}
	if m.alive && (m.stopping || m.Running != m.Configured) {
		gone, err := p.Processes.Stop(m.Name, managerGrace)
		if err != nil {
			return err
		}
		m.alive = !gone
	}
	if !m.alive {
		m.Running = 0
		err := p.EnsureProcess(programs.ControllerManager,
			func(path string) process.Spec { return p.ControllerManagerProcess(path, i, m.Configured) })
		if err != nil {
			return err
		}
	}
	return disk.Tidy(m.Running)
}

func (p *Plane) ensureSchedulers() error {
	var errs []error
	for i := range p.Secondaries() {
		errs = append(errs,
			p.EnsureProcess(programs.Scheduler, func(path string) process.Spec { return p.SchedulerProcess(path, i) }))
	}
	return errors.Join(errs...)
}
