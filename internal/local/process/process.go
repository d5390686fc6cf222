// Package process runs programs that outlive the process that started them.
//
// Start with Runner. It finds its processes again by observing them: each process writes its own pid and start time
// before it becomes the program. So no crash at any moment leaves an unknown process or one that runs twice, and no
// signal ever reaches a process that merely reuses an old pid.
package process

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/thread"
)

// Spec describes a program to run.
type Spec struct {
	// Name distinguishes the processes of a Runner; it becomes part of file names.
	Name string
	// Path is the program's absolute path, and Args its arguments without the program itself. They must not contain
	// secrets.
	Path string
	Args []string
	// Env is its whole environment except PATH, HOME and TMPDIR, which are the caller's. The rest of the caller's
	// environment should not live on in a process that outlives it.
	Env []string
	// Dir is the working directory; empty: the Runner's.
	Dir string
	// Hostname is its own host name; empty: the host's. It also has the host's if the caller may not set another.
	Hostname string
	// Clear is a directory that is removed before the process starts; empty: none.
	Clear string `json:"-"`
	// Files are open files that the process inherits, as descriptors from FirstFile on.
	Files []*os.File `json:"-"`
	// Stamp is data for the caller about the process, kept as long as it runs.
	Stamp string
}

// FirstFile is the descriptor of the first of a Spec's Files.
const FirstFile = 4

// Digest identifies what is run, without the stamp and what is only for its start.
func (s Spec) Digest() string {
	s.Stamp = ""
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always encode
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// State is what was observed of a process.
type State struct {
	Running bool
	// PID, Started, Stamp and Digest are zero when it does not run.
	PID     int
	Started time.Time
	Stamp   string
	// Digest identifies the Spec that it was started with, without the stamp.
	Digest string
	// Stopping means that it was asked to stop.
	Stopping bool
}

// Runner keeps, in one directory of mode 0700, three files for each process: NAME.pid, NAME.json (what was started) and
// NAME.log. It is safe for concurrent use, even by several processes.
type Runner struct {
	dir string

	mu     sync.Mutex
	starts map[string]attempts
}

// New returns the Runner of a directory, which is created when first needed.
func New(dir string) *Runner { return &Runner{dir: dir, starts: map[string]attempts{}} }

// record is NAME.json: complete, so that a person can see what runs.
type record struct {
	Spec
	Hash string
}

// ErrBusy means that another process is starting the process. Try again.
var ErrBusy = errors.New("process is being started")

// Start runs the program unless it already runs. It returns once the process exists, not when it serves. A program that
// keeps ending early is restarted only after a while: see BackOff.
func (r *Runner) Start(s Spec) error {
	if err := r.start(s); err != nil {
		return fmt.Errorf("starting %s: %w", s.Name, err)
	}
	return nil
}

func (r *Runner) start(s Spec) error {
	if st, err := r.Observe(s.Name); err != nil || st.Running {
		return err
	}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	lock, err := r.lock(s.Name)
	if err != nil {
		return err
	}
	// The child inherits the lock and releases it when its pid is recorded, so the next holder of the lock sees the
	// child.
	defer lock.Close()
	if st, err := r.Observe(s.Name); err != nil || st.Running {
		return err
	}
	if r.BackOff(s.Name) > 0 {
		return nil
	}
	if s.Clear != "" {
		if err := os.RemoveAll(s.Clear); err != nil {
			return err
		}
	}
	if err := r.writeRecord(s); err != nil {
		return err
	}
	// After a crash here, nothing runs, and the record is meaningless as long as nothing runs.
	return r.spawn(s, lock)
}

func (r *Runner) lock(name string) (*os.File, error) {
	lock, err := os.OpenFile(r.file(name, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrBusy
		}
		return nil, err
	}
	return lock, nil
}

func (r *Runner) writeRecord(s Spec) error {
	raw, err := json.MarshalIndent(record{Spec: s, Hash: s.Digest()}, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Write(r.file(s.Name, "json"), raw)
}

// becomeProgram writes the boot ID and the shell's own line of /proc to the pid file, releases the lock (3), and
// becomes the program: pid and start time do not change.
const becomeProgram = `umask 077 &&
cat /proc/sys/kernel/random/boot_id /proc/$$/stat > "$0.tmp" && mv "$0.tmp" "$0" && exec 3>&- && exec "$@"`

func (r *Runner) spawn(s Spec, lock *os.File) error {
	log, err := openLog(r.file(s.Name, "log"))
	if err != nil {
		return err
	}
	defer log.Close()
	if err := os.Remove(r.file(s.Name, "stop")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	cmd := exec.Command("/bin/sh", append([]string{"-c", becomeProgram, r.file(s.Name, "pid"), s.Path}, s.Args...)...)
	cmd.Env = append(basicEnv(), s.Env...)
	cmd.Dir = s.Dir
	if cmd.Dir == "" {
		cmd.Dir = r.dir
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = append([]*os.File{lock}, s.Files...) // the lock is 3
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	keepFilesToOurselves()
	if err := startNamed(cmd, s.Hostname); err != nil {
		return err
	}
	r.noteStart(s.Name)
	go func() {
		err := cmd.Wait() // reaps the zombie, if we still run
		r.noteEnd(s.Name, err)
	}()
	return r.awaitRecord(s.Name, cmd.Process.Pid)
}

// startNamed starts a command with its own host name. Without root it keeps the host's.
func startNamed(cmd *exec.Cmd, hostname string) error {
	if hostname == "" {
		return cmd.Start()
	}
	return thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWUTS); err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("unsharing the UTS namespace: %w", err)
		} else if err == nil {
			if err := unix.Sethostname([]byte(hostname)); err != nil {
				return fmt.Errorf("setting the host name: %w", err)
			}
		}
		return cmd.Start()
	})
}

