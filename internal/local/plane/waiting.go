package plane

import (
	"cmp"
	"errors"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/process"
)

// What Observe reports about a process that does not serve becomes part of the cluster's status, so it should be short
// and change rarely: only a phase as long as everything goes as intended, and the reason otherwise.
const (
	phaseStopping = "stopping"
	phaseStarting = "starting"
	phaseUnused   = "the load balancer does not use it yet"
)

const (
	// usualStart is how long a process may take to serve before a reason is reported.
	usualStart = 15 * time.Second
	// remarkAge is how long a reason is kept before it is replaced, with the current end of the log.
	remarkAge = 30 * time.Second
	// maxQuote is how many runes of a log line, or of an error, are quoted.
	maxQuote = 200
)

// life is what was observed of a process.
type life struct {
	alive, stopping bool
	started         time.Time
}

func lifeOf(st process.State) life {
	return life{alive: st.Running, stopping: st.Stopping, started: st.Started}
}

// remark is what was reported about a process, and when.
type remark struct {
	text string
	at   time.Time
}

// topic is the subject of a remark. A process may keep failing and, when it runs, not become ready.
type topic struct {
	dir, process string
	failing      bool
}

// why describes why a process does not serve: unhealthy is the problem if it runs. It omits the name.
func (p *Plane) why(name string, l life, unhealthy error) string {
	switch {
	case !l.alive:
		return p.whyDown(name)
	case l.stopping:
		return phaseStopping
	case time.Since(l.started) < usualStart:
		return cmp.Or(p.host.recall(topic{p.Dir, name, true}), phaseStarting)
	}
	return p.host.remember(topic{p.Dir, name, false}, func() string {
		return p.quoting(name, "not ready ("+shorten(withoutURL(unhealthy).Error())+")")
	})
}

func (p *Plane) whyDown(name string) string {
	why := p.Processes.Why(name)
	if why == "" {
		return phaseStarting // it was started after it was observed
	}
	// Only for a process that ended unexpectedly, the text contains the log, and more of it than fits here.
	reason, _, unexpected := strings.Cut(strings.TrimPrefix(why, name+" "), ";")
	switch {
	case !unexpected:
		return reason
	case p.Processes.BackOff(name) > 0:
		return p.host.remember(topic{p.Dir, name, true}, func() string { return p.quoting(name, "keeps failing, "+reason) })
	}
	return p.quoting(name, reason)
}

// quoting adds the last line of the log to a reason.
func (p *Plane) quoting(name, reason string) string {
	line := p.Processes.LastLines(name, 1)
	if line == "" {
		return reason
	}
	return reason + ": " + shorten(line[len(klogHeader.FindString(line)):])
}

// klogHeader matches the part that changes when klog writes a line again: severity, time and pid.
var klogHeader = regexp.MustCompile(`^[IWEF]\d{4} [\d:.]+ +\d+ `)

// shorten shortens a text that may already have been cut within a rune.
func shorten(s string) string {
	runes := []rune(strings.ToValidUTF8(s, ""))
	if len(runes) <= maxQuote {
		return string(runes)
	}
	return string(runes[:maxQuote]) + "…"
}

// withoutURL removes the URL from the error of a request, since the name of the process says the same.
func withoutURL(err error) error {
	if wrapped := new(url.Error); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// recall returns what was recently reported; empty if nothing was.
func (h *Host) recall(t topic) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r, ok := h.remarks[t]; ok && time.Since(r.at) < remarkAge {
		return r.text
	}
	return ""
}

// remember repeats what was recently reported, or else calls say: a log grows faster than a status should change.
func (h *Host) remember(t topic, say func() string) string {
	if text := h.recall(t); text != "" {
		return text
	}
	text := say()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.remarks[t] = remark{text: text, at: time.Now()}
	return text
}

// others returns what else the control plane lacks, by name.
func (p *Plane) others(balancer error) (waiting []string) {
	names := []string{"etcd"}
	for i := range p.Secondaries() {
		names = append(names, components.SchedulerName(i))
	}
	if balancer != nil {
		names = append(names, components.LoadBalancerName)
	}
	for _, name := range names {
		st, err := p.Processes.Observe(name)
		switch {
		case err != nil:
			waiting = append(waiting, shorten(err.Error()))
		case !st.Running, name == components.LoadBalancerName:
			waiting = append(waiting, name+": "+p.why(name, lifeOf(st), errNoAnswer))
		}
	}
	if err := p.host.applyError(p.Site); err != nil {
		waiting = append(waiting, "the first objects of the cluster: "+shorten(withoutURL(err).Error()))
	}
	return waiting
}

// errNoAnswer is the error of the load balancer, whose own errors name file descriptors.
var errNoAnswer = errors.New("it does not answer")
