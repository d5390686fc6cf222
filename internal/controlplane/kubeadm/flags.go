package kubeadm

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// flagSet has the values of each flag of a command, in their order.
type flagSet map[string][]string

// last returns the value that counts of a flag that takes one; empty when it is not set.
func (f flagSet) last(name string) string {
	values := f[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// flagsOf reads the flags of a component from its pod. What it does not understand is an error.
func flagsOf(p corev1.Pod, component string) (flagSet, error) {
	i := slices.IndexFunc(p.Spec.Containers, func(c corev1.Container) bool { return c.Name == component })
	if i < 0 {
		return nil, fmt.Errorf("its pod has no container %s", component)
	}
	c := p.Spec.Containers[i]
	command := append(slices.Clone(c.Command), c.Args...)
	if len(command) == 0 || path.Base(command[0]) != component {
		return nil, fmt.Errorf("its container does not run %s directly", component)
	}
	flags := flagSet{}
	for rest := command[1:]; len(rest) > 0; rest = rest[1:] {
		name, ok := strings.CutPrefix(rest[0], "--")
		if !ok {
			return nil, fmt.Errorf("argument %q is not a flag", rest[0])
		}
		name, value, ok := strings.Cut(name, "=")
		if !ok { // a flag of its own, or one whose value is the next argument
			value = "true"
			if len(rest) > 1 && !strings.HasPrefix(rest[1], "--") {
				value, rest = rest[1], rest[1:]
			}
		}
		flags[name] = append(flags[name], value)
	}
	return flags, nil
}

// mounted reports whether a file is in a directory of the host: only there does a container see a file that replaced
// another.
func mounted(p corev1.Pod, file string) bool {
	ofHost := func(volume string) bool {
		return slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == volume && v.HostPath != nil
		})
	}
	for _, c := range p.Spec.Containers {
		for _, m := range c.VolumeMounts {
			if ofHost(m.Name) && m.SubPath == "" && strings.HasPrefix(path.Clean(file), path.Clean(m.MountPath)+"/") {
				return true
			}
		}
	}
	return false
}
