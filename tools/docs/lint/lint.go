// Package lint checks the documentation as far as a program can: that its lines and links hold, that the commands,
// paths, fields, tests and metrics that it names exist, and that it is written in plain English. It reads every
// Markdown file of the repository, and the comments of its Go code.
//
// Check is where to start, and Rules lists what it checks. phrases.txt has the phrases that are not written, each with
// what to write.
package lint

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Fault is one thing that is wrong, in one line of a file.
type Fault struct {
	File string
	Line int
	// Rule is the name of the rule.
	Rule, Text string
}

func (f Fault) String() string { return fmt.Sprintf("%s:%d: %s (%s)", f.File, f.Line, f.Text, f.Rule) }

// Rule is one thing that is checked.
type Rule struct {
	Name string
	// What says in words what the rule wants.
	What string

	check func(*repository) ([]Fault, error)
}

// Rules returns all rules.
func Rules() []Rule {
	return []Rule{
		{"columns", "lines of Markdown have 120 columns at most", columns},
		{"phrases", "Markdown has no phrase of phrases.txt", phrases},
		{"go-phrases", "Go comments have no phrase of phrases.txt", goPhrases},
		{"links", "links lead to files and headings that exist", links},
		{"paths", "paths of the repository in backticks exist", paths},
		{"commands", "commands exist, with their flags, arguments, make targets and values of the chart", commands},
		{"fields", "fields of the configuration file, the API and the chart that are named exist", fields},
		{"tests", "tests that are named exist", tests},
		{"metrics", "metrics and alerts that are named exist", metrics},
	}
}

// Without returns the rules but those that are named.
func Without(rules []Rule, names []string) ([]Rule, error) {
	for _, name := range names {
		if !slices.ContainsFunc(rules, func(r Rule) bool { return r.Name == name }) {
			return nil, fmt.Errorf("there is no rule %q", name)
		}
	}
	return slices.DeleteFunc(slices.Clone(rules), func(r Rule) bool { return slices.Contains(names, r.Name) }), nil
}

// Check returns what is wrong by some rules with the documentation of the repository at root, sorted by file and line.
func Check(root string, rules []Rule) ([]Fault, error) {
	repo, err := open(root)
	if err != nil {
		return nil, err
	}
	var all []Fault
	for _, r := range rules {
		faults, err := r.check(repo)
		if err != nil {
			return nil, fmt.Errorf("checking whether %s: %w", r.What, err)
		}
		for _, f := range faults {
			f.Rule = r.Name
			all = append(all, f)
		}
	}
	slices.SortFunc(all, func(a, b Fault) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), strings.Compare(a.Text, b.Text))
	})
	return slices.Compact(all), nil
}
