package config

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Problem is one thing that is wrong with a file.
type Problem struct {
	// Path is that of the field, like "nodePools[1].name"; empty for the file as a whole.
	Path string
	// Line counts from 1; 0 when the field is not there.
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

// InvalidError is all that is wrong with a file, by line.
type InvalidError struct{ Problems []Problem }

func (e *InvalidError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// problem notes what is wrong with a field. A field that is known to be wrong, or is part of one, is not
// reported again: the first problem is the cause of the later ones.
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

// order puts what is missing after what is there.
func (p Problem) order() int {
	if p.Line == 0 {
		return math.MaxInt
	}
	return p.Line
}
