package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
)

// outcome is what the tests made of a mutant.
type outcome string

const (
	killed       outcome = "killed"
	survived     outcome = "survived"
	notReached   outcome = "not reached"
	notMattering outcome = "accepted"
)

// result counts the mutants of one package by outcome.
type result struct {
	name   string
	counts map[outcome]int
	// left are the mutants that the tests should have noticed, and unused the accepted ones that they did notice.
	left, unused []string
}

func (r *result) add(m mutant, o outcome) {
	if r.counts == nil {
		r.counts = make(map[outcome]int)
	}
	r.counts[o]++
	if o == survived || o == notReached {
		r.left = append(r.left, fmt.Sprintf("%s (line %d, %s)", m.mark(), m.line, o))
	}
}

// score is the share of mutants that were killed, in percent, of those that matter.
func (r *result) score() int {
	matter := r.counts[killed] + r.counts[survived] + r.counts[notReached]
	if matter == 0 {
		return 100
	}
	return 100 * r.counts[killed] / matter
}

func report(w io.Writer, results []result) {
	fmt.Fprintln(w, "| package | mutants | killed | accepted | survived | not reached | score |")
	fmt.Fprintln(w, "|---|---:|---:|---:|---:|---:|---:|")
	for _, r := range results {
		n := r.counts
		all := n[killed] + n[notMattering] + n[survived] + n[notReached]
		fmt.Fprintf(w, "| `%s` | %d | %d | %d | %d | %d | %d %% |\n",
			r.name, all, n[killed], n[notMattering], n[survived], n[notReached], r.score())
	}
	for _, r := range results {
		for _, line := range r.left {
			fmt.Fprintf(w, "\n- %s", line)
		}
		for _, mark := range r.unused {
			fmt.Fprintf(w, "\n- accepted without need: %s", mark)
		}
	}
	fmt.Fprintln(w)
}

// accepted holds how many mutants of a mark need not be killed.
type accepted map[string]int

// take reports whether a mutant need not be killed, and counts it.
func (a accepted) take(m mutant) bool {
	if a[m.mark()] == 0 {
		return false
	}
	a[m.mark()]--
	return true
}

// unused returns the marks of a file that only matches and no mutant took: the list should be shorter.
func (a accepted) unused(file string, only *regexp.Regexp) []string {
	var all []string
	for mark, n := range a {
		if n > 0 && strings.HasPrefix(mark, "`"+file+"`") && only.MatchString(mark) {
			all = append(all, mark)
		}
	}
	slices.Sort(all)
	return all
}

var acceptedLine = regexp.MustCompile("^- (`[^`]+` .+?, [a-z ]+: `.+?`): .+")

// readAccepted reads the items of a Markdown list: the file and function, the fault, the code that it is in, and the
// reason why it need not be noticed. Two faults that differ in nothing of this have an item each.
//
//   - `token/sign.go` encodeHeader, condition never true: `err != nil`: a Header can always be encoded.
func readAccepted(file string) (accepted, error) {
	all := make(accepted)
	if file == "" {
		return all, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading accepted faults: %w", err)
	}
	for line := range strings.Lines(strings.ReplaceAll(string(raw), "\n  ", " ")) {
		if m := acceptedLine.FindStringSubmatch(line); m != nil {
			all[m[1]]++
		}
	}
	return all, nil
}
