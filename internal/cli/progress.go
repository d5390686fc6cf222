package cli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/keyturn/keyturn/internal/printable"
)

// quiet is how long a plain line stays the last one before details that changed since get a line of their own:
// what is waited for changes many times a second.
const quiet = 5 * time.Second

// progress shows on standard error what is waited for. At a terminal each step has one line, which is redrawn while the
// step runs and then keeps how long it took. Elsewhere each step has a line with the time since the start, and now and
// then another one for its details.
type progress struct {
	a *app
	// begun is when the first step began, and stepBegun when the current one did.
	begun, stepBegun time.Time
	// live means that lines can be redrawn, and colored that they may have colors.
	live, colored bool
	// step and detail are what goes on, and drawn reports whether the live line is on the screen.
	step, detail string
	drawn        bool
	// printed is the last plain line without its time, and printedAt when it was printed.
	printed   string
	printedAt time.Time
}

func (a *app) progress() *progress {
	live := a.IsTerminal(a.Err) && a.Getenv("TERM") != "dumb"
	return &progress{a: a, begun: a.Now(), stepBegun: a.Now(), live: live, colored: live && a.Getenv("NO_COLOR") == ""}
}

// longestDetail keeps what is waited for readable: it may hold the answer of a server or the end of a log, which
// `describe` shows whole.
const longestDetail = 160

// show shows which step runs and what it waits for.
func (p *progress) show(step, detail string) {
	detail = cut(printable.Line(detail), longestDetail)
	if step == p.step && detail == p.detail {
		return
	}
	changed := step != p.step
	if unblocked(step) != unblocked(p.step) {
		p.leave(markDone, p.stepBegun)
		p.stepBegun = p.a.Now()
	}
	p.step, p.detail = step, detail
	if !p.live && changed {
		p.print()
	}
	p.tick()
}

func (p *progress) print() {
	p.printed, p.printedAt = p.step+p.detail, p.a.Now()
	fmt.Fprintf(p.a.Err, "[%6s] %s\n", p.since(p.begun), p.text())
}

// tick brings what is shown up to date.
func (p *progress) tick() {
	switch {
	case p.step == "":
	case p.live:
		mark := markRuns
		if unblocked(p.step) != p.step {
			mark = markBlocked
		}
		p.draw(mark, p.stepBegun, p.detail)
	case p.step+p.detail != p.printed && p.a.Now().Sub(p.printedAt) >= quiet:
		p.print()
	}
}

// finish leaves the live line of the last step with the time of all steps together.
func (p *progress) finish() { p.leave(markDone, p.begun) }

// leave leaves the live line as that of a step that is over, if there is one.
func (p *progress) leave(m mark, begun time.Time) {
	if p.drawn {
		p.draw(m, begun, "")
		p.end()
	}
}

// end leaves the live line as it is now; what comes next is a line of its own.
func (p *progress) end() {
	if p.drawn {
		fmt.Fprintln(p.a.Err)
	}
	p.drawn = false
}

// A mark begins a live line: a character, and the parameter of its color.
type mark struct{ sign, color string }

var (
	markDone    = mark{"✓", "32"}
	markRuns    = mark{"•", "34"}
	markBlocked = mark{"!", "31"}
)

// The escape sequences of a terminal (ECMA-48, and DECAWM of the VT100). Without wrapping, a line that is too long, for
// example because some of its characters take two columns, is cut by the terminal.
const (
	clearLine = "\r\x1b[K"
	wrapOff   = "\x1b[?7l"
	wrapOn    = "\x1b[?7h"
)

// draw replaces the live line. It asks for the width each time, as terminals are resized.
func (p *progress) draw(m mark, begun time.Time, detail string) {
	sign := m.sign
	if p.colored {
		sign = "\x1b[" + m.color + "m" + sign + "\x1b[0m"
	}
	text := strings.TrimRight(fmt.Sprintf(" %-9s %6s  %s", unblocked(p.step), p.since(begun), detail), " ")
	fmt.Fprint(p.a.Err, clearLine+wrapOff+sign+cut(text, p.width()-2)+wrapOn)
	p.drawn = true
}

func (p *progress) since(t time.Time) time.Duration { return p.a.Now().Sub(t).Round(time.Second) }

// isBlocked is what the name of a step ends in while somebody must act.
const isBlocked = " is blocked"

func unblocked(step string) string { return strings.TrimSuffix(step, isBlocked) }

// text is what was shown last.
func (p *progress) text() string {
	if p.detail == "" {
		return p.step
	}
	return p.step + ": " + p.detail
}

// cut shortens a text to a number of characters.
func cut(text string, most int) string {
	runes := []rune(text)
	switch {
	case len(runes) <= most:
		return text
	case most < 1:
		return ""
	}
	return string(runes[:most-1]) + "…"
}

// width is that of the terminal in columns; 80 if that is not known.
func (p *progress) width() int {
	if f, ok := p.a.Err.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return 80
}
