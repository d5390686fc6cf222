package manifest

import (
	"fmt"
	"regexp"
	"slices"

	yamlv3 "go.yaml.in/yaml/v3"
)

var flagText = regexp.MustCompile(`^--[a-z][a-z-]*=[A-Za-z0-9,./_-]+$`)

func (f Flag) String() string { return "--" + f.Name + "=" + f.Value }

// AddFlag adds a flag, which must not be there yet: before the flag named before or, when that is empty, before all
// others. It is quoted like that one.
func (m *Manifest) AddFlag(f Flag, before string) (*Manifest, error) {
	if slices.Contains(m.Flags(), f) {
		return m, nil
	}
	next, err := m.addFlag(f, before)
	if err != nil {
		return nil, fmt.Errorf("adding flag --%s: %w", f.Name, err)
	}
	return next, nil
}

func (m *Manifest) addFlag(f Flag, before string) (*Manifest, error) {
	if values := m.Flag(f.Name); len(values) > 0 {
		return nil, fmt.Errorf("it is there with the value %q", values[0])
	}
	at, err := m.successor(before)
	if err != nil {
		return nil, err
	}
	l, err := m.flagLine(at)
	if err != nil {
		return nil, err
	}
	text, err := l.with(f, "")
	if err != nil {
		return nil, err
	}
	return m.apply([]splice{{at: l.index, insert: text}}, func(meaning map[string]any) {
		m.changeList(meaning, at.list, func(items []any) []any { return slices.Insert(items, at.index, any(f.String())) })
	})
}

// successor returns the flag before which another one is to stand.
func (m *Manifest) successor(name string) (argument, error) {
	if name != "" {
		return m.only(name)
	}
	all := m.arguments()
	if len(all) == 0 {
		return argument{}, fmt.Errorf("%s has no flags", Container)
	}
	return all[0], nil
}

// ReplaceFlag replaces a flag, which must be there once, by another one in its line.
func (m *Manifest) ReplaceFlag(name string, by Flag) (*Manifest, error) {
	next, err := m.replaceFlag(name, by)
	if err != nil {
		return nil, fmt.Errorf("replacing flag --%s: %w", name, err)
	}
	return next, nil
}

func (m *Manifest) replaceFlag(name string, by Flag) (*Manifest, error) {
	old, err := m.only(name)
	if err != nil {
		return nil, err
	}
	if by.Name != old.Name && len(m.Flag(by.Name)) > 0 {
		return nil, fmt.Errorf("--%s is there too", by.Name)
	}
	l, err := m.flagLine(old)
	if err != nil {
		return nil, err
	}
	text, err := l.with(by, l.after)
	if err != nil {
		return nil, err
	}
	return m.apply([]splice{{at: l.index, remove: 1, insert: text}}, func(meaning map[string]any) {
		m.changeList(meaning, old.list, func(items []any) []any { items[old.index] = by.String(); return items })
	})
}

// RemoveFlag removes a flag with its line.
func (m *Manifest) RemoveFlag(name string) (*Manifest, error) {
	if len(m.Flag(name)) == 0 {
		return m, nil
	}
	next, err := m.removeFlag(name)
	if err != nil {
		return nil, fmt.Errorf("removing flag --%s: %w", name, err)
	}
	return next, nil
}

func (m *Manifest) removeFlag(name string) (*Manifest, error) {
	old, err := m.only(name)
	if err != nil {
		return nil, err
	}
	l, err := m.flagLine(old)
	if err != nil {
		return nil, err
	}
	if err := alone(l.index+1, l.after); err != nil {
		return nil, err
	}
	return m.apply([]splice{{at: l.index, remove: 1}}, func(meaning map[string]any) {
		m.changeList(meaning, old.list, func(items []any) []any { return slices.Delete(items, old.index, old.index+1) })
	})
}

// only returns a flag that must be there once.
func (m *Manifest) only(name string) (argument, error) {
	var found []argument
	for _, a := range m.arguments() {
		if a.Name == name {
			found = append(found, a)
		}
	}
	if len(found) == 0 {
		return argument{}, fmt.Errorf("%s has no such flag", Container)
	}
	if len(found) > 1 {
		node, err := m.argumentNode(found[1])
		if err != nil {
			return argument{}, err
		}
		return argument{}, refuse(node.Line, "it is given a second time")
	}
	return found[0], nil
}

func (m *Manifest) argumentNode(a argument) (*yamlv3.Node, error) {
	c, err := m.containerNode()
	if err != nil {
		return nil, err
	}
	list, err := m.need(c, a.list, yamlv3.SequenceNode)
	if err != nil {
		return nil, err
	}
	return list.Content[a.index], nil
}

// flagLine is the line that holds a flag: all of it, one word behind a dash.
type flagLine struct {
	index                int
	before, quote, after string
}

func (m *Manifest) flagLine(a argument) (flagLine, error) {
	n, err := m.argumentNode(a)
	if err != nil {
		return flagLine{}, err
	}
	if a.split {
		return flagLine{}, refuse(n.Line, "--%s and its value are two arguments", a.Name)
	}
	before, rest, err := m.item(n)
	if err != nil {
		return flagLine{}, err
	}
	quote, after, err := scalar(n.Line, rest, n.Value)
	return flagLine{n.Line - 1, before, quote, after}, err
}

// with returns the line with a flag in it.
func (l flagLine) with(f Flag, after string) (string, error) {
	if !flagText.MatchString(f.String()) {
		return "", fmt.Errorf("%q cannot be written without escapes", f)
	}
	return l.before + l.quote + f.String() + l.quote + after + "\n", nil
}

// changeList changes a list of arguments in what a manifest means.
func (m *Manifest) changeList(meaning map[string]any, name string, change func([]any) []any) {
	c := m.containerMeaning(meaning)
	c[name] = change(list(c[name]))
}
