package cli

import (
	"fmt"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// restarts describes what a rotation does to the API servers of a cluster.
type restarts struct {
	// Count is the number of API servers.
	Count int `json:"count"`
	// Restarts lists the steps that restart each API server once. The API servers are restarted one at a time.
	Restarts []restart `json:"restarts"`
	// Interrupts means that the Kubernetes API is down meanwhile, since there is no other API server.
	Interrupts bool `json:"interrupts"`
	// Replacements is how often Cluster API replaces the machine of each API server, instead of a restart.
	Replacements int `json:"replacements,omitempty"`
}

// restart is one restart of each API server.
type restart struct {
	Step string `json:"step"`
	// MinSeconds and MaxSeconds are how long an API server is down; 0 if unknown.
	MinSeconds int `json:"minSeconds,omitempty"`
	MaxSeconds int `json:"maxSeconds,omitempty"`
}

// restartsOf returns what a rotation does to the API servers. It restarts none if a signer provides their keys, or if
// their machines are replaced.
func restartsOf(uc *v1alpha1.UserCluster) restarts {
	r := restarts{Count: wantedServers(uc), Restarts: []restart{}}
	if uc.Spec.Infrastructure.RollsOut() {
		r.Replacements = 3
		return r
	}
	if uc.Spec.KeySource() == v1alpha1.KeySourceExternal {
		return r
	}
	r.Interrupts = r.Count == 1
	for i, step := range []string{"Publish", "Switch", "Retire"} {
		one := restart{Step: step}
		if on := uc.Spec.Infrastructure; on.Adopted() {
			one.MinSeconds, one.MaxSeconds = minRestart, maxRestart
			if on.SendsRetryAfter() && i > 0 { // the first restart is of a process without that flag
				one.MinSeconds, one.MaxSeconds = shortRestart, shortRestart
			}
		}
		r.Restarts = append(r.Restarts, one)
	}
	return r
}

// String describes what happens to the API servers.
func (r restarts) String() string {
	switch {
	case r.Replacements > 0:
		return fmt.Sprintf("makes Cluster API replace %s three times, one machine at a time; the new private key is in "+
			"their bootstrap data from the second time on", count(r.Count, "control-plane machine"))
	case len(r.Restarts) == 0:
		return "restarts no API server: each gets its keys from the signer next to it"
	case r.Interrupts && r.Restarts[0].MaxSeconds > 0:
		return fmt.Sprintf("restarts the only API server three times, %s; THE KUBERNETES API IS AWAY each time, and "+
			"kube-controller-manager and kube-scheduler start again", r.times())
	case r.Interrupts:
		return "restarts the only API server three times; EACH RESTART IS AN INTERRUPTION of the Kubernetes API"
	case r.Restarts[0].MaxSeconds > 0:
		return fmt.Sprintf("restarts %d API servers three times, one at a time, %s; the Kubernetes API stays available if "+
			"its load balancer leaves out an API server that is away", r.Count, r.times())
	}
	return fmt.Sprintf("restarts %d API servers three times, one at a time; the Kubernetes API stays available", r.Count)
}

// times describes how long each restart takes.
func (r restarts) times() string {
	first, next := r.Restarts[0], r.Restarts[1]
	if first == (restart{Step: first.Step, MinSeconds: next.MinSeconds, MaxSeconds: next.MaxSeconds}) {
		return fmt.Sprintf("each time for %d to %d s", first.MinSeconds, first.MaxSeconds)
	}
	return fmt.Sprintf("for %d to %d s the first time and for %d s then", first.MinSeconds, first.MaxSeconds,
		next.MaxSeconds)
}

// leftCopies are where copies of the private key of a cluster that kubeadm made may be, which the agent cannot reach.
var leftCopies = []string{"cloud-init data", "backups of control-plane nodes and of etcd"}
