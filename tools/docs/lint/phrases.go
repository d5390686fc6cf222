package lint

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strings"

	markdown "github.com/yuin/goldmark/ast"
)

//go:embed phrases.txt
var phraseList string

// phrase is one that is not written.
type phrase struct {
	*regexp.Regexp
	instead string
}

// phrasesOf reads phrases.txt: those of Markdown, or of Go comments.
func phrasesOf(kind string) (list []phrase, err error) {
	for line := range strings.SplitSeq(phraseList, "\n") {
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		parts := strings.SplitN(line, "\t", 3)
		if len(parts) != 3 {
			return nil, fmt.Errorf("phrases.txt: %q is not a kind, a pattern and what to write, with tabs between", line)
		}
		if parts[0] != "all" && parts[0] != kind {
			continue
		}
		pattern, err := regexp.Compile(`(?i)\b(?:` + parts[1] + `)\b`)
		if err != nil {
			return nil, fmt.Errorf("phrases.txt: %w", err)
		}
		list = append(list, phrase{pattern, parts[2]})
	}
	return list, nil
}

// running is text whose lines are joined, so that a phrase is found across their ends.
type running struct {
	text   string
	starts []int // where each line begins in the text
	first  int   // the number of the first line
}

func (t *running) add(line string) {
	t.starts = append(t.starts, len(t.text))
	t.text += line + " "
}

// search calls found for each phrase in the text.
func (t *running) search(list []phrase, found func(line int, text string)) {
	for _, p := range list {
		for _, at := range p.FindAllStringIndex(t.text, -1) {
			line := t.first - 1
			for _, start := range t.starts {
				if start <= at[0] {
					line++
				}
			}
			found(line, fmt.Sprintf("%q: write %s", t.text[at[0]:at[1]], p.instead))
		}
	}
}

// hidden is what is no prose in a line of Markdown: code spans, and where links lead.
var hidden = regexp.MustCompile("`[^`]*`|\\]\\([^)]*\\)")

// libraryTexts are pages with texts of libraries, such as the help of their metrics.
var libraryTexts = map[string]bool{"docs/reference/metrics.md": true}

// phrases searches the prose of Markdown, but for texts that are not ours.
func phrases(r *repository) ([]Fault, error) {
	list, err := phrasesOf("md")
	if err != nil {
		return nil, err
	}
	return r.eachPage(func(p *page, fault func(int, string)) {
		if libraryTexts[p.path] {
			return
		}
		p.each(func(n markdown.Node) {
			if n.Type() != markdown.TypeBlock || n.FirstChild() == nil || n.FirstChild().Type() != markdown.TypeInline {
				return
			}
			t := running{first: p.line(n)}
			for i := range n.Lines().Len() {
				s := n.Lines().At(i)
				t.add(strings.TrimSpace(string(s.Value(p.source))))
			}
			t.text = hidden.ReplaceAllStringFunc(t.text, func(s string) string { return strings.Repeat(".", len(s)) })
			t.search(list, fault)
		})
	}), nil
}

// goPhrases searches the comments of Go code, but of code that is generated.
func goPhrases(r *repository) (faults []Fault, err error) {
	list, err := phrasesOf("go")
	if err != nil {
		return nil, err
	}
	for _, file := range r.sources {
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, filepath.Join(r.root, file), nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		if ast.IsGenerated(f) {
			continue
		}
		for _, group := range f.Comments {
			t := comment(set, group)
			t.search(list, func(line int, text string) { faults = append(faults, Fault{File: file, Line: line, Text: text}) })
		}
	}
	return faults, nil
}

// comment is the text of a comment without code in quotes.
func comment(set *token.FileSet, group *ast.CommentGroup) *running {
	t := &running{first: set.Position(group.Pos()).Line}
	for _, c := range group.List {
		for line := range strings.SplitSeq(c.Text, "\n") {
			t.add(strings.TrimSpace(strings.TrimPrefix(line, "//")))
		}
	}
	t.text = hidden.ReplaceAllStringFunc(t.text, func(s string) string { return strings.Repeat(".", len(s)) })
	return t
}
