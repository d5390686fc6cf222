package datadir

import (
	"github.com/keyturn/keyturn/internal/hint"

	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/atomicfile"
)

// maxSites is how many user clusters fit on a host: the /24s of a /16 except the admin cluster's and the last.
const maxSites = 254

// siteRecord is the entry of a user cluster's site in the registry, for as long as the site exists.
type siteRecord struct {
	Name     string `json:"name"`
	Index    int    `json:"index"`
	Loopback bool   `json:"loopback,omitempty"`
	// UID is the UID of the UserCluster that the site was made for.
	UID types.UID `json:"uid,omitempty"`
}

// SiteName returns the name of a user cluster's site. Neither part contains a dot.
func SiteName(uc *v1alpha1.UserCluster) string { return uc.Namespace + "." + uc.Name }

// AdminSite returns the site of the admin cluster.
func (d *Dir) AdminSite() Site {
	return Site{Name: "admin", Index: 0, Dir: d.Path("admin"), Network: d.network, Loopback: true}
}

// HostSite returns the site of the local fleet and keyturn-local: a bridge without machines, whose addresses machines
// of every user cluster reach by their default route. On loopback there are no machines.
func (d *Dir) HostSite() Site {
	s := d.AdminSite()
	s.Loopback = d.loopback
	return s
}

// Sites returns the sites of user clusters, by index.
func (d *Dir) Sites() ([]Site, error) {
	records, err := d.readSites()
	if err != nil {
		return nil, err
	}
	var sites []Site
	for _, r := range records {
		sites = append(sites, d.site(r))
	}
	return sites, nil
}

// Site returns the site of a user cluster by the name that SiteName returns; false if there is none.
func (d *Dir) Site(name string) (Site, bool, error) {
	sites, err := d.Sites()
	if err != nil {
		return Site{}, false, err
	}
	i := slices.IndexFunc(sites, func(s Site) bool { return s.Name == name })
	if i < 0 {
		return Site{}, false, nil
	}
	return sites[i], true, nil
}

// SiteOf returns the site of a user cluster; false if there is none. A cluster that lives in another data directory is
// an error: made again here, it would get new API servers, and its keys would be deleted once these had new ones. A
// site of another cluster is ErrTaken.
func (d *Dir) SiteOf(uc *v1alpha1.UserCluster) (Site, bool, error) {
	if err := d.checkHome(uc.Name, homeOf(uc)); err != nil {
		return Site{}, false, err
	}
	site, ok, err := d.Site(SiteName(uc))
	if err != nil || !ok {
		return Site{}, false, err
	}
	if err := d.checkOwner(site, uc.UID); err != nil {
		return Site{}, false, err
	}
	return site, true, nil
}

// Find is SiteOf for code that may create or delete the cluster: a directory that the registry does not list means that
// the registry is lost, not that there is no cluster.
func (d *Dir) Find(uc *v1alpha1.UserCluster) (Site, bool, error) {
	site, ok, err := d.SiteOf(uc)
	if err != nil || ok {
		return site, ok, err
	}
	dir := d.site(siteRecord{Name: SiteName(uc)}).Dir
	switch _, err := os.Lstat(dir); {
	case errors.Is(err, fs.ErrNotExist):
		return Site{}, false, nil
	case err != nil:
		return Site{}, false, err
	}
	return Site{}, false, hint.Errorf("restore the registry",
		"%s exists, but the registry of clusters %s does not list it", dir, d.RegistryPath())
}

// ErrTaken means that a site belongs to another UserCluster: one of the same name in another admin cluster, or an
// earlier one of that name.
var ErrTaken = errors.New("another UserCluster of this name has a cluster on this host")

func (d *Dir) checkOwner(site Site, uid types.UID) error {
	if site.UID == uid || site.UID == "" {
		return nil
	}
	return hint.Errorf(fmt.Sprintf("give one of them another name; or, if that UserCluster is gone "+
		"and this one replaces it, write the new UID into %s", d.RegistryPath()),
		"%w: its UID is %s, and not %s", ErrTaken, site.UID, uid)
}

// homeOf returns the ID of the data directory that a cluster was seen to live in; empty if it was not seen yet.
func homeOf(uc *v1alpha1.UserCluster) string {
	if local := uc.Status.Infrastructure.Local; local != nil {
		return local.Home
	}
	return ""
}

// checkHome refuses a cluster that lives in another data directory.
func (d *Dir) checkHome(cluster, home string) error {
	if home == "" || home == d.ID() {
		return nil
	}
	return hint.Errorf(fmt.Sprintf("let keyturn-controller use the keyturn-local of the data directory in whose %s that "+
		"id is", markFile),
		"cluster %s lives in the data directory with id %s, and not in %s", cluster, home, d.path)
}

