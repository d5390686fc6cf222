package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// process is one of the place, as /proc shows it.
type process struct {
	pid int
	// path is the path of the program, and args what it was called with.
	path string
	args []string
}

// process finds the only process of a program that was called with these arguments, or parts of some, and whose
// arguments name the place.
func (p *place) process(program string, arguments ...string) (process, error) {
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return process{}, err
	}
	var found []process
	for _, path := range paths {
		q, ok := readProcess(path)
		line := strings.Join(q.args, " ")
		other := func(argument string) bool { return !strings.Contains(line, argument) }
		if ok && filepath.Base(q.path) == program && !other(p.dataDir()) && !slices.ContainsFunc(arguments, other) {
			found = append(found, q)
		}
	}
	if len(found) != 1 {
		return process{}, fmt.Errorf("finding %s: %d processes with %q in %s, want one", program, len(found), arguments, p.dataDir())
	}
	return found[0], nil
}

// readProcess reads a cmdline file; false for what is gone or no program.
func readProcess(path string) (process, bool) {
	line, err := os.ReadFile(path)
	if err != nil || len(line) == 0 {
		return process{}, false
	}
	pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
	words := strings.Split(string(bytes.TrimRight(line, "\x00")), "\x00")
	return process{pid: pid, path: words[0], args: words[1:]}, err == nil
}

// flag returns the value of a flag that the process was called with; empty without it.
func (p process) flag(name string) string {
	for _, a := range p.args {
		if value, ok := strings.CutPrefix(a, name+"="); ok {
			return value
		}
	}
	return ""
}

// resetPeak makes the peak of memory, VmHWM, start again from what is used now, and returns the one up to now in MiB.
func (p process) resetPeak() (before float64, err error) {
	if before, err = p.megabytes("VmHWM"); err != nil {
		return 0, err
	}
	const peak = "5" // see proc(5), /proc/pid/clear_refs
	return before, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.pid), []byte(peak), 0)
}

// megabytes returns a line of the process' status, such as VmHWM, in MiB.
func (p process) megabytes(field string) (float64, error) {
	return readMegabytes(fmt.Sprintf("/proc/%d/status", p.pid), field)
}

// parent returns the process that started this one.
func (p process) parent() (process, error) {
	fields, err := p.stat()
	if err != nil {
		return process{}, err
	}
	q, ok := readProcess(fmt.Sprintf("/proc/%s/cmdline", fields[statParent]))
	if !ok {
		return process{}, fmt.Errorf("process %d has no parent", p.pid)
	}
	return q, nil
}

// The fields that stat returns; see proc(5), which counts from 1 and two fields more.
const (
	statParent = 1
	statUser   = 11
	statSystem = 12
	// statTick is the unit of times, which is the same on all machines that Go knows.
	statTick = 10 * time.Millisecond
)

// stat returns the fields of /proc/pid/stat that follow the name, which may hold anything.
func (p process) stat() ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	if err != nil {
		return nil, err
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) <= statSystem {
		return nil, fmt.Errorf("/proc/%d/stat has %d fields", p.pid, len(fields))
	}
	return fields, nil
}

// cpu returns the processor time that the process has used.
func (p process) cpu() (time.Duration, error) {
	fields, err := p.stat()
	if err != nil {
		return 0, err
	}
	var ticks int64
	for _, field := range []int{statUser, statSystem} {
		n, err := strconv.ParseInt(fields[field], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the processor time of process %d: %w", p.pid, err)
		}
		ticks += n
	}
	return time.Duration(ticks * int64(statTick)), nil
}

// readMegabytes returns a value of a file that has lines such as "MemTotal:  24684 kB".
func readMegabytes(path, field string) (float64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, field+":"); ok {
			var kilobytes float64
			if _, err := fmt.Sscanf(value, "%f kB", &kilobytes); err != nil {
				return 0, fmt.Errorf("reading %s of %s: %w", field, path, err)
			}
			return kilobytes / 1024, nil
		}
	}
	return 0, fmt.Errorf("%s has no %s", path, field)
}
