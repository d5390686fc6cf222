package supervisor

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
)

// Reporter is the child's end of its supervisor.
type Reporter struct{ conn net.Conn }

// Connect finds the supervisor of this process.
func Connect() (*Reporter, error) {
	syscall.CloseOnExec(reportFile)
	f := os.NewFile(reportFile, "supervisor")
	if f == nil {
		return nil, fmt.Errorf("finding the supervisor: no file descriptor %d", reportFile)
	}
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("finding the supervisor: %w", err)
	}
	return &Reporter{conn}, nil
}

// Close ends the connection. The supervisor takes that as the end of the child.
func (r *Reporter) Close() error { return r.conn.Close() }

// Serve says that the child serves, and then answers each question by what check says, until the supervisor is gone or Close
// is called. A check that does not return in time gets the child killed; one that fails does not. It never answers for a
// failure ErrHopeless returns true for.
func (r *Reporter) Serve(check func() error, hopeless func(error) bool) {
	if _, err := io.WriteString(r.conn, wordServing+"\n"); err != nil {
		return
	}
	for lines := bufio.NewScanner(r.conn); lines.Scan(); {
		if strings.TrimSpace(lines.Text()) != wordAsk {
			continue
		}
		word := wordWorks
		if err := check(); err != nil {
			if hopeless(err) {
				continue
			}
			word = wordFails
		}
		if _, err := io.WriteString(r.conn, word+"\n"); err != nil {
			return
		}
	}
}
