package manifest

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
)

var (
	volumeName = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
	plainPath  = regexp.MustCompile(`^(/[A-Za-z0-9._-]+)+$`)
)

// AddHostPath shows kube-apiserver a directory of the host, read-only and by the same path: a volume and its mount.
func (m *Manifest) AddHostPath(name, path string) (*Manifest, error) {
	next, err := m.addHostPath(name, path)
	if err != nil {
		return nil, fmt.Errorf("adding volume %s: %w", name, err)
	}
	return next, nil
}

func (m *Manifest) addHostPath(name, path string) (*Manifest, error) {
	if !volumeName.MatchString(name) || !plainPath.MatchString(path) {
		return nil, fmt.Errorf("%q and %q cannot be written without escapes", name, path)
	}
	if slices.Contains(m.HostPaths(), HostPath{name, path, path, true}) {
		return m, nil
	}
	if err := m.checkFree(name, path); err != nil {
		return nil, err
	}
	mounts, volumes, err := m.volumeLists()
	if err != nil {
		return nil, err
	}
	mount, err := m.insertItem(mounts, mountLines(name, path))
	if err != nil {
		return nil, err
	}
	volume, err := m.insertItem(volumes, volumeLines(name, path))
	if err != nil {
		return nil, err
	}
	return m.apply([]splice{mount, volume}, func(meaning map[string]any) {
		c, spec := m.containerMeaning(meaning), object(meaning["spec"])
		c["volumeMounts"] = slices.Insert(list(c["volumeMounts"]), 0, any(mountMeaning(name, path)))
		spec["volumes"] = slices.Insert(list(spec["volumes"]), 0, any(volumeMeaning(name, path)))
	})
}

// checkFree refuses a name or a path that something else has.
func (m *Manifest) checkFree(name, path string) error {
	for _, v := range m.pod.Spec.Volumes {
		if v.Name == name {
			return fmt.Errorf("another volume has that name")
		}
	}
	for _, mounted := range m.container().VolumeMounts {
		if mounted.MountPath == path {
			return fmt.Errorf("volume %s is mounted at %s", mounted.Name, path)
		}
	}
	return nil
}

// RemoveHostPath takes back what AddHostPath added.
func (m *Manifest) RemoveHostPath(name, path string) (*Manifest, error) {
	next, err := m.removeHostPath(name, path)
	if err != nil {
		return nil, fmt.Errorf("removing volume %s: %w", name, err)
	}
	return next, nil
}

func (m *Manifest) removeHostPath(name, path string) (*Manifest, error) {
	mounts, volumes, err := m.volumeLists()
	if err != nil {
		return nil, err
	}
	mountAt, mount, err := m.removeItem(mounts, name, mountLines(name, path))
	if err != nil {
		return nil, err
	}
	volumeAt, volume, err := m.removeItem(volumes, name, volumeLines(name, path))
	if err != nil || mountAt < 0 && volumeAt < 0 {
		return m, err
	}
	if mountAt < 0 || volumeAt < 0 {
		return nil, fmt.Errorf("only its volume or only its mount is there")
	}
	return m.apply([]splice{mount, volume}, func(meaning map[string]any) {
		c, spec := m.containerMeaning(meaning), object(meaning["spec"])
		c["volumeMounts"] = slices.Delete(list(c["volumeMounts"]), mountAt, mountAt+1)
		spec["volumes"] = slices.Delete(list(spec["volumes"]), volumeAt, volumeAt+1)
	})
}

func (m *Manifest) volumeLists() (mounts, volumes *yamlv3.Node, err error) {
	c, err := m.containerNode()
	if err != nil {
		return nil, nil, err
	}
	if mounts, err = m.need(c, "volumeMounts", yamlv3.SequenceNode); err != nil {
		return nil, nil, err
	}
	spec, err := m.need(m.root, "spec", yamlv3.MappingNode)
	if err != nil {
		return nil, nil, err
	}
	volumes, err = m.need(spec, "volumes", yamlv3.SequenceNode)
	return mounts, volumes, err
}

// The lines of an entry, as kubeadm writes them: the first follows the dash.
func mountLines(name, path string) []string {
	return []string{"mountPath: " + path, "name: " + name, "readOnly: true"}
}

func volumeLines(name, path string) []string {
	return []string{"hostPath:", "  path: " + path, "  type: Directory", "name: " + name}
}

func mountMeaning(name, path string) map[string]any {
	return map[string]any{"mountPath": path, "name": name, "readOnly": true}
}

func volumeMeaning(name, path string) map[string]any {
	return map[string]any{"hostPath": map[string]any{"path": path, "type": "Directory"}, "name": name}
}

// itemText returns the lines of an entry behind a dash that is indented like those beside it.
func itemText(before string, lines []string) string {
	return before + strings.Join(lines, "\n"+strings.Repeat(" ", len(before))) + "\n"
}

// insertItem puts an entry before the first one of a list. What follows the last one may have any form.
func (m *Manifest) insertItem(list *yamlv3.Node, lines []string) (splice, error) {
	first := list.Content[0]
	before, _, err := m.item(first)
	if err != nil {
		return splice{}, err
	}
	return splice{at: first.Line - 1, insert: itemText(before, lines)}, nil
}

// removeItem finds the entry with a name, which must be written as insertItem writes it; its index is -1 when there is
// none.
func (m *Manifest) removeItem(list *yamlv3.Node, name string, lines []string) (int, splice, error) {
	for i, n := range list.Content {
		if n.Kind != yamlv3.MappingNode {
			continue
		}
		if _, value := entry(n, "name"); value == nil || value.Value != name {
			continue
		}
		before, _, err := m.item(n)
		if err != nil {
			return -1, splice{}, err
		}
		at := n.Line - 1
		if end := at + len(lines); end > len(m.lines) || strings.Join(m.lines[at:end], "") != itemText(before, lines) {
			return -1, splice{}, refuse(n.Line, "the entry was changed by somebody else")
		}
		return i, splice{at: at, remove: len(lines)}, nil
	}
	return -1, splice{}, nil
}
