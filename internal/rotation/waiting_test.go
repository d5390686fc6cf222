package rotation

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestWaiting names what keeps a cluster from going on, where no timeline does.
func TestWaiting(t *testing.T) {
	second, both := Keys{Verify: []int{2}, Sign: 2}, Keys{Verify: []int{1, 2}, Sign: 2}
	settled := Observed{
		Wanted: 2, Stored: []int{2}, Presence: PresencePresent, Nodes: Nodes{Converged: true},
		Servers:            []Server{serving("cp-0", second), serving("cp-1", second)},
		ControllerManagers: []ControllerManager{{Name: "kcm-0", Configured: 2, Running: 2, Ready: true}},
	}
	switched := settled
	switched.Stored, switched.Servers = []int{1, 2}, []Server{serving("cp-0", both), serving("cp-1", both)}
	refreshed := switched
	refreshed.Legacy = Legacy{Proven: 2, Final: 2}
	fleet := func(name string, accepts ...int) Publication { return Publication{Name: name, Accepts: accepts} }
	tests := []struct {
		name    string
		o       Observed
		change  func(*Observed)
		kind    ActionKind
		step    Step
		waiting string
		blocked bool
	}{
		{"the kubeconfig is due", settled, func(o *Observed) { o.KubeconfigDue = true },
			WriteKubeconfig, "", "the administrator's kubeconfig", false},
		{"an adopted cluster is gone", settled, func(o *Observed) { o.Adopted, o.Presence = true, PresenceAbsent },
			Wait, "", "the control plane to be found", false},
		{"all API servers are gone", settled, func(o *Observed) { o.Servers = nil },
			ConvergeControlPlane, "", "an API server to appear", false},
		{"all API servers leave", settled, func(o *Observed) { o.Servers[0].Leaving, o.Servers[1].Leaving = true, true },
			ConvergeControlPlane, "", "an API server to appear", false},
		{"an API server is not ready", settled, func(o *Observed) { o.Servers[1].Ready = false },
			ConvergeControlPlane, "", "API server cp-1 to be ready", false},
		{"an API server does not run", settled, func(o *Observed) {
			o.Servers[1].Running, o.Servers[1].Ready = Keys{}, false
		}, ConvergeControlPlane, "", "API server cp-1 to be ready", false},
		{"an API server serves keys of no step while another one is changed", switched, func(o *Observed) {
			o.Servers[0] = serving("cp-0", Keys{Verify: []int{1, 2}, Sign: 1})
			o.Servers[1] = Server{Name: "cp-1", Ready: true, Foreign: []string{"a"}}
		}, ConvergeControlPlane, StepRefresh, "API server cp-1 to accept key versions [1 2] and sign with 2", false},
		{"an API server signs with a foreign key", settled, func(o *Observed) {
			o.Servers[1].Signs, o.Servers[1].SignsForeign = 0, "a"
		}, ConvergeControlPlane, "", "it signs with key a, which is no key version of the cluster", false},
		{"a manager stops", settled, func(o *Observed) {
			o.ControllerManagers[0].Ready, o.ControllerManagers[0].Waiting = false, "stopping"
		}, ConvergeControlPlane, "", "kube-controller-manager kcm-0: stopping", false},
		{"a node is from before", settled, func(o *Observed) { o.Nodes.Oldest = 1 },
			ConvergeNodes, "", "the nodes to be ready and of key version 2", false},
		{"legacy tokens need a person", switched, func(o *Observed) {
			o.Legacy = Legacy{Waiting: "Secret a to be repaired", Blocked: true}
		}, RefreshTokens, StepRefresh, "Secret a to be repaired", true},
		{"kubelets do not watch Secrets again yet", switched, func(o *Observed) {
			o.Nodes.Oldest, o.Servers[0].WatchesBack, o.Servers[1].WatchesBack = 1, later, later.Add(-time.Second)
		}, Wait, StepRefresh, "kubelets to watch Secrets again after the start of API server cp-0, at the latest at", false},
		{"kubelets may be there, and do not watch Secrets again yet", switched, func(o *Observed) {
			o.Nodes.Converged, o.Servers[1].WatchesBack = false, later
		}, Wait, StepRefresh, "kubelets to watch Secrets again after the start of API server cp-1", false},
		{"kubelets watch Secrets again", switched, func(o *Observed) { o.Nodes.Oldest, o.Servers[1].WatchesBack = 1, now },
			RefreshTokens, StepRefresh, "the legacy tokens to be re-signed with key version 2", false},
		{"an API server that leaves was restarted", switched, func(o *Observed) {
			o.Nodes.Oldest, o.Servers[1].Leaving, o.Servers[1].WatchesBack = 1, true, later
		}, RefreshTokens, StepRefresh, "the legacy tokens to be re-signed with key version 2", false},
		{"there are no kubelets that could watch Secrets", switched, func(o *Observed) { o.Servers[1].WatchesBack = later },
			RefreshTokens, StepRefresh, "the legacy tokens to be re-signed with key version 2", false},
		{"an API server is restarted after the legacy tokens were re-signed", switched, func(o *Observed) {
			o.Nodes.Oldest, o.Legacy.Proven, o.Servers[1].WatchesBack = 1, 2, later
		}, ConvergeNodes, StepRefresh, "the nodes to be ready and of key version 2", false},
		{"nodes come after the legacy tokens", switched, func(o *Observed) { o.Nodes.Oldest = 1 },
			RefreshTokens, StepRefresh, "the legacy tokens to be re-signed with key version 2", false},
		{"nodes are from before", switched, func(o *Observed) { o.Nodes.Oldest, o.Legacy.Proven = 1, 2 },
			ConvergeNodes, StepRefresh, "the nodes to be ready and of key version 2", false},
		{"nodes wait for who makes pods again", switched, func(o *Observed) {
			o.Nodes.Oldest, o.Legacy.Proven, o.Unled = 1, 2, "kube-controller-manager to hold its lease"
		}, Wait, StepRefresh, "kube-controller-manager to hold its lease", false},
		{"new nodes wait for nobody", switched, func(o *Observed) {
			o.Nodes.Oldest, o.Legacy.Proven, o.Unled = 2, 2, "kube-controller-manager to hold its lease"
		}, RefreshTokens, StepRefresh, "a last walk over the legacy tokens to find none of key version 1", false},
		{"the last walk is due", switched, func(o *Observed) { o.Legacy.Proven = 2 },
			RefreshTokens, StepRefresh, "a last walk over the legacy tokens to find none of key version 1", false},
		{"a foreign key appears while the first API server retires the old one", refreshed, func(o *Observed) {
			o.Servers[0], o.Servers[1].Foreign = serving("cp-0", second), []string{"a"}
		}, ConvergeControlPlane, StepRetire, "API server cp-1 to accept key versions [2]", false},
		{"an API server is down, and none has dropped the old key", refreshed, func(o *Observed) {
			o.Servers[1] = Server{Name: "cp-1", Configured: o.Servers[1].Configured, Waiting: "down"}
		}, ConvergeControlPlane, StepRetire, "API server cp-1: down", false},
		{"an API server is down before the last walk", switched, func(o *Observed) {
			o.Legacy.Proven = 2
			o.Servers[1] = Server{Name: "cp-1", Configured: o.Servers[1].Configured, Waiting: "down"}
		}, ConvergeControlPlane, StepRefresh, "API server cp-1: down", false},
		{"no signer reports which tokens live", refreshed, func(o *Observed) { o.Outstanding = Outstanding{Awaited: true} },
			Wait, StepRetire, "the signers to report which tokens of key version 1 are valid", false},
		{"tokens live, and the limit has not passed", refreshed, func(o *Observed) {
			o.Outstanding = Outstanding{Awaited: true, Gone: later, Limit: later, Waiting: "2 tokens to expire"}
		}, Wait, StepRetire, "2 tokens to expire", false},
		{"tokens live, and the limit has passed", refreshed, func(o *Observed) {
			o.Outstanding = Outstanding{Awaited: true, Gone: later, Limit: now, Waiting: "2 tokens to expire"}
		}, ConvergeControlPlane, StepRetire, "API server cp-0 to accept key versions [2]", false},
		{"tokens live that nobody waits for", refreshed, func(o *Observed) {
			o.Outstanding = Outstanding{Gone: later, Waiting: "2 tokens to expire"}
		}, ConvergeControlPlane, StepRetire, "API server cp-0 to accept key versions [2]", false},
		{"tokens live, and the first API server has dropped their key", refreshed, func(o *Observed) {
			o.Servers[0] = serving("cp-0", second)
			o.Outstanding = Outstanding{Awaited: true, Gone: later}
		}, ConvergeControlPlane, StepRetire, "API server cp-1 to accept key versions [2]", false},
		{"a disk has the old key at the end", refreshed, func(o *Observed) {
			o.Servers, o.Held = []Server{serving("cp-0", second)}, []int{1, 2}
			o.Servers[0].Refuses = []int{1}
		}, ConvergeControlPlane, StepRetire, "the private key of version 1 to be gone", false},
		{"the second destination lacks a key", switched, func(o *Observed) {
			o.ControllerManagers[0].Configured, o.ControllerManagers[0].Running = 1, 1
			o.Publications = []Publication{fleet("the fleet", 1, 2), fleet("the bucket", 1)}
		}, PublishKeys, StepSwitch, "the bucket to accept a canary token of key version 2", false},
		{"both destinations lack a key", switched, func(o *Observed) {
			o.ControllerManagers[0].Configured, o.ControllerManagers[0].Running = 1, 1
			o.Publications = []Publication{fleet("the fleet", 1), fleet("the bucket", 1)}
		}, PublishKeys, StepSwitch, "the fleet to accept a canary token of key version 2", false},
		{"a manager is down while the switch is held", switched, func(o *Observed) {
			o.Servers[1] = serving("cp-1", Keys{Verify: []int{1, 2}, Sign: 1})
			o.ControllerManagers[0].Configured, o.ControllerManagers[0].Running = 1, 0
			o.Publications = []Publication{fleet("the fleet", 1)}
		}, ConvergeControlPlane, StepSwitch, "kube-controller-manager kcm-0 to sign with key version 1", false},
	}
	for _, test := range tests {
		o := test.o
		o.Servers, o.ControllerManagers = slices.Clone(o.Servers), slices.Clone(o.ControllerManagers)
		test.change(&o)
		d := plan(o)
		if d.Action.Kind != test.kind || d.Step != test.step || d.Blocked != test.blocked || d.Settled ||
			!strings.Contains(d.Waiting, test.waiting) {
			t.Errorf("%s: %v", test.name, described{d})
		}
		if err := wellFormed(o, d); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestDoneWhileStuck wants no cluster to be done in which something is configured with a key that is lost.
func TestDoneWhileStuck(t *testing.T) {
	second := Keys{Verify: []int{2}, Sign: 2}
	leaving := serving("cp-1", Keys{Verify: []int{2, 3}, Sign: 2})
	leaving.Leaving = true
	d := plan(Observed{
		Wanted: 2, Stored: []int{2}, Presence: PresencePresent, Nodes: Nodes{Converged: true},
		Servers: []Server{serving("cp-0", second), leaving},
	})
	if !d.Blocked || d.Done {
		t.Errorf("%v, done %v", described{d}, d.Done)
	}
}

func TestZeroKeys(t *testing.T) {
	if !(Keys{}).IsZero() || (Keys{Sign: 1}).IsZero() || (Keys{Verify: []int{1}}).IsZero() {
		t.Error("keys with a version are zero, or none are not")
	}
}

// TestWaitingForTime wants decisions that wait for a time to name it.
func TestWaitingForTime(t *testing.T) {
	both := Keys{Verify: []int{1, 2}, Sign: 2}
	awaiting := Observed{
		Wanted: 2, Stored: []int{1, 2}, Presence: PresencePresent, Nodes: Nodes{Converged: true},
		Servers: []Server{serving("cp-0", both)}, Legacy: Legacy{Proven: 2, Final: 2},
		Outstanding: Outstanding{Awaited: true},
	}
	if d := plan(awaiting); d.Step != StepRetire || !d.Patient || !d.Until.IsZero() {
		t.Errorf("while tokens of the old key live: %v, patient %t, until %s", described{d}, d.Patient, d.Until)
	}
	refreshing, back := awaiting, now.Add(time.Minute)
	restarted := serving("cp-0", both)
	restarted.WatchesBack = back
	refreshing.Servers, refreshing.Legacy, refreshing.Nodes.Oldest = []Server{restarted}, Legacy{}, 1
	if d := plan(refreshing); d.Step != StepRefresh || d.Patient || !d.Until.Equal(back) {
		t.Errorf("while kubelets do not watch: %v, patient %t, until %s", described{d}, d.Patient, d.Until)
	}
	retiring := awaiting
	forgets := now.Add(90 * time.Second)
	server := serving("cp-0", Keys{Verify: []int{2}, Sign: 2})
	server.Refuses, server.Forgets = []int{1}, forgets
	retiring.Servers, retiring.Outstanding = []Server{server}, Outstanding{}
	if d := plan(retiring); d.Step != StepRetire || d.Patient || !d.Until.Equal(forgets) {
		t.Errorf("while an API server remembers: %v, patient %t, until %s", described{d}, d.Patient, d.Until)
	}
}
