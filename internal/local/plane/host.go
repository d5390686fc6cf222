package plane

import (
	"log/slog"
	"maps"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/local/programs"
)

// Host runs control planes on this machine, in one data directory. It is safe for concurrent use.
type Host struct {
	Data     *datadir.Dir
	Programs *programs.Set
	Log      *slog.Logger
	// Restarts counts the processes that were restarted after they died, by component.
	Restarts *prometheus.CounterVec

	mu      sync.Mutex
	runners map[string]*process.Runner
	// applied is the result of applying the objects of a new cluster, by directory of the site.
	applied map[string]error
	// remarks are what Observe recently reported about failing processes.
	remarks map[topic]remark
}

// New returns a Host. It creates and starts nothing. Without a log, nothing is logged.
func New(data *datadir.Dir, programs *programs.Set, log *slog.Logger) *Host {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Host{
		Data: data, Programs: programs, Log: log,
		Restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keyturn_local_process_restarts_total",
			Help: "Processes that had died and were started again, by component.",
		}, []string{"component"}),
		runners: map[string]*process.Runner{}, applied: map[string]error{}, remarks: map[topic]remark{},
	}
}

// Runner returns the runner of a site's control plane processes.
func (h *Host) Runner(s datadir.Site) *process.Runner {
	h.mu.Lock()
	defer h.mu.Unlock()
	dir := s.Path("run")
	if h.runners[dir] == nil {
		h.runners[dir] = process.New(dir)
	}
	return h.runners[dir]
}

// hasApplied reports whether the objects of a new cluster were applied.
func (h *Host) hasApplied(s datadir.Site) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	err, tried := h.applied[s.Dir]
	return tried && err == nil
}

// applyError returns why they could not be applied; nil if nobody tried.
func (h *Host) applyError(s datadir.Site) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.applied[s.Dir]
}

func (h *Host) noteApplied(s datadir.Site, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.applied[s.Dir] = err
}

// Forget drops what is remembered about a site that is gone, since another may reuse its index.
func (h *Host) Forget(s datadir.Site) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.applied, s.Dir)
	delete(h.runners, s.Path("run"))
	maps.DeleteFunc(h.remarks, func(t topic, _ remark) bool { return t.dir == s.Dir })
}
