package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
)

// confirm asks the user, unless skip is set. It returns an error if there is no answer, or another one than yes.
func (a *app) confirm(ctx context.Context, skip bool, question string) error {
	if skip {
		return nil
	}
	if !a.IsTerminal(a.In) {
		return usage("use --skip-prompt to continue without a question",
			"this needs a confirmation, but standard input is not a terminal")
	}
	fmt.Fprintf(a.Err, "%s [y/N] ", question)
	answer, err := a.readLine(ctx)
	if err != nil {
		return err
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	}
	return failed("answer y to continue", "not confirmed; nothing was changed")
}

// readLine waits for a line of input until ctx ends, since a read cannot be interrupted.
func (a *app) readLine(ctx context.Context) (string, error) {
	lines := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.In).ReadString('\n')
		lines <- line
	}()
	select {
	case line := <-lines:
		return line, nil
	case <-ctx.Done():
		return "", errors.Join(errors.New("waiting for an answer"), ctx.Err())
	}
}
