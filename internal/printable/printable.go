// Package printable cleans untrusted text: from servers, buckets and specs that Keyturn does not control.
//
// Such text is shown on terminals, in logs and in the status of a UserCluster. Everything that quotes it goes through
// this package, which removes what could move a cursor, change the direction of a line, or fill a screen. Start with
// Line.
package printable

import (
	"strings"
	"unicode"
)

// MaxLine is the length of a Line in characters, without the ellipsis that replaces the rest.
const MaxLine = 300

// Line returns the text as one line of at most MaxLine printable characters. Each run of other characters becomes a
// space.
func Line(text string) string {
	const most = 16 * MaxLine // bytes that are read of a text of any length
	long := len(text) > most
	if long {
		text = text[:most]
	}
	line := strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || !isPrintable(r) }), " ")
	cut := Cut(line, MaxLine)
	if long && cut == line {
		cut += ellipsis
	}
	return cut
}

// Text returns the lines of a text, at most limit characters, with a space for each unprintable one.
func Text(text string, limit int) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r == '\n' || isPrintable(r) {
			return r
		}
		return ' '
	}, Cut(text, limit)))
}

// isPrintable reports whether a character takes its own space on a line. Control characters, and characters that change
// the direction of a line, do not.
func isPrintable(r rune) bool { return unicode.IsPrint(r) && r != unicode.ReplacementChar }

const ellipsis = "…"

// Cut shortens a text to a number of characters, and then adds an ellipsis.
func Cut(text string, limit int) string {
	n := 0
	for i := range text {
		if n == limit {
			return text[:i] + ellipsis
		}
		n++
	}
	return text
}

// Error returns an error that wraps err and whose text is a Line of its text.
func Error(err error) error { return &cleaned{err} }

type cleaned struct{ err error }

func (e *cleaned) Error() string { return Line(e.err.Error()) }

func (e *cleaned) Unwrap() error { return e.err }
