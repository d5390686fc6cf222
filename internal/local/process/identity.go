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

	"golang.org/x/sys/unix"
)

// Identity identifies a process uniquely, among past and future ones, too; zero is none.
type Identity struct {
	// Boot is the ID of the host's boot (random(4)).
	Boot string
	PID  int
	// Ticks is the time from the host's boot to the process's start, in 1/TicksPerSecond s (proc_pid_stat(5), field
	// 22).
	Ticks uint64
}

// recorded reads the identity that the process wrote; false if none was ever started.
func (r *Runner) recorded(name string) (Identity, bool, error) {
	path := r.file(name, "pid")
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, false, nil
	}
	if err != nil {
		return Identity{}, false, err
	}
	boot, stat, _ := bytes.Cut(raw, []byte("\n"))
	id, err := parseStat(stat)
	if err != nil {
		return Identity{}, false, fmt.Errorf("%s: %w", path, err)
	}
	id.Boot = string(boot)
	return id.Identity, true, nil
}

// Alive reports whether this process runs. A zombie does not.
func (id Identity) Alive() bool {
	now, _, alive := LookUp(id.PID)
	return alive && now == id
}

func (id Identity) started() time.Time {
	return bootTime().Add(time.Duration(id.Ticks) * time.Second / TicksPerSecond)
}

// Uptime returns the time since the host started, which setting its clock does not change (CLOCK_BOOTTIME).
func Uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // the clock exists since Linux 2.6.39
	}
	return time.Duration(t.Nano())
}

// TicksPerSecond is USER_HZ, which is 100 on every architecture that Go runs on.
const TicksPerSecond = 100

// LookUp returns the process that has the pid now, and its parent, which may change; false if there is none except
// perhaps a zombie.
func LookUp(pid int) (id Identity, parent int, alive bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Identity{}, 0, false
	}
	is, err := parseStat(raw)
	if err != nil || is.state == "Z" || is.state == "X" {
		return Identity{}, 0, false
	}
	if is.Boot, err = BootID(); err != nil {
		return Identity{}, 0, false
	}
	return is.Identity, is.parent, true
}

// BootID returns the ID of the host's boot (random(4)).
func BootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(raw)), err
}

// stat is a line of /proc/PID/stat.
type stat struct {
	Identity
	state  string
	parent int
}

// parseStat parses proc_pid_stat(5). The second field is in parentheses and may contain anything, including parentheses
// and spaces.
func parseStat(line []byte) (s stat, err error) {
	errBad := errors.New("not a line of /proc/PID/stat")
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return stat{}, errBad
	}
	rest := strings.Fields(string(line[end+1:])) // from field 3 on
	if len(rest) < 20 {
		return stat{}, errBad
	}
	s.state = rest[0]
	if s.PID, err = strconv.Atoi(strings.TrimSpace(string(line[:open]))); err != nil {
		return stat{}, errBad
	}
	if s.parent, err = strconv.Atoi(rest[4-3]); err != nil {
		return stat{}, errBad
	}
	if s.Ticks, err = strconv.ParseUint(rest[22-3], 10, 64); err != nil {
		return stat{}, errBad
	}
	return s, nil
}

// bootTime returns when the machine started, by the current clock; zero if /proc does not contain it.
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
