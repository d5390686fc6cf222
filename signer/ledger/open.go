package ledger

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/lockfile"
)

// Ledger records tokens in a file. It is safe for concurrent use, except for Tend and Close.
type Ledger struct {
	path string
	file *os.File
	// info describes the file when it was opened.
	info  fs.FileInfo
	table *table
	index *index
	// opened is the time of opening, by now.
	opened time.Time
	now    func() time.Time
	room   atomic.Pointer[room]
	// lastRow is the row of the key that was used last.
	lastRow atomic.Int32
	closed  atomic.Bool
}

// Options are the options of Open. None is required.
type Options struct {
	// Overlap is how long another signer, which does not write to this ledger, may still sign after a new ledger
	// begins.
	Overlap time.Duration
	// Log receives why a new ledger begins. Nil means slog.Default().
	Log *slog.Logger
}

// environment is what a ledger uses of its process. Tests replace it.
type environment struct {
	now   func() time.Time
	boot  func() ([2]uint64, error)
	cells int
}

func systemEnvironment() environment {
	return environment{now: time.Now, boot: bootID, cells: fullSize}
}

// Open opens the ledger at a path. Another process may have it open, too. Open begins a new ledger, of mode 0600, if
// there is none, or if the file is not trustworthy: it has another version, is a copy, or may be incomplete since the
// machine stopped before it was on disk.
func Open(path string, o Options) (*Ledger, error) {
	l, err := open(path, o, systemEnvironment())
	if err != nil {
		return nil, fmt.Errorf("opening the ledger: %w", err)
	}
	return l, nil
}

func open(path string, o Options, env environment) (*Ledger, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	boot, err := env.boot()
	if err != nil {
		return nil, err
	}
	f, t, err := reopen(path, boot, env)
	if isUnusable(err) {
		f, t, err = replace(path, boot, o, env)
	}
	if err != nil {
		return nil, err
	}
	return newLedger(path, f, t, env)
}

// isUnusable reports whether the error calls for a new file.
func isUnusable(err error) bool {
	unusable := new(unusableError)
	return errors.As(err, &unusable) || errors.Is(err, fs.ErrNotExist)
}

// replace puts a new file at a path, unless another process has just done so.
func replace(path string, boot [2]uint64, o Options, env environment) (*os.File, *table, error) {
	lock, err := lockfile.Wait(path + ".lock")
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = lock.Unlock() }()
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, nil, err
	}
	defer dir.Close()
	f, t, why := reopen(path, boot, env)
	if !isUnusable(why) {
		return f, t, why
	}
	level := slog.LevelWarn
	if errors.Is(why, fs.ErrNotExist) {
		level = slog.LevelInfo
	}
	since := env.now().Add(o.Overlap).Truncate(time.Second).Add(time.Second)
	o.Log.Log(context.Background(), level, "beginning a new ledger; it lacks tokens signed earlier",
		"path", path, "reason", why.Error(), "since", since)
	if f, t, err = create(path, boot, since, env); err != nil {
		return nil, nil, err
	}
	return f, t, dir.Sync()
}

// newLedger returns the ledger of a file that this process has locked.
func newLedger(path string, f *os.File, t *table, env environment) (*Ledger, error) {
	l := &Ledger{path: path, file: f, table: t, index: newIndex(t.cells()), opened: env.now(), now: env.now}
	runtime.AddCleanup(l, func(t *table) { _ = t.unmap() }, t)
	var err error
	if l.info, err = f.Stat(); err == nil {
		err = l.guard(func() {
			l.fill()
			l.census()
		})
	}
	if err != nil {
		return nil, errors.Join(err, release(f))
	}
	return l, nil
}

// fill adds the cells of the file to the index.
func (l *Ledger) fill() {
	at := l.reusable()
	for cell := range l.table.used() {
		if c, st, ok := l.table.cell(cell).read(); ok && st.expiry() >= at {
			bucket, tag := l.index.find(&c)
			note(bucket, tag, cell, func(other int) bool { return l.dead(other, at) })
		}
	}
}

// unusableError is why a file cannot be trusted as a ledger.
type unusableError struct{ reason string }

func (e *unusableError) Error() string { return e.reason }

// reopen opens an existing file.
func reopen(path string, boot [2]uint64, env environment) (*os.File, *table, error) {
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	t, err := take(f, boot, env)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, t, nil
}

// take locks a file, checks it, and marks it as one of this boot.
func take(f *os.File, boot [2]uint64, env environment) (*table, error) {
	alone, err := lock(f)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() != int64(fileSize(env.cells)) {
		return nil, &unusableError{"it is not a file of the size of a ledger"}
	}
	t, err := mapTable(f.Fd(), env.cells, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, err
	}
	if err = t.check(info, boot); err == nil {
		err = t.begin(f, boot, alone)
	}
	if err != nil {
		return nil, errors.Join(err, t.unmap())
	}
	return t, nil
}

