package lint

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	testName   = regexp.MustCompile(`\b(?:Test|Fuzz|Benchmark)[A-Z]\w*`)
	testFunc   = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Z]\w*)\(`)
	metricName = regexp.MustCompile(`\bkeyturn_[a-z_]*[a-z]\b`)
	alertRule  = regexp.MustCompile(`(?m)^ *- alert: (\w+)`)
	alertName  = regexp.MustCompile(`\bKeyturn[A-Z]\w+`)
)

// tests finds names of tests that no code has. A pattern of -run may be the beginning of a name.
func tests(r *repository) ([]Fault, error) {
	known := map[string]bool{}
	for _, file := range r.sources {
		if !strings.HasSuffix(file, "_test.go") {
			continue
		}
		code, err := os.ReadFile(filepath.Join(r.root, file))
		if err != nil {
			return nil, err
		}
		for _, f := range testFunc.FindAllSubmatch(code, -1) {
			known[string(f[1])] = true
		}
	}
	begins := func(beginning string) bool {
		for name := range known {
			if strings.HasPrefix(name, beginning) {
				return true
			}
		}
		return false
	}
	return r.eachLine(testName, func(line, name string) string {
		if known[name] || strings.Contains(line, "-run") && begins(name) {
			return ""
		}
		return fmt.Sprintf("there is no test %s", name)
	}), nil
}

// metrics finds metrics that are not in their reference, and alerts that the chart does not have.
func metrics(r *repository) ([]Fault, error) {
	reference := r.pages["docs/reference/metrics.md"]
	if reference == nil {
		return nil, nil
	}
	known := map[string]bool{}
	for _, name := range metricName.FindAllString(string(reference.source), -1) {
		known[name] = true
	}
	chart, err := r.read("deploy/charts/keyturn/templates/*", "deploy/charts/keyturn/files/*")
	if err != nil {
		return nil, err
	}
	for _, name := range alertName.FindAllString(chart, -1) {
		known[name] = true
	}
	for _, p := range r.pages { // rules that a page defines
		for _, rule := range alertRule.FindAllSubmatch(p.source, -1) {
			known[string(rule[1])] = true
		}
	}
	either := regexp.MustCompile(metricName.String() + "|" + alertName.String())
	return r.eachLine(either, func(_, name string) string {
		for _, suffix := range []string{"", "_bucket", "_sum", "_count"} {
			if known[strings.TrimSuffix(name, suffix)] {
				return ""
			}
		}
		return fmt.Sprintf("there is no metric or alert %s", name)
	}), nil
}

// eachLine gathers what is wrong with the words of Markdown files that match a pattern.
func (r *repository) eachLine(pattern *regexp.Regexp, wrong func(line, word string) string) []Fault {
	return r.eachPage(func(p *page, fault func(int, string)) {
		number := 0
		for line := range strings.SplitSeq(string(p.source), "\n") {
			number++
			for _, word := range pattern.FindAllString(line, -1) {
				if text := wrong(line, word); text != "" {
					fault(number, text)
				}
			}
		}
	})
}
