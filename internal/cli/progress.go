package cli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"
)

// quiet is how long a plain line stays the last one before details that changed since get a line of their own:
// what is waited for changes many times a second.
const quiet = 5 * time.Second

// progress shows what is waited for on standard error: a line for each step and now and then one for its
// details, or at a terminal one line that is kept up to date, and left behind when a step ends.
type progress struct {
	a     *app
	begun time.Time
	live  bool
	// step and detail are what goes on, and drawn says that the live line is on the screen.
	step, detail string
	drawn        bool
	// printed is the last plain line without its time, and printedAt when it was printed.
	printed   string
	printedAt time.Time
}

func (a *app) progress() *progress {
	return &progress{a: a, begun: a.Now(), live: a.IsTerminal(a.Err)}
}

// longestDetail keeps what is waited for readable: it may hold the answer of a server or the end of a log, which
// `describe` shows whole.
const longestDetail = 160

// show says what step runs and what it waits for.
func (p *progress) show(step, detail string) {
	detail = cut(strings.ReplaceAll(detail, "\n", " "), longestDetail)
	if step == p.step && detail == p.detail {
		return
	}
	changed := step != p.step
	if p.live && changed {
		p.end()
	}
	p.step, p.detail = step, detail
	if !p.live && changed {
		p.print()
	}
	p.tick()
}

func (p *progress) print() {
	p.printed, p.printedAt = p.step+p.detail, p.a.Now()
	fmt.Fprintln(p.a.Err, p.line())
}

// tick brings what is shown up to date.
func (p *progress) tick() {
	switch {
	case p.step == "":
		return
	case !p.live:
		if p.step+p.detail != p.printed && p.a.Now().Sub(p.printedAt) >= quiet {
			p.print()
		}
		return
	}
	// A line as wide as the terminal would wrap at some.
	fmt.Fprintf(p.a.Err, "\r\x1b[K%s", cut(p.line(), p.width()-1))
	p.drawn = true
}

// end leaves the live line as it is now; what comes next is a line of its own.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprintln(p.a.Err)
	}
	p.drawn = false
}

func (p *progress) line() string {
	return fmt.Sprintf("[%6s] %s", p.a.Now().Sub(p.begun).Round(time.Second), p.text())
}

// text is what was shown last.
func (p *progress) text() string {
	if p.detail == "" {
		return p.step
	}
	return p.step + ": " + p.detail
}

// cut shortens a text to a number of columns.
func cut(text string, columns int) string {
	if runes := []rune(text); len(runes) > columns {
		return string(runes[:columns-1]) + "…"
	}
	return text
}

// width is that of the terminal in columns.
func (p *progress) width() int {
	if f, ok := p.a.Err.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 20 {
			return width
		}
	}
	return 80
}
