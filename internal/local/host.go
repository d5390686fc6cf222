package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/local/process"
)

// DefaultNetwork is the range from which clusters get their addresses when none is given.
var DefaultNetwork = netip.MustParsePrefix("10.88.0.0/16")

// Options say where and how a Host keeps clusters.
type Options struct {
	// DataDir holds everything: made with mode 0700 when it is not there. One that is there must be the caller's, writable
	// by nobody else, and empty or marked as Keyturn's.
	DataDir string
	// KubeBinDir holds the Kubernetes binaries and etcd, in one folder a version ("v1.36.4") or, as official
	// releases come, in itself. Empty: the folder kube beside this executable.
	KubeBinDir string
	// ProgramDir holds keyturn-local, keyturn-controller and keyturn-fleet; empty: the folder of this executable.
	ProgramDir string
	// Network is an IPv4 /16; zero: DefaultNetwork. Hosts that share a machine need ranges whose second
	// octets differ, since that octet also tells their loopback addresses apart.
	Network netip.Prefix
	// Loopback keeps new clusters off bridges; they can have no nodes then. It is implied without root.
	Loopback bool
	// Log gets what is done; nil: nothing is logged.
	Log *slog.Logger
}

// Host is this machine as the place of clusters. It is safe for concurrent use, and several processes may use
// one data directory; only the one that holds Lock may change user clusters.
type Host struct {
	dataDir    string
	binDir     string
	programDir string
	network    netip.Prefix
	loopback   bool
	log        *slog.Logger

	mu      sync.Mutex
	mark    mark
	runners map[string]*process.Runner
	admin   sync.Mutex
	// flatVersion is the version of the binaries in binDir itself, once it was asked for.
	flatVersion string
	// applied is, by directory of the site, how applying the objects of a new cluster went.
	applied map[string]error
	// remarks are what Observe said lately of processes that fail.
	remarks map[topic]remark
}

// New checks the options, and that the data directory is Keyturn's or can become it. It makes and starts nothing.
func New(o Options) (*Host, error) {
	if o.DataDir == "" {
		return nil, errors.New("no data directory given")
	}
	dir, err := filepath.Abs(o.DataDir)
	if err != nil {
		return nil, fmt.Errorf("finding data directory: %w", err)
	}
	h := &Host{
		dataDir: dir, binDir: o.KubeBinDir, programDir: o.ProgramDir, network: o.Network, log: o.Log,
		loopback: o.Loopback || os.Geteuid() != 0,
		runners:  map[string]*process.Runner{}, applied: map[string]error{},
		remarks: map[topic]remark{},
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	if err := errors.Join(h.readMark(), h.setNetwork(), h.setBinDir()); err != nil {
		return nil, err
	}
	return h, nil
}

func (h *Host) setBinDir() error {
	if h.binDir == "" {
		exe, err := os.Executable()
		if err != nil {
			return fmt.Errorf("finding the folder of Kubernetes binaries: %w", err)
		}
		h.binDir = filepath.Join(filepath.Dir(exe), "kube")
	}
	abs, err := filepath.Abs(h.binDir)
	if err != nil {
		return fmt.Errorf("finding the folder of Kubernetes binaries: %w", err)
	}
	h.binDir = abs
	return nil
}

// DataDir is the absolute path of the data directory.
func (h *Host) DataDir() string { return h.dataDir }

// Network is the range from which clusters get their addresses.
func (h *Host) Network() netip.Prefix { return h.network }

// ErrLocked means that another process already runs the user clusters of a data directory.
var ErrLocked = errors.New("another keyturn-local uses this data directory")

// lockName is the file that is locked by whoever may change user clusters.
const lockName = "local.lock"

// Lock makes this process the one that may change user clusters, until it ends or closes what Lock returns.
// It fails with ErrLocked when another holds the lock.
func (h *Host) Lock() (io.Closer, error) {
	if err := h.claim(); err != nil {
		return nil, err
	}
	return lockFile(filepath.Join(h.dataDir, lockName), unix.LOCK_EX|unix.LOCK_NB)
}

// lockFile locks a file that stays there: removing it would let two processes each lock a file of their own.
func lockFile(path string, how int) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening lock file: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("locking %s: %w", path, ErrLocked)
		}
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return f, nil
}

// Runner runs the processes of a site that belong to its control plane.
func (h *Host) Runner(s Site) *process.Runner {
	h.mu.Lock()
	defer h.mu.Unlock()
	dir := s.Path("run")
	if h.runners[dir] == nil {
		h.runners[dir] = process.New(dir)
	}
	return h.runners[dir]
}

// Binary finds a Kubernetes binary, or etcd, for a version such as "v1.36.4". Its error says what to do when
// there is none or it is of another version.
func (h *Host) Binary(version, name string) (string, error) {
	path, err := h.findBinary(version, name)
	if err != nil {
		return "", err
	}
	return path, h.checkVersion(version, path)
}

// checkVersion refuses a Kubernetes binary of another version; etcd has versions of its own.
func (h *Host) checkVersion(version, path string) error {
	if filepath.Base(path) == binaryEtcd {
		return nil
	}
	found, err := versionOf(path)
	if err != nil {
		return err
	}
	if found != version {
		return fmt.Errorf("%s is version %s, not %s\nhint: run `make kube`, or name a folder that holds %s by --kube-bin-dir",
			path, found, version, version)
	}
	return nil
}

func (h *Host) findBinary(version, name string) (string, error) {
	if !filepath.IsLocal(version) || filepath.Base(version) != version {
		return "", fmt.Errorf("finding %s: %q is not a version", name, version)
	}
	wanted := filepath.Join(h.binDir, version, name)
	for _, path := range []string{wanted, filepath.Join(h.binDir, name)} {
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	if path, err := exec.LookPath(name); err == nil && name == "etcd" {
		return path, nil
	}
	return "", fmt.Errorf("no %s %s at %s\nhint: run `make kube`, or name a folder that holds it by --kube-bin-dir", name, version, wanted)
}

// versionOf asks a binary for its version. Whoever calls it is about to start the binary, so that it is of the file
// that starts.
func versionOf(path string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	args := []string{"--version"}
	if filepath.Base(path) == "kubectl" {
		args = []string{"version", "--client"}
	}
	out, err := exec.CommandContext(ctx, path, args...).Output()
	if err != nil {
		return "", fmt.Errorf("asking %s for its version: %w", path, err)
	}
	return lastWordOfFirstLine(string(out)), nil
}

// lastWordOfFirstLine takes "v1.36.4" from "Kubernetes v1.36.4" and "Client Version: v1.36.4".
func lastWordOfFirstLine(s string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(s), "\n")
	words := strings.Fields(line)
	if len(words) == 0 {
		return "unknown"
	}
	return words[len(words)-1]
}

// hasApplied says whether the objects of a new cluster were applied.
func (h *Host) hasApplied(s Site) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	err, tried := h.applied[s.Dir]
	return tried && err == nil
}

// applyError is why they could not be applied; nil also when nobody tried.
func (h *Host) applyError(s Site) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.applied[s.Dir]
}

func (h *Host) noteApplied(s Site, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.applied[s.Dir] = err
}

// forget lets go of what is remembered of a site that is gone, since another may get its place.
func (h *Host) forget(s Site) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.applied, s.Dir)
	delete(h.runners, s.Path("run"))
	maps.DeleteFunc(h.remarks, func(t topic, _ remark) bool { return t.dir == s.Dir })
}
