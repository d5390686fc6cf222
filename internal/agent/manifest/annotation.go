package manifest

import (
	"fmt"
	"regexp"

	yamlv3 "go.yaml.in/yaml/v3"
)

// The words that edits write: they need no escapes in quotes, and flags no quotes.
var (
	annotationKey   = regexp.MustCompile(`^[a-z][a-z0-9.-]*/[a-z][a-z0-9.-]*$`)
	annotationValue = regexp.MustCompile(`^[A-Za-z0-9 ,./:=_-]+$`)
)

// SetAnnotation gives an annotation of the pod a value.
func (m *Manifest) SetAnnotation(key, value string) (*Manifest, error) {
	if old, ok := m.Annotation(key); ok && old == value {
		return m, nil
	}
	next, err := m.setAnnotation(key, value)
	if err != nil {
		return nil, fmt.Errorf("setting annotation %s: %w", key, err)
	}
	return next, nil
}

func (m *Manifest) setAnnotation(key, value string) (*Manifest, error) {
	if !annotationKey.MatchString(key) || !annotationValue.MatchString(value) {
		return nil, fmt.Errorf("%q and %q are not the words of an annotation", key, value)
	}
	change := func(meaning map[string]any) {
		metadata := object(meaning["metadata"])
		if metadata["annotations"] == nil {
			metadata["annotations"] = map[string]any{}
		}
		object(metadata["annotations"])[key] = value
	}
	metadata, err := m.need(m.root, "metadata", yamlv3.MappingNode)
	if err != nil {
		return nil, err
	}
	annotations, err := m.block(metadata, "annotations", yamlv3.MappingNode)
	if err != nil {
		return nil, err
	}
	entryText := fmt.Sprintf("%s: %q\n", key, value)
	if annotations == nil {
		return m.insertBefore(metadata.Content[0], "annotations:\n", "  "+entryText, change)
	}
	if name, old := entry(annotations, key); name != nil {
		return m.replaceValue(name, old, value, change)
	}
	return m.insertBefore(annotations.Content[0], entryText, "", change)
}

// insertBefore inserts one or two lines before a key of a mapping.
func (m *Manifest) insertBefore(
	name *yamlv3.Node, first, second string, change func(map[string]any),
) (*Manifest, error) {
	indent, _, err := m.key(name)
	if err != nil {
		return nil, err
	}
	text := indent + first
	if second != "" {
		text += indent + second
	}
	return m.apply([]splice{{at: name.Line - 1, insert: text}}, change)
}

// replaceValue writes another value after a key. A comment that follows stays.
func (m *Manifest) replaceValue(name, old *yamlv3.Node, value string, change func(map[string]any)) (*Manifest, error) {
	if old.Line != name.Line {
		return nil, refuse(name.Line, "the value is not on the line of its key")
	}
	before, rest, err := m.line(old)
	if err != nil {
		return nil, err
	}
	_, after, err := scalar(old.Line, rest, old.Value)
	if err != nil {
		return nil, err
	}
	text := fmt.Sprintf("%s%q%s\n", before, value, after)
	return m.apply([]splice{{at: old.Line - 1, remove: 1, insert: text}}, change)
}

// RemoveAnnotation removes an annotation of the pod, and the map of annotations with the last one.
func (m *Manifest) RemoveAnnotation(key string) (*Manifest, error) {
	if _, ok := m.Annotation(key); !ok {
		return m, nil
	}
	next, err := m.removeAnnotation(key)
	if err != nil {
		return nil, fmt.Errorf("removing annotation %s: %w", key, err)
	}
	return next, nil
}

func (m *Manifest) removeAnnotation(key string) (*Manifest, error) {
	metadata, err := m.need(m.root, "metadata", yamlv3.MappingNode)
	if err != nil {
		return nil, err
	}
	annotations, err := m.need(metadata, "annotations", yamlv3.MappingNode)
	if err != nil {
		return nil, err
	}
	line, err := m.wholeEntry(annotations, key)
	if err != nil {
		return nil, err
	}
	splices := []splice{{at: line - 1, remove: 1}}
	if len(annotations.Content) == 2 {
		name, _ := entry(metadata, "annotations")
		_, rest, err := m.key(name)
		if err != nil || rest != "annotations:" {
			return nil, refuse(name.Line, "annotations are not a map with an entry on each line")
		}
		splices = append(splices, splice{at: name.Line - 1, remove: 1})
	}
	return m.apply(splices, func(meaning map[string]any) {
		metadata := object(meaning["metadata"])
		delete(object(metadata["annotations"]), key)
		if len(object(metadata["annotations"])) == 0 {
			delete(metadata, "annotations")
		}
	})
}

// wholeEntry returns the number of the line that holds an entry of a mapping and nothing else.
func (m *Manifest) wholeEntry(mapping *yamlv3.Node, key string) (int, error) {
	name, value := entry(mapping, key)
	if name == nil {
		return 0, refuse(mapping.Line, "%s is not written in this map", key)
	}
	if _, _, err := m.key(name); err != nil {
		return 0, err
	}
	if value.Line != name.Line {
		return 0, refuse(name.Line, "the value is not on the line of its key")
	}
	_, rest, err := m.line(value)
	if err != nil {
		return 0, err
	}
	_, after, err := scalar(value.Line, rest, value.Value)
	if err != nil {
		return 0, err
	}
	return name.Line, alone(name.Line, after)
}
