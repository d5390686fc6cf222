package controller

import (
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/rotation"
)

// watchPause is how long a client may take to begin a watch again that broke with its API server: client-go pauses,
// twice as long with each break within two minutes, up to 30 s, and up to twice that by chance (NewReflectorWithOptions
// in tools/cache/reflector.go).
const watchPause = time.Minute

// process is what is remembered of the process of an API server.
type process struct {
	// keys are those that it was started with; of one with a signer only that it has one, which gives it others.
	keys rotation.Keys
	// ready means that it has been ready, and since is when it was first seen so; zero if it is not known to be one that
	// was restarted.
	ready bool
	since time.Time
}

// watchesBack returns when clients have certainly begun again the watches that the last restart of an API server broke;
// zero if none is known.
//
// A controller that has just started knows of none. So it takes an API server with a signer for one that was not
// restarted, and one that reads its keys from files for one that the rotation has restarted: before refreshing, which
// is when the step Refresh began, or just now.
func (m *remembered) watchesBack(s rotation.Server, refreshing, now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, known := m.processes[s.Name]
	is := process{keys: s.Running, ready: s.Ready, since: now}
	if s.Running.External {
		is.keys = rotation.Keys{External: true}
	}
	restarted := known && (was.ready || !was.since.IsZero()) // else nobody can have watched before
	switch {
	case known && was.ready && !s.Running.IsZero() && is.keys.Equal(was.keys):
		is = was
	case restarted:
	case s.Running.External, s.Running.IsZero():
		is.since = time.Time{}
	case s.Ready && !refreshing.IsZero():
		is.since = refreshing
	}
	if is.since.After(now) {
		is.since = now // the clock was set back
	}
	if m.processes == nil {
		m.processes = map[string]process{}
	}
	m.processes[s.Name] = is
	if is.since.IsZero() {
		return time.Time{}
	}
	return is.since.Add(watchPause)
}

// refreshingSince is when the step Refresh began, which is after the rotation has last restarted API servers for it;
// zero in another step.
func refreshingSince(uc *v1alpha1.UserCluster) time.Time {
	k := uc.Status.KSASigningKey
	if k.Step != string(rotation.StepRefresh) || k.StepSince == nil {
		return time.Time{}
	}
	return k.StepSince.Time
}
