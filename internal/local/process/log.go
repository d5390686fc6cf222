package process

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strings"
)

// maxLog is the size of a log at which the next start renames it to NAME.log.1.
const maxLog = 50 << 20

func openLog(path string) (*os.File, error) {
	if st, err := os.Stat(path); err == nil && st.Size() > maxLog {
		if err := os.Rename(path, path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
}

// secrets matches what no text about a process may repeat: PEM, and anything in three parts like a token.
var secrets = regexp.MustCompile(`-----BEGIN|-----END|[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}`)

// LastLines returns up to n lines from the end of a log, each cut to 300 bytes, joined by " | ". It omits a line that
// may contain a key or a token.
func (r *Runner) LastLines(name string, n int) string {
	tail, err := readTail(r.file(name, "log"), 8<<10)
	if err != nil {
		return ""
	}
	lines := strings.Split(tail, "\n")
	var last []string
	for i := len(lines) - 1; i >= 0 && len(last) < n; i-- {
		line := strings.TrimSpace(lines[i])
		if line == "" || secrets.MatchString(line) {
			continue
		}
		last = append([]string{line[:min(len(line), 300)]}, last...)
	}
	return strings.Join(last, " | ")
}

func readTail(path string, size int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return "", err
	}
	raw, err := io.ReadAll(io.NewSectionReader(f, max(0, st.Size()-size), size))
	return string(raw), err
}
