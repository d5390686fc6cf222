package machine

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyturn/keyturn/internal/local/process"
)

// Refresh is a replacement of the tokens of all pods on a machine, as it is stored.
type Refresh struct {
	// Version is the key version of the wanted tokens, and Since when it began.
	Version int       `json:"version"`
	Since   time.Time `json:"since"`
	// Began is Since as a Moment, which does not change with the clock: it shows whether a kubelet is older.
	Began Moment `json:"began"`
	// Proven is when the last file with an older token got a new one; zero until all have.
	Proven time.Time `json:"proven,omitzero"`
}

// Moment is a time since the host's boot.
type Moment struct {
	// Boot is the ID of the host's boot (random(4)), and Ticks the time since then, in hundredths of a second.
	Boot  string `json:"boot"`
	Ticks uint64 `json:"ticks"`
}

// present returns the current Moment.
func present() (Moment, error) {
	boot, err := process.BootID()
	if err != nil {
		return Moment{}, fmt.Errorf("reading the time since the host started: %w", err)
	}
	return Moment{Boot: boot, Ticks: uint64(process.Uptime() / (time.Second / process.TicksPerSecond))}, nil
}

// begin returns when a process was started.
func begin(p process.Identity) Moment { return Moment{Boot: p.Boot, Ticks: p.Ticks} }

// before reports whether a moment is certainly before another. Those of the same tick are not.
func (m Moment) before(later Moment) bool { return m.Boot != later.Boot || m.Ticks < later.Ticks }

func (spec Spec) refreshing() bool {
	return spec.Refresh != nil && spec.Refresh.Version > spec.KeyVersion
}

// Remember records in machine.json that a Refresh has begun, is proven, or is done. It never goes back; only Proven can
// be set again. A new Refresh begins now. After a crash before the rename inside, nothing was recorded, and the caller
// finds everything unchanged.
func (s Set) Remember(name string, keyVersion int, refresh Refresh) error {
	if err := s.remember(name, keyVersion, refresh); err != nil {
		return fmt.Errorf("remembering the tokens of machine %s: %w", name, err)
	}
	return nil
}

func (s Set) remember(name string, keyVersion int, refresh Refresh) error {
	spec, err := s.readSpec(name)
	if err != nil {
		return err
	}
	if spec.Pool == "" {
		return errors.New("there is no such machine")
	}
	old := spec.Refresh
	switch {
	case keyVersion < spec.KeyVersion:
		return fmt.Errorf("it is of key version %d already", spec.KeyVersion)
	case old != nil && old.Version > refresh.Version:
		return fmt.Errorf("its tokens are being replaced by those of key version %d already", old.Version)
	case old != nil && old.Version == refresh.Version:
		refresh.Since, refresh.Began = old.Since, old.Began
	default:
		if refresh.Began, err = present(); err != nil {
			return err
		}
	}
	spec.KeyVersion, spec.Refresh = keyVersion, &refresh
	return s.writeSpec(spec)
}

// RestartKubelet ends the kubelet of a machine if it is older than the Refresh, as if it crashed; the machine's init
// starts another. Containers are children of containerd, and survive.
func (s Set) RestartKubelet(name string) error {
	if err := s.restartKubelet(name); err != nil {
		return fmt.Errorf("restarting the kubelet of machine %s: %w", name, err)
	}
	return nil
}

func (s Set) restartKubelet(name string) error {
	spec, err := s.readSpec(name)
	if err != nil || spec.Refresh == nil {
		return err
	}
	running, err := s.runner(name).Observe(processName)
	if err != nil || !running.Running {
		return err
	}
	kubelet, err := findKubelet(spec, running.PID)
	if err != nil || kubelet.PID == 0 {
		return err
	}
	if spec.Refresh.Began.before(begin(kubelet)) {
		return nil
	}
	return kubelet.Signal(unix.SIGKILL)
}

// newKubelet returns since when a kubelet runs that was started after the Refresh began, by the current clock.
func (s Set) newKubelet(spec Spec, sandbox int) (time.Time, error) {
	kubelet, err := findKubelet(spec, sandbox)
	if err != nil || kubelet.PID == 0 {
		return time.Time{}, err
	}
	now, err := present()
	if err != nil {
		return time.Time{}, err
	}
	began := begin(kubelet)
	if !spec.Refresh.Began.before(began) {
		return time.Time{}, nil
	}
	age := time.Duration(now.Ticks-min(now.Ticks, began.Ticks)) * (time.Second / process.TicksPerSecond)
	return time.Now().Add(-age), nil
}
