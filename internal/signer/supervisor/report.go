package supervisor

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"syscall"
)

// Report is what a child reports: once it serves, and then whenever it is asked.
type Report struct {
	// Problem is why the child cannot do its work now; empty if it can.
	Problem string `json:"problem,omitempty"`
	// Renew requests a hand-over, because this process should not continue. It is repeated until that is done.
	Renew bool `json:"renew,omitempty"`
	// Metrics are in the text format of Prometheus.
	Metrics string `json:"metrics,omitempty"`
}

// wordAsk is what the supervisor writes to the socket pair, one line each time. The child answers with a line of JSON.
const wordAsk = "report?\n"

// maxReport is the longest line of a report.
const maxReport = 256 << 10

// hear reads a report.
func hear(lines *bufio.Reader) (r Report, err error) {
	line, err := lines.ReadSlice('\n')
	if err != nil {
		return r, err
	}
	err = json.Unmarshal(line, &r)
	return r, err
}

// Reporter is the child's connection to its supervisor.
type Reporter struct{ conn net.Conn }

// Connect connects to the supervisor of this process.
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

// Close closes the connection, which means the end of the child for the supervisor.
func (r *Reporter) Close() error { return r.conn.Close() }

// Serve sends a report, which tells the supervisor that the child serves, and then another one for each question, until
// the supervisor is gone or Close is called. If a report fails or takes too long, the child is killed.
func (r *Reporter) Serve(report func() (Report, error)) {
	for lines := bufio.NewScanner(r.conn); ; {
		if now, err := report(); err == nil {
			if err := r.send(now); err != nil {
				return
			}
		}
		if !lines.Scan() {
			return
		}
	}
}

func (r *Reporter) send(report Report) error {
	line, err := json.Marshal(report)
	if err != nil {
		return err
	}
	_, err = r.conn.Write(append(line, '\n'))
	return err
}
