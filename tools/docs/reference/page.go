package reference

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"unicode/utf8"
)

// columns is the width of a page.
const columns = 120

// page is a Markdown page in the making.
type page struct{ bytes.Buffer }

// newPage begins a page with its title.
func newPage(title string) *page {
	p := &page{}
	p.WriteString(notice)
	p.heading(1, title)
	return p
}

func (p *page) heading(level int, text string) {
	fmt.Fprintf(p, "%s %s\n\n", strings.Repeat("#", level), text)
}

// text writes Markdown, whose paragraphs are separated by empty lines.
func (p *page) text(markdown string) {
	for paragraph := range strings.SplitSeq(markdown, "\n\n") {
		p.wrap("", "", paragraph)
		p.WriteByte('\n')
	}
}

// item writes an entry of a list, at a depth that begins with 0.
func (p *page) item(depth int, markdown string) {
	indent := strings.Repeat("  ", depth)
	p.wrap(indent+"- ", indent+"  ", markdown)
}

// entry writes an entry of a list that describes a name: facts about it, and plain text.
func (p *page) entry(depth int, name string, facts []string, text string) {
	entry := code(name)
	if len(facts) > 0 {
		entry += " (" + strings.Join(facts, "; ") + ")"
	}
	if text = sentence(text); text != "" {
		entry += ": " + escape(text)
	}
	p.item(depth, entry)
}

// sentence ends a text with a full stop.
func sentence(text string) string {
	text = strings.TrimSpace(text)
	if text == "" || strings.HasSuffix(text, ".") {
		return text
	}
	return text + "."
}

// code writes a block of code.
func (p *page) code(language, lines string) {
	fmt.Fprintf(p, "```%s\n%s\n```\n\n", language, strings.Trim(lines, "\n"))
}

// span finds what must not be broken: code spans, and words.
var span = regexp.MustCompile("[^\\s`]*`[^`]+`[^\\s`]*|\\S+")

// wrap writes words in lines of a page's width; a longer one gets a line of its own.
func (p *page) wrap(first, rest, text string) {
	line, empty := first, true
	for _, word := range span.FindAllString(text, -1) {
		word = strings.Join(strings.Fields(word), " ")
		if !empty && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns {
			fmt.Fprintln(p, line)
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line, empty = line+word, false
	}
	fmt.Fprintln(p, line)
}

// plain finds code spans, and the characters that Markdown would take for markup outside of them.
var plain = regexp.MustCompile("`[^`]+`|[*<]|\\[")

// escape returns plain text, with code spans, as Markdown.
func escape(text string) string {
	return plain.ReplaceAllStringFunc(text, func(s string) string {
		if len(s) > 1 {
			return s
		}
		return `\` + s
	})
}

// code returns text as a code span.
func code(text string) string {
	if strings.Contains(text, "`") {
		return "`` " + text + " ``"
	}
	return "`" + text + "`"
}
