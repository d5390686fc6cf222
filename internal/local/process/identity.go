package process

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"
)

// identity is a process that can be told from every other one, past and future.
type identity struct {
	boot string
	pid  int
	// ticks is the start time since boot (proc_pid_stat(5), field 22).
	ticks uint64
}

// recorded reads who the process said it is; false when none was ever started.
func (r *Runner) recorded(name string) (identity, bool, error) {
	path := r.file(name, "pid")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return identity{}, false, nil
	}
	if err != nil {
		return identity{}, false, err
	}
	boot, stat, _ := bytes.Cut(raw, []byte("\n"))
	id, _, err := parseStat(stat)
	if err != nil {
		return identity{}, false, fmt.Errorf("%s: %w", path, err)
	}
	id.boot = string(boot)
	return id, true, nil
}

// alive says whether that very process runs. A zombie does not.
func (id identity) alive() bool {
	now, alive := lookUp(id.pid)
	return alive && now == id
}

func (id identity) started() time.Time {
	return bootTime().Add(time.Duration(id.ticks) * time.Second / ticksPerSecond)
}

// ticksPerSecond is USER_HZ, which is 100 on every architecture that Go runs on.
const ticksPerSecond = 100

// lookUp says who has the pid now; false when nobody does but perhaps a zombie.
func lookUp(pid int) (identity, bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return identity{}, false
	}
	id, state, err := parseStat(stat)
	if err != nil || state == "Z" || state == "X" {
		return identity{}, false
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return identity{}, false
	}
	id.boot = strings.TrimSpace(string(boot))
	return id, true
}

// parseStat reads proc_pid_stat(5). The second field is in parentheses and may hold anything, parentheses and spaces too.
func parseStat(stat []byte) (id identity, state string, err error) {
	errBad := errors.New("not a line of /proc/PID/stat")
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return identity{}, "", errBad
	}
	rest := strings.Fields(string(stat[end+1:])) // from field 3 on
	if len(rest) < 20 {
		return identity{}, "", errBad
	}
	id.pid, err = strconv.Atoi(strings.TrimSpace(string(stat[:open])))
	if err != nil {
		return identity{}, "", errBad
	}
	id.ticks, err = strconv.ParseUint(rest[22-3], 10, 64)
	if err != nil {
		return identity{}, "", errBad
	}
	return id, rest[0], nil
}

// bootTime is when the machine started, by the clock as it is set now; zero when /proc does not say.
func bootTime() time.Time {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	for line := range strings.Lines(string(raw)) {
		if s, ok := strings.CutPrefix(line, "btime "); ok {
			seconds, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
			if err != nil {
				return time.Time{}
			}
			return time.Unix(seconds, 0)
		}
	}
	return time.Time{}
}
