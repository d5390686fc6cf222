package lint

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"

	"github.com/yuin/goldmark"
	"github.com/yuin/goldmark/ast"
	"github.com/yuin/goldmark/extension"
	"github.com/yuin/goldmark/text"
)

// page is a Markdown file.
type page struct {
	path   string
	source []byte
	root   ast.Node
	// anchors are what a link to the page may name.
	anchors map[string]bool
}

func newPage(path string, source []byte) *page {
	p := &page{path: path, source: source, anchors: map[string]bool{}}
	p.root = goldmark.New(goldmark.WithExtensions(extension.GFM)).Parser().Parse(text.NewReader(source))
	p.each(func(n ast.Node) {
		if h, ok := n.(*ast.Heading); ok {
			p.anchor(p.plain(h))
		}
	})
	for _, id := range htmlAnchor.FindAllSubmatch(source, -1) {
		p.anchors[string(id[1])] = true
	}
	return p
}

var htmlAnchor = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)

// anchor adds the one that GitHub gives to a heading.
func (p *page) anchor(heading string) {
	name := anchorOf(heading)
	unique := name
	for i := 1; p.anchors[unique]; i++ {
		unique = name + "-" + string(rune('0'+i))
	}
	p.anchors[unique] = true
}

// anchorOf is the anchor of a heading: its letters, digits, dashes and blanks, which become dashes.
func anchorOf(heading string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// each visits all nodes in their order.
func (p *page) each(visit func(ast.Node)) {
	_ = ast.Walk(p.root, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		if entering {
			visit(n)
		}
		return ast.WalkContinue, nil
	})
}

// plain is the text of a node without its markup.
func (p *page) plain(n ast.Node) string {
	var all strings.Builder
	_ = ast.Walk(n, func(n ast.Node, entering bool) (ast.WalkStatus, error) {
		switch t := n.(type) {
		case *ast.Text:
			if entering {
				all.Write(t.Segment.Value(p.source))
				if t.SoftLineBreak() {
					all.WriteByte(' ')
				}
			}
		case *ast.String:
			if entering {
				all.Write(t.Value)
			}
		}
		return ast.WalkContinue, nil
	})
	return strings.ReplaceAll(all.String(), "\n", " ")
}

// line is the number of the line in which a node begins.
func (p *page) line(n ast.Node) int {
	start := -1
	_ = ast.Walk(n, func(n ast.Node, _ bool) (ast.WalkStatus, error) {
		if t, ok := n.(*ast.Text); ok && start < 0 {
			start = t.Segment.Start
			return ast.WalkStop, nil
		}
		return ast.WalkContinue, nil
	})
	for b := n; start < 0 && b != nil; b = b.Parent() {
		if b.Type() == ast.TypeBlock && b.Lines() != nil && b.Lines().Len() > 0 {
			start = b.Lines().At(0).Start
		}
	}
	return p.lineAt(max(start, 0))
}

// lineAt is the number of the line of a position in the source.
func (p *page) lineAt(position int) int { return bytes.Count(p.source[:position], []byte("\n")) + 1 }

// block is the content of a block of code.
type block struct {
	language string
	line     int
	lines    []string
}

// blocks returns the blocks of code.
func (p *page) blocks() (all []block) {
	p.each(func(n ast.Node) {
		var b block
		switch t := n.(type) {
		case *ast.FencedCodeBlock:
			b.language = string(t.Language(p.source))
		case *ast.CodeBlock:
		default:
			return
		}
		for i := range n.Lines().Len() {
			s := n.Lines().At(i)
			if i == 0 {
				b.line = p.lineAt(s.Start)
			}
			b.lines = append(b.lines, strings.TrimRight(string(s.Value(p.source)), "\n"))
		}
		all = append(all, b)
	})
	return all
}

// spans calls visit for each code span with its line.
func (p *page) spans(visit func(line int, code string)) {
	p.each(func(n ast.Node) {
		if c, ok := n.(*ast.CodeSpan); ok {
			visit(p.line(c), p.plain(c))
		}
	})
}
