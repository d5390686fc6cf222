package config

import (
	"errors"
	"fmt"
	"io"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// decoder fills a struct from YAML and records every problem. The decoders of YAML libraries stop at the first wrong
// value, or accept duplicate keys and unknown fields.
type decoder struct {
	problems []Problem
	// lines maps the path of each existing field to its line.
	lines                map[string]int
	withoutEffect, notes []string
	// expanded counts the nodes that aliases expand to.
	expanded int
}

// maxExpanded is how many nodes the aliases of a file may expand to, since a file of a few lines could name billions.
const maxExpanded = 20_000

// document decodes the only document of r. It returns false if there is nothing to validate.
func (d *decoder) document(r io.Reader, size int, into any) bool {
	if size > maxSize {
		d.problem("", "the file has %d bytes; a configuration has at most %d", size, maxSize)
		return false
	}
	yamlDecoder := yaml.NewDecoder(r)
	var doc, more yaml.Node
	switch err := yamlDecoder.Decode(&doc); {
	case errors.Is(err, io.EOF) || err == nil && isNull(doc.Content[0]):
		d.problem("", "the file is empty")
		return false
	case err != nil:
		d.problem("", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		return false
	}
	for {
		// Templates often end with empty documents.
		err := yamlDecoder.Decode(&more)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || !isNull(more.Content[0]) {
			d.problem("", "the file holds more than one document")
			return false
		}
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		d.problem("", "the file holds %s, not fields of a UserCluster", describe(root))
		return false
	}
	d.value("", root, reflect.ValueOf(into).Elem())
	return true
}

// value decodes one node into a value of one of the kinds that a configuration has.
func (d *decoder) value(path string, n *yaml.Node, into reflect.Value) {
	n = d.follow(path, n)
	if isNull(n) {
		return
	}
	if into.Type() == reflect.TypeFor[time.Duration]() {
		d.duration(path, n, into)
		return
	}
	switch into.Kind() {
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		d.value(path, n, into.Elem())
	case reflect.Struct:
		d.structure(path, n, into)
	case reflect.Slice:
		d.list(path, n, into)
	case reflect.Map:
		d.strings(path, n, into)
	default:
		d.scalar(path, n, into)
	}
}

func (d *decoder) structure(path string, n *yaml.Node, into reflect.Value) {
	known, unused := fields(into.Type())
	d.mapping(path, n, func(path, name string, value *yaml.Node) {
		switch field, ok := known[name]; {
		case ok:
			d.value(path, value, into.FieldByIndex(field.Index))
		case slices.Contains(unused, name):
			d.noEffect(path)
		default:
			d.problem(path, "unknown field")
		}
	})
}

// fields returns the fields of a struct by YAML name, and the names that are accepted without effect.
func fields(t reflect.Type) (known map[string]reflect.StructField, unused []string) {
	known = map[string]reflect.StructField{}
	for f := range t.Fields() {
		if name := f.Tag.Get("yaml"); name != "" {
			known[name] = f
		}
		unused = append(unused, strings.Fields(f.Tag.Get("unused"))...)
	}
	return known, unused
}

func (d *decoder) strings(path string, n *yaml.Node, into reflect.Value) {
	into.Set(reflect.MakeMap(into.Type()))
	d.mapping(path, n, func(path, key string, value *yaml.Node) {
		v := reflect.New(into.Type().Elem()).Elem()
		d.value(path, value, v)
		into.SetMapIndex(reflect.ValueOf(key), v)
	})
}

// mapping calls visit for every entry in order, except for duplicates.
func (d *decoder) mapping(path string, n *yaml.Node, visit func(path, key string, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.problem(path, "must be a mapping, not %s", describe(n))
		return
	}
	seen := map[string]int{}
	for key, value := range d.entries(path, n) {
		if key.Kind != yaml.ScalarNode {
			d.problems = append(d.problems, Problem{Path: path, Line: key.Line, Message: "a key must be a plain name"})
			continue
		}
		child := join(path, key.Value)
		if first, ok := seen[key.Value]; ok {
			d.problems = append(d.problems, Problem{Path: child, Line: key.Line,
				Message: fmt.Sprintf("duplicate key, first on line %d", first)})
			continue
		}
		seen[key.Value] = key.Line
		d.lines[child] = key.Line
		visit(child, key.Value, value)
	}
}

func (d *decoder) list(path string, n *yaml.Node, into reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.problem(path, "must be a list, not %s", describe(n))
		return
	}
	into.Set(reflect.MakeSlice(into.Type(), len(n.Content), len(n.Content)))
	for i, item := range n.Content {
		child := fmt.Sprintf("%s[%d]", path, i)
		d.lines[child] = item.Line
		d.value(child, item, into.Index(i))
	}
}

func (d *decoder) scalar(path string, n *yaml.Node, into reflect.Value) {
	var want string
	switch into.Kind() {
	case reflect.String:
		want = "!!str"
	case reflect.Bool:
		want = "!!bool"
	default:
		want = "!!int"
	}
	if n.Kind == yaml.ScalarNode && want == "!!int" && n.ShortTag() == "!!str" && wholeNumber.MatchString(n.Value) {
		// Documented templates have numbers in quotes.
		n = &yaml.Node{Kind: yaml.ScalarNode, Tag: want, Value: n.Value}
	}
	if n.Kind != yaml.ScalarNode || n.ShortTag() != want {
		d.problem(path, "must be %s, not %s", scalarKinds[want], describe(n))
		return
	}
	if err := n.Decode(into.Addr().Interface()); err != nil {
		d.problem(path, "%s is not in the range of a whole number", n.Value)
	}
}

// duration decodes what time.ParseDuration accepts. A number without a unit is invalid, even as a string.
func (d *decoder) duration(path string, n *yaml.Node, into reflect.Value) {
	if n.Kind != yaml.ScalarNode {
		d.problem(path, "must be a duration like 10m, not %s", describe(n))
		return
	}
	value, err := time.ParseDuration(n.Value)
	if err != nil {
		d.problem(path, "must be a duration like 10m, not %.40q", n.Value)
		return
	}
	into.SetInt(int64(value))
}

// scalarKinds describe the tags of YAML scalars.
var scalarKinds = map[string]string{
	"!!str": "a string", "!!bool": "true or false", "!!int": "a whole number", "!!float": "a decimal number",
	"!!timestamp": "a date", "!!null": "nothing", "!!binary": "binary data",
}

func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	kind, ok := scalarKinds[n.ShortTag()]
	switch {
	case !ok:
		kind = "a value with the tag " + n.Tag
	case n.ShortTag() != "!!str" && n.Value != "":
		kind = fmt.Sprintf("%s (%.40s); put quotes around it to make it a string", kind, n.Value)
	case n.ShortTag() == "!!str":
		kind = fmt.Sprintf("the string %.40q", n.Value)
	}
	return kind
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// wholeNumber matches a number in quotes, in its only valid form.
var wholeNumber = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)

var listIndex = regexp.MustCompile(`\[\d+\]`)

// noEffect records a field without effect, once for all entries of a list.
func (d *decoder) noEffect(path string) {
	path = listIndex.ReplaceAllString(path, "[]")
	if !slices.Contains(d.withoutEffect, path) {
		d.withoutEffect = append(d.withoutEffect, path)
	}
}