// keepFilesToOurselves marks files that our own starter left open in us, such as a pipe that somebody waits for: a
// process that outlives us must not hold them. Kernels before 5.11 lack this, which only means that it may hold them.
func keepFilesToOurselves() {
	_ = unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

func basicEnv() []string {
	var env []string
	for _, name := range []string{"PATH", "HOME", "TMPDIR"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// recordTimeout is how long a shell may take to write its pid. Only a very busy machine needs more than milliseconds.
const recordTimeout = time.Minute

// awaitRecord waits until the child is recorded, so that the caller sees it after the start.
func (r *Runner) awaitRecord(name string, pid int) error {
	for deadline := time.Now().Add(recordTimeout); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if id, ok, err := r.recorded(name); err != nil || (ok && id.PID == pid) {
			return err
		}
		if _, _, alive := LookUp(pid); !alive {
			return nil // it ended at once; Observe and its log show why
		}
	}
	return errors.New("the new process did not write its pid file")
}

// Observe returns the state of a process.
func (r *Runner) Observe(name string) (State, error) {
	id, ok, err := r.recorded(name)
	if err != nil {
		return State{}, fmt.Errorf("looking at %s: %w", name, err)
	}
	if !ok || !id.Alive() {
		return State{}, nil
	}
	raw, err := os.ReadFile(r.file(name, "json"))
	if err != nil {
		return State{}, fmt.Errorf("looking at %s: %w", name, err)
	}
	var rec record
	if err := json.Unmarshal(raw, &rec); err != nil {
		return State{}, fmt.Errorf("looking at %s: %w", name, err)
	}
	_, stopping := r.askedToStop(name, id)
	return State{
		Running: true, PID: id.PID, Started: id.started(), Stamp: rec.Stamp, Digest: rec.Hash, Stopping: stopping,
	}, nil
}

// Forget removes the files of a process that does not run, including its log.
func (r *Runner) Forget(name string) error {
	if st, err := r.Observe(name); err != nil || st.Running {
		return errors.Join(err, fmt.Errorf("forgetting %s: it runs", name))
	}
	var errs []error
	for _, ext := range []string{"pid", "pid.tmp", "json", "stop", "lock", "log", "log.1"} {
		if err := os.Remove(r.file(name, ext)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (r *Runner) file(name, ext string) string { return filepath.Join(r.dir, name+"."+ext) }

// Names returns the processes in this directory, whether or not they run.
func (r *Runner) Names() ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var names []string
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".lock"); ok {
			names = append(names, name)
		}
	}
	return names, nil
}
