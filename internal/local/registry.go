package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/atomicfile"
)

// maxSites is how many user clusters fit on a host: the /24s of a /16 but the admin cluster's and the last.
const maxSites = 254

// siteRecord is what the registry remembers of a user cluster's site for as long as it exists.
type siteRecord struct {
	Name     string `json:"name"`
	Index    int    `json:"index"`
	Loopback bool   `json:"loopback,omitempty"`
}

// SiteName is the name of a user cluster's site. Neither part holds a dot.
func SiteName(uc *v1alpha1.UserCluster) string { return uc.Namespace + "." + uc.Name }

// AdminSite is the admin cluster's place.
func (h *Host) AdminSite() Site {
	return Site{Name: "admin", Index: 0, Dir: filepath.Join(h.dataDir, "admin"), Network: h.network, Loopback: true}
}

// Sites returns the sites of user clusters, by index.
func (h *Host) Sites() ([]Site, error) {
	records, err := h.readSites()
	if err != nil {
		return nil, err
	}
	var sites []Site
	for _, r := range records {
		sites = append(sites, h.site(r))
	}
	return sites, nil
}

// Site returns the site of a user cluster by the name that SiteName gives; false when there is none.
func (h *Host) Site(name string) (Site, bool, error) {
	sites, err := h.Sites()
	if err != nil {
		return Site{}, false, err
	}
	i := slices.IndexFunc(sites, func(s Site) bool { return s.Name == name })
	if i < 0 {
		return Site{}, false, nil
	}
	return sites[i], true, nil
}

// SiteOf returns the site of a user cluster; false when there is none. A cluster that lives in another data directory
// is an error: made once more here it would get other API servers, and its keys would be deleted once these had the new
// ones.
func (h *Host) SiteOf(uc *v1alpha1.UserCluster) (Site, bool, error) {
	if err := h.checkHome(uc.Name, homeOf(uc)); err != nil {
		return Site{}, false, err
	}
	return h.Site(SiteName(uc))
}

// homeOf is the id of the data directory that a cluster was seen to live in; empty when it was not seen yet.
func homeOf(uc *v1alpha1.UserCluster) string {
	if local := uc.Status.Infrastructure.Local; local != nil {
		return local.Home
	}
	return ""
}

// checkHome refuses a cluster that lives in another data directory.
func (h *Host) checkHome(cluster, home string) error {
	if home == "" || home == h.ID() {
		return nil
	}
	return fmt.Errorf("cluster %s lives in the data directory with id %s, and not in %s\n"+
		"hint: let keyturn-controller use the keyturn-local of the data directory in whose %s that id is",
		cluster, home, h.dataDir, markFile)
}

// EnsureSite returns the site of a user cluster and makes one, with the lowest free index, when there is none.
func (h *Host) EnsureSite(name string) (Site, error) {
	if err := h.keepNetwork(); err != nil {
		return Site{}, err
	}
	var site Site
	err := h.changeSites(func(records []siteRecord) ([]siteRecord, error) {
		if i := slices.IndexFunc(records, func(r siteRecord) bool { return r.Name == name }); i >= 0 {
			site = h.site(records[i])
			return records, nil
		}
		index, err := freeIndex(records)
		if err != nil {
			return nil, err
		}
		r := siteRecord{Name: name, Index: index, Loopback: h.loopback}
		site = h.site(r)
		return append(records, r), nil
	})
	if err != nil {
		return Site{}, fmt.Errorf("finding a place for cluster %s: %w", name, err)
	}
	// Crash here: the site is registered and has no directory; the next call makes it.
	return site, os.MkdirAll(site.Dir, 0o700)
}

// RemoveSite deletes the site's directory and then gives its index back. Nothing of it may run any more.
func (h *Host) RemoveSite(name string) error {
	return h.changeSites(func(records []siteRecord) ([]siteRecord, error) {
		i := slices.IndexFunc(records, func(r siteRecord) bool { return r.Name == name })
		if i < 0 {
			return records, nil
		}
		if err := removeTree(h.site(records[i]).Dir); err != nil {
			return nil, fmt.Errorf("removing directory of cluster %s: %w", name, err)
		}
		// Crash here: the index is still taken; the next call removes an empty place.
		return slices.Delete(records, i, i+1), nil
	})
}

func (h *Host) site(r siteRecord) Site {
	return Site{
		Name: r.Name, Index: r.Index, Dir: filepath.Join(h.dataDir, "clusters", r.Name),
		Network: h.network, Loopback: r.Loopback,
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

func (h *Host) registryPath() string { return filepath.Join(h.dataDir, "sites.json") }

func (h *Host) readSites() ([]siteRecord, error) {
	raw, err := os.ReadFile(h.registryPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading registry of clusters: %w", err)
	}
	var records []siteRecord
	if err := json.Unmarshal(raw, &records); err != nil {
		return nil, fmt.Errorf("reading registry of clusters %s: %w", h.registryPath(), err)
	}
	for _, r := range records {
		if r.Name == "" || strings.ContainsRune(r.Name, filepath.Separator) || r.Index < 1 || r.Index > maxSites {
			return nil, fmt.Errorf("registry of clusters %s holds an impossible cluster %q with index %d", h.registryPath(), r.Name, r.Index)
		}
	}
	return records, nil
}

// changeSites reads, changes and writes the registry while no other goroutine or process does.
func (h *Host) changeSites(change func([]siteRecord) ([]siteRecord, error)) error {
	lock, err := lockFile(filepath.Join(h.dataDir, "sites.lock"), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	before, err := h.readSites()
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
	return atomicfile.Write(h.registryPath(), raw)
}

// removeTree deletes a directory in which nothing is mounted: it must not delete what only shows through.
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
