package serve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/local/process"
)

const (
	// lookEvery is how often watch observes each cluster, and lookOften how often for lookLong after a change. In
	// between, the kernel reports each process that ends.
	lookEvery = 10 * time.Second
	lookOften = time.Second
	lookLong  = time.Minute
)

// watch calls wake for each user cluster of which a process or a machine has died or started, or whose load balancer
// uses other API servers than before, until ctx ends. It reports a death at once, and the rest within seconds. The
// first observation of a cluster counts as a change, since earlier deaths were not reported. It makes requests only to
// load balancers.
func watch(ctx context.Context, h *plane.Host, wake func(context.Context, types.NamespacedName)) error {
	w := pulses{host: h}
	defer w.close()
	var next, calm time.Time
	for ctx.Err() == nil {
		now := time.Now()
		var changed []types.NamespacedName
		if now.Before(next) {
			changed = w.await(min(lookOften, next.Sub(now)))
		} else {
			changed = w.look(ctx)
			next = now.Add(lookEvery)
		}
		for _, cluster := range changed {
			wake(ctx, cluster)
		}
		if len(changed) > 0 {
			calm = now.Add(lookLong)
		}
		if now.Before(calm) {
			next = earlier(next, now.Add(lookOften))
		}
	}
	return nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// pulses are what watch has observed.
type pulses struct {
	host *plane.Host
	// seen are the clusters, by the name of their site, each with a text that changes with its state.
	seen map[string]string
	// living are descriptors of the processes that ran at the last observation, and of are their clusters.
	living []unix.PollFd
	of     []types.NamespacedName
}

// look observes what runs, and returns the clusters that have changed since the last time.
func (w *pulses) look(ctx context.Context) (changed []types.NamespacedName) {
	sites, err := w.host.Data.Sites()
	if err != nil {
		w.host.Log.Warn("watching the clusters", "error", err)
		return nil
	}
	w.close()
	is := map[string]string{}
	for _, s := range sites {
		namespace, name, _ := strings.Cut(s.Name, ".")
		cluster := types.NamespacedName{Namespace: namespace, Name: name}
		is[s.Name] = w.pulse(ctx, s, cluster)
		if was, known := w.seen[s.Name]; !known || was != is[s.Name] {
			changed = append(changed, cluster)
		}
	}
	w.seen = is
	return changed
}

// pulse returns a text that changes with the state of a cluster, and opens its processes. An unreadable cluster has a
// state, too.
func (w *pulses) pulse(ctx context.Context, s datadir.Site, cluster types.NamespacedName) string {
	var pulse strings.Builder
	dirs, err := runDirs(s)
	fmt.Fprintln(&pulse, err)
	for _, dir := range dirs {
		run := process.New(dir)
		names, err := run.Names()
		fmt.Fprintln(&pulse, dir, err)
		for _, name := range names {
			state, err := run.Observe(name)
			fmt.Fprintln(&pulse, name, state.PID, state.Stopping, err)
			if state.Running {
				w.open(state.PID, cluster)
			}
		}
	}
	balanced, err := plane.Balanced(ctx, s)
	fmt.Fprintln(&pulse, err != nil)
	for _, name := range slices.Sorted(maps.Keys(balanced)) {
		fmt.Fprintln(&pulse, name, balanced[name])
	}
	return pulse.String()
}

// open makes await notice the end of a process. The next check handles one that has already ended, or that a kernel
// before 5.3 cannot open.
func (w *pulses) open(pid int, cluster types.NamespacedName) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	w.living = append(w.living, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	w.of = append(w.of, cluster)
}

// await returns the clusters of which a process ends, as soon as one does; none after the given time.
func (w *pulses) await(atMost time.Duration) (changed []types.NamespacedName) {
	n, err := unix.Poll(w.living, int(atMost.Milliseconds())+1)
	if err != nil && !errors.Is(err, unix.EINTR) {
		w.host.Log.Warn("watching processes", "error", err)
		time.Sleep(atMost)
	}
	if err != nil || n == 0 {
		return nil
	}
	for i := range w.living {
		if w.living[i].Revents == 0 {
			continue
		}
		if !slices.Contains(changed, w.of[i]) {
			changed = append(changed, w.of[i])
		}
		_ = unix.Close(int(w.living[i].Fd))
		w.living[i].Fd = -1 // poll ignores it
		w.living[i].Revents = 0
	}
	return changed
}

func (w *pulses) close() {
	for _, p := range w.living {
		if p.Fd >= 0 {
			_ = unix.Close(int(p.Fd))
		}
	}
	w.living, w.of = nil, nil
}