// begin prepares a file for writing. If no other process has it open, it frees what a killed process had begun to
// write.
func (t *table) begin(f *os.File, boot [2]uint64, alone bool) error {
	if alone {
		for i := range keyRows {
			t.row(i).free()
		}
		for i := range t.used() {
			t.cell(i).free()
		}
		t.head(headBoot).Store(boot[0])
		t.head(headBoot + 1).Store(boot[1])
	}
	if err := errors.Join(unix.Fchmod(int(f.Fd()), 0o600), unix.Flock(int(f.Fd()), unix.LOCK_SH)); err != nil {
		return err
	}
	if t.head(headClean).Swap(0) == 0 {
		return nil
	}
	return t.sync() // otherwise the file would still look complete after a stop of the machine
}

// lock takes a lock that ends with the process. It is exclusive if no other process has the file open; else it is
// shared, and waits here while another process prepares or closes the file.
func lock(f *os.File) (alone bool, err error) {
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil || !errors.Is(err, unix.EWOULDBLOCK) {
		return err == nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_SH); !errors.Is(err, unix.EINTR) {
			return false, err
		}
	}
}

// check returns an unusableError if the file cannot be trusted.
func (t *table) check(info fs.FileInfo, boot [2]uint64) error {
	switch {
	case t.head(headMagic).Load() != magic || t.head(headCells).Load() != uint64(t.cells()):
		return &unusableError{"it is not a ledger, or has another version"}
	case t.head(headInode).Load() != inode(info):
		return &unusableError{"it is a copy of a ledger"}
	case t.head(headClean).Load() != 1 && (t.head(headBoot).Load() != boot[0] || t.head(headBoot+1).Load() != boot[1]):
		return &unusableError{"the machine stopped before the ledger was on disk"}
	}
	return nil
}

// free frees a slot whose writer was killed.
func (s slot) free() {
	if st := s.state(); st.kind() == stateWriting {
		s.change(st, st&^(1<<kindBits-1)|stateFree)
	}
}

func (t *table) sync() error {
	if err := unix.Msync(t.bytes, unix.MS_SYNC); err != nil {
		return fmt.Errorf("syncing: %w", err)
	}
	return nil
}

// create puts a new ledger at a path, with disk space for all of it.
func create(path string, boot [2]uint64, since time.Time, env environment) (*os.File, *table, error) {
	temporary := path + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	f, err := os.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, nil, err
	}
	t, err := write(f, boot, since, env.cells)
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close(), os.Remove(temporary))
	}
	return f, t, nil
}

// write writes an empty ledger, and locks it.
func write(f *os.File, boot [2]uint64, since time.Time, cells int) (*table, error) {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH); err != nil {
		return nil, err
	}
	if err := reserve(f, fileSize(cells)); err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	t, err := mapTable(f.Fd(), cells, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, err
	}
	t.head(headCells).Store(uint64(cells))
	t.head(headInode).Store(inode(info))
	t.head(headBoot).Store(boot[0])
	t.head(headBoot + 1).Store(boot[1])
	t.head(headSince).Store(uint64(since.Unix()))
	t.head(headMagic).Store(magic)
	if err := t.sync(); err != nil {
		return nil, errors.Join(err, t.unmap())
	}
	return t, nil
}

// writeZeros writes zeros to an empty file.
func writeZeros(f *os.File, size int) error {
	_, err := f.Write(make([]byte, size))
	return err
}

func inode(info fs.FileInfo) uint64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino
	}
	return 0
}

// Close closes a ledger. Nobody may call Note any more. If no other process has the file open, Close syncs it, so that
// it survives a stop of the machine.
func (l *Ledger) Close() error {
	var finishErr error
	err := l.guard(func() {
		if unix.Flock(int(l.file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			finishErr = l.table.finish()
		}
	})
	l.closed.Store(true)
	return errors.Join(err, finishErr, release(l.file))
}

// release unlocks and closes a file. Unlocking is explicit, since the mapping, which may last longer, would keep the
// lock.
func release(f *os.File) error { return errors.Join(unix.Flock(int(f.Fd()), unix.LOCK_UN), f.Close()) }

// finish marks a file as complete on disk.
func (t *table) finish() error {
	if err := t.sync(); err != nil {
		return err
	}
	t.head(headClean).Store(1)
	return t.sync()
}

// Remove removes the file of a ledger that must not be trusted.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the ledger: %w", err)
	}
	return nil
}

// bootID returns the ID of this boot of the machine.
func bootID() (id [2]uint64, err error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return id, fmt.Errorf("reading the boot ID: %w", err)
	}
	text := strings.TrimSpace(string(raw))
	id, ok := parseUID([]byte(text))
	if !ok {
		return id, fmt.Errorf("reading the boot ID: it is %q", hex.EncodeToString(raw))
	}
	return id, nil
}
