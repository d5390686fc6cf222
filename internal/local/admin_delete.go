package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/local/machine"
)

// programGrace is how long keyturn-local and the controller may each take to end what they are about.
const programGrace = 15 * time.Second

// DeleteAdminOptions say how to delete the admin cluster.
type DeleteAdminOptions struct {
	// Force deletes it although user clusters are left, and these with it.
	Force bool
	// Progress is told what is being done, one plain line each; nil: nobody is.
	Progress func(string)
}

// DeleteAdmin ends keyturn-local, the controller and the admin cluster and deletes their files. It refuses while there
// are user clusters.
func (h *Host) DeleteAdmin(ctx context.Context, o DeleteAdminOptions) error {
	if err := h.deleteAdmin(ctx, o); err != nil {
		return fmt.Errorf("deleting admin cluster: %w", err)
	}
	return nil
}

func (h *Host) deleteAdmin(ctx context.Context, o DeleteAdminOptions) error {
	progress := o.Progress
	if progress == nil {
		progress = func(string) {}
	}
	if unused, err := h.isUnused(); err != nil || unused {
		return err
	}
	if err := errors.Join(h.claim(), h.refuseWithClusters(o.Force)); err != nil {
		return err
	}
	progress("ending keyturn-local")
	lock, err := h.endLocal(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	// Nobody makes clusters any more; one may have been made until now.
	if err := h.refuseWithClusters(o.Force); err != nil {
		return err
	}
	if err := h.deleteAllClusters(ctx, progress); err != nil {
		return err
	}
	progress("ending the admin cluster")
	return h.removeAdmin(ctx)
}

func (h *Host) refuseWithClusters(force bool) error {
	sites, err := h.Sites()
	if err != nil || force || len(sites) == 0 {
		return err
	}
	var names []string
	for _, s := range sites {
		names = append(names, s.Name[strings.IndexByte(s.Name, '.')+1:])
	}
	return fmt.Errorf("there are user clusters: %s\nhint: delete them first with `gkectl delete cluster`, or together with the admin cluster by --force",
		strings.Join(names, ", "))
}

// endLocal ends keyturn-local and returns the lock that it held, the proof that none is left.
func (h *Host) endLocal(ctx context.Context) (io.Closer, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*programGrace)
	defer cancel()
	run := h.Runner(h.AdminSite())
	if err := run.Await(ctx, localName, programGrace); err != nil {
		return nil, err
	}
	for {
		lock, err := h.Lock()
		if !errors.Is(err, ErrLocked) {
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w\nhint: end the keyturn-local that uses %s", err, h.dataDir)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// deleteAllClusters removes user clusters without their objects: machines first, whose disks are in the site's directory.
func (h *Host) deleteAllClusters(ctx context.Context, progress func(string)) error {
	sites, err := h.Sites()
	if err != nil {
		return err
	}
	for _, s := range sites {
		progress("deleting cluster " + s.Name[strings.IndexByte(s.Name, '.')+1:])
		if err := repeat(ctx, func() (bool, error) { return h.removeMachines(ctx, s) }); err != nil {
			return err
		}
		if err := repeat(ctx, func() (bool, error) { return h.deleteSite(ctx, s) }); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) removeMachines(ctx context.Context, s Site) (gone bool, err error) {
	set := machine.Set{Dir: s.Path("machines"), Owner: h.ID()}
	left, err := set.List()
	if err != nil {
		return false, err
	}
	gone = true
	for _, m := range left {
		g, err := set.Remove(ctx, m.Spec.Name)
		if err != nil {
			return false, err
		}
		gone = gone && g
	}
	return gone, nil
}

// repeat calls step until it is done, fails, or the context ends.
func repeat(ctx context.Context, step func() (done bool, err error)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := step(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// removeAdmin ends the processes and removes the files; the caller holds the lock.
func (h *Host) removeAdmin(ctx context.Context) error {
	if err := h.endAdmin(ctx, nil); err != nil {
		return err
	}
	site := h.AdminSite()
	trash := site.Dir + ".deleted"
	if err := os.RemoveAll(trash); err != nil {
		return fmt.Errorf("removing admin cluster: %w", err)
	}
	if err := os.Rename(site.Dir, trash); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing admin cluster: %w", err)
	}
	// Crash here: there is no admin cluster, and no half of one; the next call removes what is left.
	h.forget(site)
	return h.removeDataDir(trash)
}
