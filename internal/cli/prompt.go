package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"
)

// confirm asks the user, unless skip says not to. No answer, and any answer but yes, is an error.
func (a *app) confirm(ctx context.Context, skip bool, question string) error {
	if skip {
		return nil
	}
	if !a.IsTerminal(a.In) {
		return usage("--skip-prompt goes on without asking", "this needs a confirmation, and there is no terminal to ask at")
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
	return failed("answer y to go on", "not confirmed; nothing was changed")
}

// readLine waits for a line of input, but not longer than ctx: a read itself cannot be interrupted.
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
