package controller

import (
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/rotation"
)

// watchPause is how long a client may take to restart a watch that broke with its API server. client-go pauses twice as
// long with each break within two minutes, up to 30 s, and randomly up to twice that (NewReflectorWithOptions in
// tools/cache/reflector.go).
const watchPause = time.Minute

// process is what is remembered about the process of an API server.
type process struct {
	// keys are the keys that it was started with. For one with a signer, they say only that it has a signer, which
	// provides others.
	keys rotation.Keys
	// ready means that it has been ready. since is when that was first seen; zero if it is not known to have been
	// restarted.
	ready bool
	since time.Time
}

// watchesBack returns when clients have certainly restarted the watches that the last restart of an API server broke;
// zero if none is known.
//
// A controller that has just started knows of none. So it assumes that an API server with a signer was not restarted,
// and that one that reads its keys from files was restarted by the rotation: before refreshing, which is when the step
// Refresh began, or just now.
func (m *remembered) watchesBack(s rotation.Server, refreshing, now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, known := m.processes[s.Name]
	is := process{keys: s.Running, ready: s.Ready, since: now}
	if s.Running.External {
		is.keys = rotation.Keys{External: true}
	}
	restarted := known && (was.ready || !was.since.IsZero()) // otherwise, nobody can have watched before
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

// refreshingSince returns when the step Refresh began, after the rotation last restarted API servers; zero in another
// step.
func refreshingSince(uc *v1alpha1.UserCluster) time.Time {
	k := uc.Status.KSASigningKey
	if k.Step != string(rotation.StepRefresh) || k.StepSince == nil {
		return time.Time{}
	}
	return k.StepSince.Time
}