// EnsureSite returns the site of a user cluster, and makes one with the lowest free index if there is none. A site
// without a UserCluster becomes that of this one, and one of another is ErrTaken.
func (d *Dir) EnsureSite(name string, uid types.UID) (Site, error) {
	if err := d.KeepNetwork(); err != nil {
		return Site{}, err
	}
	var site Site
	err := d.changeSites(func(records []siteRecord) ([]siteRecord, error) {
		if i := slices.IndexFunc(records, func(r siteRecord) bool { return r.Name == name }); i >= 0 {
			if err := d.checkOwner(d.site(records[i]), uid); err != nil {
				return nil, err
			}
			records[i].UID = uid
			site = d.site(records[i])
			return records, nil
		}
		index, err := freeIndex(records)
		if err != nil {
			return nil, err
		}
		r := siteRecord{Name: name, Index: index, Loopback: d.loopback, UID: uid}
		site = d.site(r)
		return append(records, r), nil
	})
	if err != nil {
		return Site{}, fmt.Errorf("finding a site for cluster %s: %w", name, err)
	}
	// After a crash here, the site is registered but has no directory; the next call creates it.
	return site, os.MkdirAll(site.Dir, 0o700)
}

// RemoveSite deletes the site's directory and then frees its index. Nothing of it may run any more.
func (d *Dir) RemoveSite(name string) error {
	return d.changeSites(func(records []siteRecord) ([]siteRecord, error) {
		i := slices.IndexFunc(records, func(r siteRecord) bool { return r.Name == name })
		if i < 0 {
			return records, nil
		}
		if err := removeTree(d.site(records[i]).Dir); err != nil {
			return nil, fmt.Errorf("removing directory of cluster %s: %w", name, err)
		}
		// After a crash here, the index is still taken; the next call removes an empty site.
		return slices.Delete(records, i, i+1), nil
	})
}

func (d *Dir) site(r siteRecord) Site {
	return Site{
		Name: r.Name, Index: r.Index, Dir: filepath.Join(d.path, "clusters", r.Name),
		Network: d.network, Loopback: r.Loopback, UID: r.UID,
	}
}

func freeIndex(records []siteRecord) (int, error) {
	for index := 1; index <= maxSites; index++ {
		if !slices.ContainsFunc(records, func(r siteRecord) bool { return r.Index == index }) {
			return index, nil
		}
	}
	return 0, fmt.Errorf("this host has its limit of %d clusters", maxSites)
}

// RegistryPath returns the path of the file that lists the sites of user clusters.
func (d *Dir) RegistryPath() string { return d.Path("sites.json") }

func (d *Dir) readSites() ([]siteRecord, error) {
	raw, err := os.ReadFile(d.RegistryPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading registry of clusters: %w", err)
	}
	var records []siteRecord
	if err := json.Unmarshal(raw, &records); err != nil {
		return nil, fmt.Errorf("reading registry of clusters %s: %w", d.RegistryPath(), err)
	}
	for _, r := range records {
		if r.Name == "" || strings.ContainsRune(r.Name, filepath.Separator) || r.Index < 1 || r.Index > maxSites {
			return nil, fmt.Errorf("registry of clusters %s holds an impossible cluster %q with index %d", d.RegistryPath(),
				r.Name, r.Index)
		}
	}
	return records, nil
}

// changeSites reads, changes and writes the registry, excluding other goroutines and processes.
func (d *Dir) changeSites(change func([]siteRecord) ([]siteRecord, error)) error {
	lock, err := LockFile(d.Path("sites.lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	before, err := d.readSites()
	if err != nil {
		return err
	}
	after, err := change(slices.Clone(before))
	if err != nil || slices.Equal(before, after) {
		return err
	}
	slices.SortFunc(after, func(a, b siteRecord) int { return a.Index - b.Index })
	raw, err := json.MarshalIndent(after, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding registry of clusters: %w", err)
	}
	return atomicfile.Write(d.RegistryPath(), raw)
}

// removeTree deletes a directory unless something is mounted in it, which must not be deleted.
func removeTree(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		// Field 5 is the mount point, with a space written as \040 (proc_pid_mountinfo(5)).
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(unescape(f[4])+"/", dir+"/") {
			return fmt.Errorf("%s is still mounted", f[4])
		}
	}
	return os.RemoveAll(dir)
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace
