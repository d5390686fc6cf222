package admincluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/machines"
)

// programGrace is how long keyturn-local and the controller may each take to finish.
const programGrace = 15 * time.Second

// DeleteOptions are the options of Delete.
type DeleteOptions struct {
	// Force deletes it even if user clusters are left, and these, too.
	Force bool
	// Progress is called with one line about each step. It may be nil.
	Progress func(string)
}

// Delete stops keyturn-local, the controller and the admin cluster and deletes their files. It refuses while there are
// user clusters.
func (c *Cluster) Delete(ctx context.Context, o DeleteOptions) error {
	if err := c.delete(ctx, o); err != nil {
		return fmt.Errorf("deleting admin cluster: %w", err)
	}
	return nil
}

func (c *Cluster) delete(ctx context.Context, o DeleteOptions) error {
	progress := o.Progress
	if progress == nil {
		progress = func(string) {}
	}
	if unused, err := c.host.Data.IsUnused(); err != nil || unused {
		return err
	}
	if err := errors.Join(c.host.Data.Claim(), c.refuseWithClusters(o.Force)); err != nil {
		return err
	}
	progress("ending keyturn-local")
	lock, err := c.endLocal(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	// Nobody can create clusters any more; one may have been created until now.
	if err := c.refuseWithClusters(o.Force); err != nil {
		return err
	}
	if err := c.deleteAllClusters(ctx, progress); err != nil {
		return err
	}
	progress("ending the admin cluster")
	return c.remove(ctx)
}

// UserClusters returns the names of the user clusters on this host.
func (c *Cluster) UserClusters() ([]string, error) {
	sites, err := c.host.Data.Sites()
	var names []string
	for _, s := range sites {
		names = append(names, nameOf(s))
	}
	return names, err
}

// nameOf returns the name of the user cluster at a site.
func nameOf(s datadir.Site) string { return s.Name[strings.IndexByte(s.Name, '.')+1:] }

func (c *Cluster) refuseWithClusters(force bool) error {
	names, err := c.UserClusters()
	if err != nil || force || len(names) == 0 {
		return err
	}
	return hint.Errorf("delete them first with `gkectl delete cluster`, or together with the admin cluster by --force",
		"there are user clusters: %s", strings.Join(names, ", "))
}

// endLocal stops keyturn-local and returns the lock that it held, which proves that none is left.
func (c *Cluster) endLocal(ctx context.Context) (io.Closer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*programGrace)
	defer cancel()
	run := c.host.Runner(c.Site())
	if err := run.Await(ctx, localName, programGrace); err != nil {
		return nil, err
	}
	for {
		lock, err := c.host.Data.Lock()
		if !errors.Is(err, datadir.ErrLocked) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, hint.Errorf(fmt.Sprintf("end the keyturn-local that uses %s", c.host.Data.Path()), "%w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// deleteAllClusters removes user clusters without their objects. Machines go first, since their disks are in the site's
// directory.
func (c *Cluster) deleteAllClusters(ctx context.Context, progress func(string)) error {
	sites, err := c.host.Data.Sites()
	if err != nil {
		return err
	}
	for _, s := range sites {
		progress("deleting cluster " + nameOf(s))
		if err := repeat(ctx, func() (bool, error) { return machines.RemoveAll(ctx, c.host, s) }); err != nil {
			return err
		}
		if err := repeat(ctx, func() (bool, error) { return c.host.DeleteSite(ctx, s) }); err != nil {
			return err
		}
	}
	return nil
}

// repeat calls step until it is done, fails, or the context ends.
func repeat(ctx context.Context, step func() (done bool, err error)) error {
	return wait.PollUntilContextCancel(ctx, 50*time.Millisecond, true, func(context.Context) (bool, error) {
		return step()
	})
}

// remove stops the processes and removes the files; the caller holds the lock.
func (c *Cluster) remove(ctx context.Context) error {
	if err := c.end(ctx, nil); err != nil {
		return err
	}
	site := c.Site()
	trash := site.Dir + ".deleted"
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("removing admin cluster: %w", err)
	}
	if err := os.Rename(site.Dir, trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing admin cluster: %w", err)
	}
	// After a crash here, there is no admin cluster, not even a part of one; the next call removes what is left.
	c.host.Forget(site)
	return c.host.Data.Remove(trash)
}
