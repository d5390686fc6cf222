// Package daemon runs the programs of Keyturn that serve until they are stopped: flags in, a JSON log and an exit code
// out.
package daemon

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/keyturn/keyturn/internal/hint"
)

// Program is a program with flags F.
type Program[F any] struct {
	Name string
	// Parse reads the flags. If help is requested, it prints it to stderr and returns flag.ErrHelp.
	Parse func(args []string, stderr io.Writer) (F, error)
	// Work does the work, until it ends.
	Work func(flags F, log *slog.Logger) error
}

// Run runs the program. It returns the exit code: 0 at the end, 1 after a failure, 2 after bad flags.
func (p Program[F]) Run(args []string, stderr io.Writer) int {
	flags, err := p.Parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		_, _ = fmt.Fprintf(stderr, "Error: %v\nhint: %s\n", err, cmp.Or(hint.Of(err), "see "+p.Name+" --help"))
		return 2
	}
	log := slog.New(slog.NewJSONHandler(stderr, nil))
	if err := p.Work(flags, log); err != nil {
		log.Error(p.Name+" ends", slog.Any("error", err), hint.Attr(err))
		return 1
	}
	return 0
}
