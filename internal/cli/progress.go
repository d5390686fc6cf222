package cli

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/keyturn/keyturn/internal/printable"
)

// quiet is how long a plain line stands before changed details get a line of their own, since details change many times
// a second.
const quiet = 5 * time.Second

// progress shows on standard error what a command waits for. On a terminal, each step has one line, which is redrawn
// while the step runs and then shows how long it took. Elsewhere, each step has a line with the time since the start,
// and from time to time another one for its details.
type progress struct {
	a *app
	// begun is when the first step began, and stepBegun when the current step did.
	begun, stepBegun time.Time
	// live means that lines can be redrawn, and colored that they may have colors.
	live, colored bool
	// step and detail are the current ones, and drawn means that the live line is on the screen.
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

// longestDetail is how many characters of a detail are shown: it may hold the answer of a server or the end of a log,
// which `describe` shows in full.
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

// tick updates what is shown.
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

// finish leaves the live line of the last step, with the total time.
func (p *progress) finish() { p.leave(markDone, p.begun) }

// leave leaves the live line, if there is one, as the line of a finished step.
func (p *progress) leave(m mark, begun time.Time) {
	if p.drawn {
		p.draw(m, begun, "")
		p.end()
	}
}

// end leaves the live line as it is, so that other output starts on the next line.
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

// draw replaces the live line. It asks for the width each time, since terminals are resized.
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

// isBlocked is the suffix of a step's name while somebody must act.
const isBlocked = " is blocked"

func unblocked(step string) string { return strings.TrimSuffix(step, isBlocked) }

// text returns what was shown last.
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

// width returns the width of the terminal in columns; 80 if it is unknown.
func (p *progress) width() int {
	if f, ok := p.a.Err.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return 80
}
