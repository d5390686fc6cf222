// Package cloudconfig reads and runs cloud-init user data (#cloud-config), as far as Cluster API's kubeadm bootstrap
// provider needs it: write_files and runcmd.
//
// Start with Parse. It refuses what it does not support, and names it, so that no machine starts without something that
// its user data asked for. Config.Apply runs inside the machine.
package cloudconfig

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Config is what user data requests.
type Config struct {
	// Files are written first, in this order.
	Files []File
	// Script is then run by /bin/sh. As in cloud-init, the script continues after a failed command.
	Script string
}

// File is one file, decoded.
type File struct {
	// Path is absolute and clean.
	Path    string
	Content []byte
	// Owner is USER or USER:GROUP, both names.
	Owner string
	Mode  uint32
	// Append adds the content to what the file has.
	Append bool
}

// MetaData are the values of {{ ds.meta_data.NAME }} in a template.
type MetaData map[string]string

const (
	templateHeader = "## template: jinja\n"
	header         = "#cloud-config\n"
	// maxFile is the largest size of a decompressed file.
	maxFile = 16 << 20
)

// Parse reads user data.
func Parse(data []byte, meta MetaData) (Config, error) {
	text, err := render(string(data), meta)
	if err != nil {
		return Config{}, err
	}
	if !strings.HasPrefix(text, header) {
		return Config{}, fmt.Errorf("user data does not begin with %q", strings.TrimSpace(header))
	}
	var sections map[string]yaml.Node
	if err := yaml.Unmarshal([]byte(text), &sections); err != nil {
		// The error of the parser may quote the data, which contains private keys.
		return Config{}, errors.New("user data is not a YAML mapping")
	}
	var c Config
	var problems []error
	for _, name := range slices.Sorted(maps.Keys(sections)) {
		section := sections[name]
		switch name {
		case "write_files":
			c.Files, err = parseFiles(&section)
		case "runcmd":
			c.Script, err = parseCommands(&section)
		default:
			err = fmt.Errorf("%s is not supported", name)
		}
		problems = append(problems, err)
	}
	return c, errors.Join(problems...)
}

var placeholder = regexp.MustCompile(`\{\{ *ds\.meta_data\.([a-z_]+) *\}\}`)

// render replaces the placeholders of a template. Everything else of Jinja is refused.
func render(text string, meta MetaData) (string, error) {
	body, isTemplate := strings.CutPrefix(text, templateHeader)
	if !isTemplate {
		return text, nil
	}
	for _, match := range placeholder.FindAllStringSubmatch(body, -1) {
		value, ok := meta[match[1]]
		if !ok {
			return "", fmt.Errorf("template variable ds.meta_data.%s is not supported", match[1])
		}
		body = strings.ReplaceAll(body, match[0], value)
	}
	for _, mark := range []string{"{{", "{%", "{#"} {
		if strings.Contains(body, mark) {
			return "", fmt.Errorf("%q in a template is not supported, except for ds.meta_data", mark)
		}
	}
	return body, nil
}

// file is an entry of write_files.
type file struct {
	Path        string `yaml:"path"`
	Owner       string `yaml:"owner"`
	Permissions string `yaml:"permissions"`
	Encoding    string `yaml:"encoding"`
	Content     string `yaml:"content"`
	Append      bool   `yaml:"append"`
}

var fileFields = []string{"path", "owner", "permissions", "encoding", "content", "append"}

func parseFiles(section *yaml.Node) ([]File, error) {
	if section.Kind != yaml.SequenceNode {
		return nil, errors.New("write_files is not a list")
	}
	var files []File
	for i, node := range section.Content {
		f, err := parseFile(node)
		if err != nil {
			return nil, fmt.Errorf("write_files[%d]: %w", i, err)
		}
		files = append(files, f)
	}
	return files, nil
}

func parseFile(node *yaml.Node) (File, error) {
	var raw file
	if err := node.Decode(&raw); err != nil || node.Kind != yaml.MappingNode {
		return File{}, errors.New("it is not a file") // the error is dropped, since it may quote the content
	}
	for i := 0; i < len(node.Content); i += 2 {
		if field := node.Content[i].Value; !slices.Contains(fileFields, field) {
			return File{}, fmt.Errorf("%s is not supported", field)
		}
	}
	if !path.IsAbs(raw.Path) || path.Clean(raw.Path) != raw.Path {
		return File{}, fmt.Errorf("path %q is not absolute and clean", raw.Path)
	}
	mode, err := strconv.ParseUint(strings.TrimPrefix(cmp.Or(raw.Permissions, "0644"), "0o"), 8, 9)
	if err != nil {
		return File{}, fmt.Errorf("%s: permissions %q are not octal", raw.Path, raw.Permissions)
	}
	content, err := decode(raw.Encoding, raw.Content)
	if err != nil {
		return File{}, fmt.Errorf("%s: %w", raw.Path, err)
	}
	return File{
		Path: raw.Path, Content: content, Owner: cmp.Or(raw.Owner, "root:root"), Mode: uint32(mode), Append: raw.Append,
	}, nil
}

func decode(encoding, content string) ([]byte, error) {
	switch encoding {
	case "", "text/plain":
		return []byte(content), nil
	case "b64", "base64":
		return fromBase64(content)
	case "gz", "gzip":
		return decompress([]byte(content))
	case "gz+b64", "gz+base64", "gzip+b64", "gzip+base64":
		raw, err := fromBase64(content)
		if err != nil {
			return nil, err
		}
		return decompress(raw)
	}
	return nil, fmt.Errorf("encoding %q is not supported", encoding)
}

func fromBase64(content string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(content), ""))
	if err != nil {
		return nil, fmt.Errorf("decoding base64: %w", err)
	}
	return raw, nil
}

func decompress(raw []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	content, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("decompressing: %w", err)
	}
	if len(content) > maxFile {
		return nil, fmt.Errorf("decompressed it has more than %d bytes", maxFile)
	}
	return content, nil
}

// parseCommands makes one script of the commands: a string is a line of shell, a list is a program with its arguments.
func parseCommands(section *yaml.Node) (string, error) {
	if section.Kind != yaml.SequenceNode {
		return "", errors.New("runcmd is not a list")
	}
	var script strings.Builder
	for i, node := range section.Content {
		var argv []string
		switch node.Kind {
		case yaml.ScalarNode:
			script.WriteString(node.Value + "\n")
			continue
		case yaml.SequenceNode:
			if err := node.Decode(&argv); err == nil && len(argv) > 0 {
				script.WriteString(quote(argv) + "\n")
				continue
			}
		}
		return "", fmt.Errorf("runcmd[%d] is neither a string nor a list of strings", i)
	}
	return script.String(), nil
}

// quote returns a program and its arguments as a line of shell.
func quote(argv []string) string {
	var words []string
	for _, arg := range argv {
		words = append(words, "'"+strings.ReplaceAll(arg, "'", `'\''`)+"'")
	}
	return strings.Join(words, " ")
}
