// Package cgroup keeps one control group for each machine on this host, in every hierarchy that the host has
// mounted, of either cgroup version.
//
// Start with Group. Everything that a machine runs stays below its group, because the machine's cgroup namespace has
// its root there. So the group also shows what is left of a machine, and can end it.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// parent holds the groups of all machines of this host.
const parent = "keyturn"

// Hierarchy is one mounted tree of control groups.
type Hierarchy struct {
	// Mount is where it is mounted on the host.
	Mount string
	// Options are the mount options that name it: its controllers, or name=NAME. Empty in version 2.
	Options string
	// Unified means that it is version 2, and the only one.
	Unified bool
}

// Hierarchies returns the trees that hold controllers on this host.
func Hierarchies() ([]Hierarchy, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("finding control groups: %w", err)
	}
	found := parseMounts(string(mounts))
	if len(found) == 0 {
		return nil, errors.New("finding control groups: none are mounted")
	}
	return found, nil
}

// parseMounts reads mountinfo (proc(5)). A version 2 tree counts only if there are none of version 1: beside them
// it has no controllers.
func parseMounts(mountinfo string) []Hierarchy {
	var v1, v2 []Hierarchy
	seen := map[string]bool{}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		mount, options := left[4], controllers(right[2])
		switch {
		case right[0] == "cgroup" && !seen[options]:
			seen[options] = true
			v1 = append(v1, Hierarchy{Mount: mount, Options: options})
		case right[0] == "cgroup2" && len(v2) == 0:
			v2 = append(v2, Hierarchy{Mount: mount, Unified: true})
		}
	}
	if len(v1) > 0 {
		return v1
	}
	return v2
}

// controllers returns those options of the super block that name a version 1 hierarchy.
func controllers(options string) string {
	var keep []string
	for o := range strings.SplitSeq(options, ",") {
		switch {
		case o == "rw", o == "ro", o == "xattr", o == "clone_children", o == "cpuset_v2_mode", o == "noprefix",
			strings.HasPrefix(o, "release_agent="):
		default:
			keep = append(keep, o)
		}
	}
	return strings.Join(keep, ",")
}

// Group is the control group of one machine.
type Group struct {
	name  string
	trees []Hierarchy
}

// Open returns the group of that name, which need not exist yet.
func Open(name string) (Group, error) {
	trees, err := Hierarchies()
	return Group{name: name, trees: trees}, err
}

// Hierarchies returns the trees that the group is in.
func (g Group) Hierarchies() []Hierarchy { return g.trees }

// Ensure makes the group in every hierarchy.
func (g Group) Ensure() error {
	for _, tree := range g.trees {
		if err := g.ensureIn(tree); err != nil {
			return fmt.Errorf("making control group %s in %s: %w", g.name, tree.Mount, err)
		}
	}
	return nil
}

func (g Group) ensureIn(tree Hierarchy) error {
	if err := os.MkdirAll(g.dir(tree), 0o755); err != nil {
		return err
	}
	above := []string{tree.Mount, filepath.Join(tree.Mount, parent)}
	for i, child := range []string{above[1], g.dir(tree)} {
		if tree.Unified {
			Delegate(above[i])
		} else if err := inheritCPUs(above[i], child); err != nil {
			return err
		}
	}
	return nil
}

// Exists reports whether the group is in some hierarchy.
func (g Group) Exists() bool {
	for _, tree := range g.trees {
		if _, err := os.Stat(g.dir(tree)); err == nil {
			return true
		}
	}
	return false
}

// Join moves the calling process into the group.
func (g Group) Join() error {
	for _, tree := range g.trees {
		// "0" is the writer itself, regardless of its process id in its namespace.
		if err := os.WriteFile(filepath.Join(g.dir(tree), "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("joining control group %s in %s: %w", g.name, tree.Mount, err)
		}
	}
	return nil
}

// Remove deletes the group, which must have no processes, and returns true when nothing is left of it.
func (g Group) Remove() (gone bool, err error) {
	gone = true
	for _, tree := range g.trees {
		empty, err := removeTree(g.dir(tree))
		if err != nil {
			return false, fmt.Errorf("removing control group %s in %s: %w", g.name, tree.Mount, err)
		}
		gone = gone && empty
		// The parent is removed with its last child: this fails as long as there are others.
		_ = os.Remove(filepath.Join(tree.Mount, parent))
	}
	return gone, nil
}

func (g Group) dir(tree Hierarchy) string { return filepath.Join(tree.Mount, parent, g.name) }

// removeTree removes a directory of control groups from its leaves up; their files are not removable.
func removeTree(dir string) (gone bool, err error) {
	var dirs []string
	err = walkGroups(dir, func(d string) error { dirs = append(dirs, d); return nil })
	if err != nil {
		return false, err
	}
	for _, d := range slices.Backward(dirs) {
		err := os.Remove(d)
		if isBusy(err) {
			return false, nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return true, nil
}

// walkGroups calls visit for a directory and all below it, parents first. What vanishes meanwhile is skipped.
func walkGroups(dir string, visit func(string) error) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case entry.IsDir():
			return visit(path)
		}
		return nil
	})
}

// inheritCPUs gives a new cpuset group the processors and memory nodes of its parent: until it has some, nothing can
// join it. Other hierarchies lack these files.
func inheritCPUs(parent, child string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		own, err := os.ReadFile(filepath.Join(child, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(strings.TrimSpace(string(own))) > 0 {
			continue
		}
		value, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(child, name), value, 0); err != nil {
			return err
		}
	}
	return nil
}

// Delegate lets the children of a version 2 group use its controllers. It skips one that cannot be shared: the
// component that needs it reports that better.
func Delegate(dir string) {
	available, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for c := range strings.FieldsSeq(string(available)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
	}
}
