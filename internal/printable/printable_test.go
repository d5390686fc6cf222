package printable_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/keyturn/keyturn/internal/printable"
)

func TestLine(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"empty":          {"", ""},
		"plain":          {"bucket blue: größer als 5 €", "bucket blue: größer als 5 €"},
		"lines":          {"one\r\ntwo\n\n three\t four", "one two three four"},
		"escapes":        {"\x1b[31mred\x1b]0;title\a\x9b", "[31mred ]0;title"},
		"right to left":  {"abc\u202edef\u2066", "abc def"},
		"zero width":     {"a\u200bb\ufeffc", "a b c"},
		"line separator": {"a\u2028b\u0085c", "a b c"},
		"not UTF-8":      {"a\xff\xfeb", "a b"},
		"long":           {strings.Repeat("ü", 301), strings.Repeat("ü", 300) + "…"},
		"just so":        {strings.Repeat("ü", 300), strings.Repeat("ü", 300)},
		"blank":          {"a" + strings.Repeat(" ", 1<<20) + "b", "a…"},
	} {
		if got := printable.Line(c.text); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestText(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"lines stay": {"one\nhint: two\n", "one\nhint: two"},
		"escapes":    {"one\x1b[2J\ntwo\r", "one [2J\ntwo"},
		"not UTF-8":  {"a\xffb", "a b"},
		"long":       {strings.Repeat("é", 40), strings.Repeat("é", 20) + "…"},
	} {
		if got := printable.Text(c.text, 20); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestError(t *testing.T) {
	err := printable.Error(&fs.PathError{Op: "open", Path: "\x1b[2J" + strings.Repeat("x", 1<<20), Err: fs.ErrNotExist})
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("the error does not wrap what it was made of")
	}
	if text := err.Error(); strings.Contains(text, "\x1b") || utf8.RuneCountInString(text) > printable.MaxLine+1 {
		t.Errorf("got %q", text)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\nb\x1b\xff")
	f.Fuzz(func(t *testing.T, text string) {
		line := printable.Line(text)
		if utf8.RuneCountInString(line) > printable.MaxLine+1 || !utf8.ValidString(line) ||
			strings.ContainsAny(line, "\n\r\x1b") {
			t.Errorf("%q becomes %q", text, line)
		}
		if again := printable.Line(line); !strings.HasSuffix(line, "…") && again != line {
			t.Errorf("%q becomes %q, and that %q", text, line, again)
		}
	})
}
