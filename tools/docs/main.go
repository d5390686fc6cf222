// Command docs makes the generated documentation and checks the rest. It runs at the root of the repository:
//
//	go run ./tools/docs              writes docs/reference
//	go run ./tools/docs -out DIR     writes the same files to another directory
//	go run ./tools/docs -man DIR     writes the man pages of all programs
//	go run ./tools/docs -lint        checks Markdown and Go comments, by the rules of package lint
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/keyturn/keyturn/tools/docs/lint"
	"github.com/keyturn/keyturn/tools/docs/reference"
)

func main() {
	out := flag.String("out", "docs/reference", "`directory` for the references")
	man := flag.String("man", "", "write the man pages to this `directory`, and no references")
	check := flag.Bool("lint", false, "check the documentation, and write nothing")
	without := flag.String("without", "", "`rules` that are not checked, separated by commas")
	flag.Parse()
	if err := run(*out, *man, *check, *without); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
}

func run(out, man string, check bool, without string) error {
	if check {
		return report(os.Stdout, ".", without)
	}
	pages, err := reference.Pages(".")
	if man != "" {
		out, pages, err = man, reference.Man(), nil
	}
	if err != nil {
		return err
	}
	return write(out, pages)
}

// write writes files into a directory, which it makes.
func write(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// report prints each fault, and how many there are of each rule.
func report(w io.Writer, root, without string) error {
	rules := lint.Rules()
	if without != "" {
		var err error
		if rules, err = lint.Without(rules, strings.Split(without, ",")); err != nil {
			return err
		}
	}
	faults, err := lint.Check(root, rules)
	if err != nil {
		return err
	}
	count := map[string]int{}
	for _, f := range faults {
		fmt.Fprintln(w, f)
		count[f.Rule]++
	}
	if len(faults) == 0 {
		return nil
	}
	for _, r := range rules {
		if n := count[r.Name]; n > 0 {
			fmt.Fprintf(w, "%5d %s: %s\n", n, r.Name, r.What)
		}
	}
	return errors.New("the documentation has faults")
}
