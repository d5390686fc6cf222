package manifest

import (
	"encoding/json"
	"strings"
)

// pod is the part of a Pod that is read here.
type pod struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	Spec struct {
		HostUsers       *bool           `json:"hostUsers"`
		SecurityContext securityContext `json:"securityContext"`
		Containers      []container     `json:"containers"`
		Volumes         []volume        `json:"volumes"`
	} `json:"spec"`
}

type securityContext struct {
	RunAsUser    *int64 `json:"runAsUser"`
	RunAsNonRoot *bool  `json:"runAsNonRoot"`
}

type container struct {
	Name            string          `json:"name"`
	Command         []string        `json:"command"`
	Args            []string        `json:"args"`
	SecurityContext securityContext `json:"securityContext"`
	VolumeMounts    []mount         `json:"volumeMounts"`
	ReadinessProbe  struct {
		HTTPGet *struct {
			Host   string          `json:"host"`
			Path   string          `json:"path"`
			Port   json.RawMessage `json:"port"`
			Scheme string          `json:"scheme"`
		} `json:"httpGet"`
	} `json:"readinessProbe"`
	Ports []struct {
		Name          string `json:"name"`
		ContainerPort int    `json:"containerPort"`
	} `json:"ports"`
}

type mount struct {
	Name      string `json:"name"`
	MountPath string `json:"mountPath"`
	SubPath   string `json:"subPath"`
	ReadOnly  bool   `json:"readOnly"`
}

type volume struct {
	Name     string `json:"name"`
	HostPath *struct {
		Path string `json:"path"`
	} `json:"hostPath"`
}

func (m *Manifest) container() container { return m.pod.Spec.Containers[m.index] }

// Annotation returns the value of an annotation of the pod, and whether there is one.
func (m *Manifest) Annotation(key string) (string, bool) {
	value, ok := m.pod.Metadata.Annotations[key]
	return value, ok
}

// Flag is a flag of kube-apiserver.
type Flag struct {
	// Name has no dashes in front.
	Name string
	// Value is empty for a flag without one.
	Value string
}

// Flags returns the flags of kube-apiserver in their order; one that is given several times comes several times.
func (m *Manifest) Flags() []Flag {
	var flags []Flag
	for _, a := range m.arguments() {
		flags = append(flags, a.Flag)
	}
	return flags
}

// Flag returns the values of a flag, in their order.
func (m *Manifest) Flag(name string) (values []string) {
	for _, f := range m.Flags() {
		if f.Name == name {
			values = append(values, f.Value)
		}
	}
	return values
}

// argument is a flag and where it is.
type argument struct {
	Flag
	// list is "command" or "args", and index the place in it.
	list  string
	index int
	// split means that the value is an argument of its own.
	split bool
}

func (m *Manifest) arguments() []argument {
	c := m.container()
	return append(argumentsOf("command", c.Command, 1), argumentsOf("args", c.Args, 0)...)
}

func argumentsOf(list string, items []string, from int) (all []argument) {
	for i := from; i < len(items); i++ {
		text, isFlag := strings.CutPrefix(items[i], "--")
		if !isFlag {
			continue
		}
		name, value, hasValue := strings.Cut(text, "=")
		// kube-apiserver takes underscores in names of flags for dashes.
		a := argument{Flag: Flag{Name: strings.ReplaceAll(name, "_", "-"), Value: value}, list: list, index: i}
		if !hasValue && i+1 < len(items) && !strings.HasPrefix(items[i+1], "-") {
			a.Value, a.split = items[i+1], true
		}
		all = append(all, a)
	}
	return all
}

// HostPath is a directory of the host that kube-apiserver sees.
type HostPath struct {
	// Name is the name of the volume.
	Name string
	// Path is the path on the host, and MountPath that in the container.
	Path, MountPath string
	ReadOnly        bool
}

// HostPaths returns the paths of the host that kube-apiserver sees. Mounts of only a part of a volume are left out.
func (m *Manifest) HostPaths() []HostPath {
	var paths []HostPath
	for _, mounted := range m.container().VolumeMounts {
		for _, v := range m.pod.Spec.Volumes {
			if v.Name == mounted.Name && v.HostPath != nil && mounted.SubPath == "" {
				paths = append(paths, HostPath{v.Name, v.HostPath.Path, mounted.MountPath, mounted.ReadOnly})
			}
		}
	}
	return paths
}

// Root reports whether kube-apiserver runs as the host's root, as far as the manifest decides it.
func (m *Manifest) Root() bool {
	if users := m.pod.Spec.HostUsers; users != nil && !*users {
		return false
	}
	for _, s := range []securityContext{m.pod.Spec.SecurityContext, m.container().SecurityContext} {
		if s.RunAsUser != nil && *s.RunAsUser != 0 || s.RunAsNonRoot != nil && *s.RunAsNonRoot {
			return false
		}
	}
	return true
}

// Probe is how the kubelet asks whether kube-apiserver is ready.
type Probe struct {
	Host, Path string
	Port       int
}

// Readiness returns the readiness probe; false when there is none by HTTPS on a host that the manifest names.
func (m *Manifest) Readiness() (Probe, bool) {
	get := m.container().ReadinessProbe.HTTPGet
	if get == nil || get.Scheme != "HTTPS" || get.Host == "" {
		return Probe{}, false
	}
	p := Probe{Host: get.Host, Path: get.Path}
	var name string
	if json.Unmarshal(get.Port, &p.Port) == nil {
		return p, p.Port > 0
	}
	if json.Unmarshal(get.Port, &name) != nil {
		return Probe{}, false
	}
	for _, port := range m.container().Ports {
		if port.Name == name {
			p.Port = port.ContainerPort
		}
	}
	return p, p.Port > 0
}
