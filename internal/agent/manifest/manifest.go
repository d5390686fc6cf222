// Package manifest edits the static pod manifest of a kube-apiserver as text: its annotations, its flags, and its
// volumes from the host. Nothing else changes by a byte, so comments, order, indentation and quoting stay as their
// owner wrote them.
//
// Parse is where to start. A Manifest does not change; each edit returns another one. An edit that is there already
// returns the same text.
//
// An edit is refused, with the number of the line, when the text has a form that the package does not know, such as a
// list in flow style or an alias. After each edit the text is decoded again, as the kubelet decodes it, and must mean
// what the old text meant but for that one change. So an anchor that is used elsewhere, or a merged map, leads to an
// error and never to a change that nobody asked for.
package manifest

import (
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Container is the name of the container in which kube-apiserver runs, and of its program; Manager is the same of
// kube-controller-manager.
const (
	Container = "kube-apiserver"
	Manager   = "kube-controller-manager"
)

// maxSize is far above what kubeadm writes: 4 kB.
const maxSize = 1 << 18

// Manifest is the static pod manifest of a kube-apiserver, or of another component.
type Manifest struct {
	component string
	lines     []string
	root      *yamlv3.Node
	// meaning is what the kubelet decodes, as JSON; pod is the part of it that is read here.
	meaning []byte
	pod     pod
	// index is the index of the container.
	index int
}

// Parse reads a manifest: one pod in YAML, in which one container runs kube-apiserver.
func Parse(text []byte) (*Manifest, error) { return ParseOf(Container, text) }

// ParseOf reads the manifest of another component, such as Manager, of which only annotations are edited.
func ParseOf(component string, text []byte) (*Manifest, error) {
	m, err := parse(component, text)
	if err != nil {
		return nil, fmt.Errorf("reading the manifest of %s: %w", component, err)
	}
	return m, nil
}

func parse(component string, text []byte) (*Manifest, error) {
	if len(text) > maxSize {
		return nil, fmt.Errorf("it is longer than %d bytes", maxSize)
	}
	m := &Manifest{component: component, lines: strings.SplitAfter(string(text), "\n")}
	if err := m.checkLines(); err != nil {
		return nil, err
	}
	if err := m.decodeNodes(text); err != nil {
		return nil, err
	}
	var err error
	if m.meaning, err = yaml.YAMLToJSONStrict(text); err != nil {
		return nil, err
	}
	// Kubelets compare names exactly.
	if err := json.UnmarshalCaseSensitivePreserveInts(m.meaning, &m.pod); err != nil {
		return nil, err
	}
	return m, m.checkPod()
}

// decoded returns what the manifest means, for the caller to change.
func (m *Manifest) decoded() (meaning map[string]any, err error) {
	return meaning, json.UnmarshalCaseSensitivePreserveInts(m.meaning, &meaning)
}

// checkLines refuses what YAML counts as an end of line and the package does not.
func (m *Manifest) checkLines() error {
	for i, line := range m.lines {
		if strings.ContainsAny(line, "\r\u0085\u2028\u2029\ufeff\t") {
			return refuse(i+1, "it has a carriage return, a tab or a mark that is not plain text")
		}
	}
	return nil
}

func (m *Manifest) decodeNodes(text []byte) error {
	var document, second yamlv3.Node
	decoder := yamlv3.NewDecoder(strings.NewReader(string(text)))
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return errors.New("it is missing or empty")
	} else if err != nil {
		return err
	}
	if err := decoder.Decode(&second); err == nil {
		return refuse(second.Line, "a second document begins")
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yamlv3.MappingNode {
		return errors.New("it is not an object")
	}
	m.root = document.Content[0]
	return nil
}

func (m *Manifest) checkPod() error {
	if m.pod.APIVersion != "v1" || m.pod.Kind != "Pod" {
		return errors.New("it is not a Pod of v1")
	}
	m.index = slices.IndexFunc(m.pod.Spec.Containers, func(c container) bool { return c.Name == m.component })
	if m.index < 0 {
		return fmt.Errorf("it has no container %s", m.component)
	}
	if c := m.container().Command; len(c) == 0 || path.Base(c[0]) != m.component {
		return fmt.Errorf("the command of its container does not begin with %s", m.component)
	}
	return nil
}

// Text returns the text of the manifest.
func (m *Manifest) Text() []byte { return []byte(strings.Join(m.lines, "")) }

// refuse names the line of something that the package does not understand.
func refuse(line int, format string, args ...any) error {
	return fmt.Errorf("line %d: "+format, append([]any{line}, args...)...)
}
