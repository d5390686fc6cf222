package hint_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/hint"
)

var errCause = errors.New("it is full")

func TestHintIsNotPartOfTheText(t *testing.T) {
	err := hint.Errorf("empty it", "writing %s: %w", "disk", errCause)
	deep := fmt.Errorf("making a cluster: %w", errors.Join(errors.New("first"), fmt.Errorf("second: %w", err)))
	for _, err := range []error{err, deep} {
		if got := hint.Of(err); got != "empty it" || strings.Contains(err.Error(), "empty it") || !errors.Is(err, errCause) {
			t.Errorf("%q has the hint %q", err, got)
		}
	}
	if got := hint.Of(hint.Errorf("buy another", "storing: %w", deep)); got != "buy another" {
		t.Errorf("the outermost hint is %q", got)
	}
	if got, want := hint.Line(err), "writing disk: it is full (empty it)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, err := range []error{nil, errCause} {
		if got := hint.Of(err); got != "" {
			t.Errorf("%v has the hint %q", err, got)
		}
	}
	if got := hint.Line(errCause); got != "it is full" {
		t.Errorf("got %q", got)
	}
}

func TestHintInALog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	log.Error("ends", slog.Any("error", hint.Errorf("empty it", "full")), hint.Attr(hint.Errorf("empty it", "full")))
	log.Error("ends", slog.Any("error", errCause), hint.Attr(errCause))
	first, second, _ := strings.Cut(out.String(), "\n")
	if !strings.HasSuffix(first, `error=full hint="empty it"`) || !strings.HasSuffix(second, "error=\"it is full\"\n") {
		t.Errorf("got\n%s", out.String())
	}
}
