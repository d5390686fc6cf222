package diagnose

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/printable"
)

// Result is how a check ended.
type Result string

// The results, from the best to the worst.
const (
	Pass Result = "Pass"
	// Skipped means that there was nothing to check, or that the caller may not read it.
	Skipped Result = "Skipped"
	// Warning means that a rotation works, and that somebody should know something.
	Warning Result = "Warning"
	// Fail means that a rotation does not start, does not end, or breaks something.
	Fail Result = "Fail"
)

// rank orders results.
var rank = map[Result]int{Pass: 0, Skipped: 1, Warning: 2, Fail: 3}

// Problem is one thing that is wrong.
type Problem struct {
	Result Result `json:"result"`
	// Text is what is wrong, and Advice what to do about it; each is one line.
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
	// Objects are what the problem is about, in the user cluster.
	Objects []string `json:"objects,omitempty"`
}

// Check is one thing that was checked.
type Check struct {
	Category string `json:"category"`
	Name     string `json:"name"`
	// Result is the worst of the problems.
	Result Result `json:"result"`
	// Detail is what was seen, in a line.
	Detail   string    `json:"detail,omitempty"`
	Problems []Problem `json:"problems"`
}

// Report is what was found.
type Report struct {
	// Cluster is the UserCluster, as NAMESPACE/NAME; empty if the admin cluster alone was checked.
	Cluster string    `json:"cluster,omitempty"`
	At      time.Time `json:"at"`
	// Program is the version of the program that checked.
	Program string  `json:"program"`
	Healthy bool    `json:"healthy"`
	Checks  []Check `json:"checks"`
}

// Count returns how many checks ended with a result.
func (r Report) Count(of Result) (n int) {
	for _, c := range r.Checks {
		if c.Result == of {
			n++
		}
	}
	return n
}

// mostObjects is how many objects of one problem are shown to people.
const mostObjects = 10

// Write writes a report for people, as the documented product does: a line for each check, and below it one for each
// problem, with what to do.
func (r Report) Write(w io.Writer) error {
	category := ""
	for _, c := range r.Checks {
		if c.Category != category {
			category = c.Category
			fmt.Fprintf(w, "- Validation Category: %s\n", category)
		}
		if err := c.write(w); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w, r.Summary())
	return err
}

func (c Check) write(w io.Writer) error {
	line := "Checking " + c.Name + "..." + strings.ToUpper(string(c.Result))
	if c.Detail != "" {
		line += " (" + c.Detail + ")"
	}
	fmt.Fprintln(w, line)
	for _, p := range c.Problems {
		line := strings.ToUpper(string(p.Result)) + ": " + p.Text
		if p.Advice != "" {
			line += "; " + p.Advice
		}
		fmt.Fprintln(w, "    "+line)
		for i, o := range p.Objects {
			if i == mostObjects {
				fmt.Fprintf(w, "        and %d more\n", len(p.Objects)-mostObjects)
				break
			}
			fmt.Fprintln(w, "        "+o)
		}
	}
	_, err := io.WriteString(w, "")
	return err
}

// Summary is the report in a line.
func (r Report) Summary() string {
	what := "Admin cluster"
	if r.Cluster != "" {
		what = "Cluster"
	}
	notes := fmt.Sprintf("%d passed, %d with warnings, %d failed, %d skipped", r.Count(Pass), r.Count(Warning),
		r.Count(Fail),
		r.Count(Skipped))
	if r.Healthy {
		return what + " is healthy! Checks: " + notes + "."
	}
	return what + " is not healthy. Checks: " + notes + "."
}

func newCheck(category, name string) *Check {
	return &Check{Category: category, Name: name, Result: Pass, Problems: []Problem{}}
}

// saw sets the detail of a check.
func (c *Check) saw(format string, args ...any) *Check {
	c.Detail = printable.Line(fmt.Sprintf(format, args...))
	return c
}

// fail, warn and skip add a problem with what to do about it.
func (c *Check) fail(advice, format string, args ...any) *Check {
	return c.add(Fail, advice, format, args...)
}

func (c *Check) warn(advice, format string, args ...any) *Check {
	return c.add(Warning, advice, format, args...)
}

func (c *Check) skip(advice, format string, args ...any) *Check {
	return c.add(Skipped, advice, format, args...)
}

// add adds a problem. Its text may quote a cluster.
func (c *Check) add(result Result, advice, format string, args ...any) *Check {
	text := printable.Line(fmt.Sprintf(format, args...))
	c.Problems = append(c.Problems, Problem{Result: result, Text: text, Advice: printable.Line(advice)})
	if cmp.Compare(rank[result], rank[c.Result]) > 0 {
		c.Result = result
	}
	return c
}
