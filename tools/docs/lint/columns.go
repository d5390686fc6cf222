package lint

import (
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/yuin/goldmark/ast"
)

// widest is how many columns a line may have.
const widest = 120

// columns finds lines that are too long and can be broken: not code, tables, headings, or single words.
func columns(r *repository) ([]Fault, error) {
	return r.eachPage(func(p *page, fault func(int, string)) {
		free := map[int]bool{}
		p.each(func(n ast.Node) {
			switch n.(type) {
			case *ast.FencedCodeBlock, *ast.CodeBlock, *ast.HTMLBlock, *ast.Heading:
				for i := range n.Lines().Len() {
					free[p.lineAt(n.Lines().At(i).Start)] = true
				}
			}
		})
		number := 0
		for line := range strings.SplitSeq(string(p.source), "\n") {
			number++
			if n := utf8.RuneCountInString(line); n > widest && !free[number] && breakable(line) {
				fault(number, fmt.Sprintf("the line has %d columns", n))
			}
		}
	}), nil
}

// marker is what a line begins with before its text.
var marker = regexp.MustCompile(`^[ \t>]*([-*+] |[0-9]+[.)] )?`)

// breakable reports whether a line could be broken before it is too long.
func breakable(line string) bool {
	rest := strings.TrimLeft(line[len(marker.FindString(line)):], " ")
	if strings.HasPrefix(rest, "|") {
		return false
	}
	end := widest - utf8.RuneCountInString(line) + utf8.RuneCountInString(rest)
	columns := 0
	for _, c := range rest {
		if c == ' ' && columns <= end {
			return true
		}
		columns++
	}
	return false
}
