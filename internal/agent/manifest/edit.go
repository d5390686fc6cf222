package manifest

import (
	"errors"
	"reflect"
	"slices"
	"strings"

	yamlv3 "go.yaml.in/yaml/v3"

	"github.com/keyturn/keyturn/internal/hint"
)

// splice replaces whole lines.
type splice struct {
	// at is the index of the first line, and remove the number of lines to take out there.
	at, remove int
	insert     string
}

// errMeaning is returned by apply. It is the last guard: every edit that leads to it would have changed more, or less,
// than what was asked for.
var errMeaning = hint.Errorf("write lists and maps of the pod without anchors and merges",
	"the edit would change something else too")

// apply returns the manifest with other lines. change makes of what the manifest means what it has to mean then.
func (m *Manifest) apply(splices []splice, change func(meaning map[string]any)) (*Manifest, error) {
	slices.SortFunc(splices, func(a, b splice) int { return b.at - a.at }) // from the end, so that indexes stay right
	lines := slices.Clone(m.lines)
	for _, s := range splices {
		lines = slices.Replace(lines, s.at, s.at+s.remove, s.insert)
	}
	next, err := parse(m.component, []byte(strings.Join(lines, "")))
	if err != nil {
		return nil, errors.Join(errMeaning, err)
	}
	want, errWant := m.decoded()
	got, errGot := next.decoded()
	if err := errors.Join(errWant, errGot); err != nil {
		return nil, err
	}
	change(want)
	if !reflect.DeepEqual(got, want) {
		return nil, errMeaning
	}
	return next, nil
}

// block returns the value of a key of a mapping; an error when its form is not known. It is nil when there is no such
// key.
func (m *Manifest) block(parent *yamlv3.Node, key string, kind yamlv3.Kind) (*yamlv3.Node, error) {
	name, value := entry(parent, key)
	switch {
	case name == nil:
		return nil, nil
	case value.Kind != kind || value.Style&yamlv3.FlowStyle != 0 || len(value.Content) == 0:
		return nil, refuse(name.Line, "%s is not a list or map with an entry on each line", key)
	}
	return value, nil
}

// entry returns the nodes of a key and its value.
func entry(mapping *yamlv3.Node, key string) (name, value *yamlv3.Node) {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if k := mapping.Content[i]; k.Kind == yamlv3.ScalarNode && k.Value == key {
			return mapping.Content[i], mapping.Content[i+1]
		}
	}
	return nil, nil
}

// need is block for a key that must be there.
func (m *Manifest) need(parent *yamlv3.Node, key string, kind yamlv3.Kind) (*yamlv3.Node, error) {
	node, err := m.block(parent, key, kind)
	if err == nil && node == nil {
		err = refuse(parent.Line, "%s is missing in this map", key)
	}
	return node, err
}

// object and list return a part of what a manifest means; an empty one when it is something else, so that what is
// written to it is missing in the comparison.
func object(part any) map[string]any {
	if o, ok := part.(map[string]any); ok {
		return o
	}
	return map[string]any{}
}

func list(part any) []any {
	l, _ := part.([]any)
	return l
}

// containerMeaning is the container in what a manifest means.
func (m *Manifest) containerMeaning(meaning map[string]any) map[string]any {
	containers := list(object(meaning["spec"])["containers"])
	if m.index >= len(containers) {
		return map[string]any{}
	}
	return object(containers[m.index])
}

// containerNode returns the node of the container.
func (m *Manifest) containerNode() (*yamlv3.Node, error) {
	spec, err := m.need(m.root, "spec", yamlv3.MappingNode)
	if err != nil {
		return nil, err
	}
	containers, err := m.need(spec, "containers", yamlv3.SequenceNode)
	if err != nil {
		return nil, err
	}
	c := containers.Content[m.index]
	if c.Kind != yamlv3.MappingNode || c.Style&yamlv3.FlowStyle != 0 {
		return nil, refuse(c.Line, "the container is not a map with an entry on each line")
	}
	return c, nil
}

// line returns the line on which a node begins: what stands before the node, and the rest without the line's end.
func (m *Manifest) line(n *yamlv3.Node) (before, rest string, err error) {
	text := strings.TrimSuffix(m.lines[n.Line-1], "\n")
	if n.Column-1 > len(text) {
		return "", "", refuse(n.Line, "it has a form that is not known")
	}
	return text[:n.Column-1], text[n.Column-1:], nil
}

// item returns the line of an entry of a sequence: its indentation, and what follows the dash and the spaces after it.
func (m *Manifest) item(n *yamlv3.Node) (before, rest string, err error) {
	before, rest, err = m.line(n)
	if err == nil && strings.TrimRight(strings.TrimLeft(before, " "), " ") != "-" {
		err = refuse(n.Line, "the entry of the list does not follow a dash on its line")
	}
	return before, rest, err
}

// key returns the line of a key of a mapping: its indentation, and what follows.
func (m *Manifest) key(n *yamlv3.Node) (before, rest string, err error) {
	before, rest, err = m.line(n)
	if err == nil && strings.Trim(before, " ") != "" {
		err = refuse(n.Line, "the key is not the first on its line")
	}
	return before, rest, err
}

// scalar splits the rest of a line at a string that it begins with: into its quote, which may be none, and what
// follows.
func scalar(line int, rest, value string) (quote, after string, err error) {
	for _, quote := range []string{"", `"`, `'`} {
		after, ok := strings.CutPrefix(rest, quote+value+quote)
		if !ok || value == "" || quote != "" && strings.ContainsAny(value, `"'\`) {
			continue
		}
		if text := strings.TrimLeft(after, " "); text == "" || text[0] == '#' && text != after {
			return quote, after, nil
		}
	}
	return "", "", refuse(line, "the text is not written as one plain or quoted word")
}

// alone refuses to remove a line on which something else stands, such as a comment.
func alone(line int, after string) error {
	if strings.TrimLeft(after, " ") != "" {
		return refuse(line, "a comment follows, which would be removed too")
	}
	return nil
}
