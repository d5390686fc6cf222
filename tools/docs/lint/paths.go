package lint

import (
	"fmt"
	"regexp"
	"strings"
)

// repositoryPath is how a path is written; * and {a,b} stand for several.
var repositoryPath = regexp.MustCompile(`^(\./)?[A-Za-z0-9_.-]+(/[A-Za-z0-9_.*{},-]+)+/?$`)

// placeholder is a part of a path that stands for others, such as NNNN in NNNN-title.md.
var placeholder = regexp.MustCompile(`(^|/)[A-Z]{2,}(-|/|$)`)

// paths finds code spans that begin with a directory of the repository and name nothing in it.
func paths(r *repository) ([]Fault, error) {
	directories, err := r.directories()
	if err != nil {
		return nil, err
	}
	return r.eachPage(func(p *page, fault func(int, string)) {
		p.spans(func(line int, code string) {
			for file := range strings.FieldsSeq(code) {
				file = strings.TrimSuffix(strings.TrimPrefix(file, "./"), "/...")
				first, _, inside := strings.Cut(file, "/")
				if !inside || !directories[first] || !repositoryPath.MatchString(file) || placeholder.MatchString(file) {
					continue
				}
				for _, one := range alternatives(file) {
					if !r.exists(one) {
						fault(line, fmt.Sprintf("%s does not exist", one))
					}
				}
			}
		})
	}), nil
}

// alternatives writes {a,b} out.
func alternatives(file string) []string {
	before, rest, found := strings.Cut(file, "{")
	list, after, closed := strings.Cut(rest, "}")
	if !found || !closed {
		return []string{file}
	}
	var all []string
	for one := range strings.SplitSeq(list, ",") {
		all = append(all, alternatives(before+one+after)...)
	}
	return all
}
