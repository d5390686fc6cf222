package config

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Problem is one problem of a file.
type Problem struct {
	// Path is the path of the field, such as "nodePools[1].name"; empty for the file as a whole.
	Path string
	// Line counts from 1; 0 if the field does not exist.
	Line    int
	Message string
}

func (p Problem) String() string {
	text := p.Message
	if p.Path != "" {
		text = p.Path + ": " + text
	}
	if p.Line > 0 {
		text += fmt.Sprintf(" (line %d)", p.Line)
	}
	return text
}

// InvalidError is all problems of a file, ordered by line.
type InvalidError struct{ Problems []Problem }

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// problem records a problem of a field. A field that already has a problem, or is part of one that has, is not reported
// again, since the first problem causes the later ones.
func (d *decoder) problem(path, format string, args ...any) {
	if d.wrong(path) {
		return
	}
	d.problems = append(d.problems, Problem{Path: path, Line: d.lines[path], Message: fmt.Sprintf(format, args...)})
}

func (d *decoder) wrong(path string) bool {
	return slices.ContainsFunc(d.problems, func(p Problem) bool {
		rest, within := strings.CutPrefix(path, p.Path)
		return within && (rest == "" || rest[0] == '.' || rest[0] == '[')
	})
}

func (d *decoder) sorted() []Problem {
	slices.SortStableFunc(d.problems, func(a, b Problem) int { return cmp.Compare(a.order(), b.order()) })
	return d.problems
}

// order puts missing fields after existing ones.
func (p Problem) order() int {
	if p.Line == 0 {
		return math.MaxInt
	}
	return p.Line
}
