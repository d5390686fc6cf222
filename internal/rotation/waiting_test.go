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
		{"a signer does not sign with the new key yet", switched, func(o *Observed) {
			o.External = true
			for i := range o.Servers {
				o.Servers[i].Configured.External, o.Servers[i].Running.External = true, true
			}
			o.Servers[1].Running.Sign, o.Servers[1].Signs = 1, 1
		}, ConvergeControlPlane, StepRefresh, "API server cp-1 to issue a token of key version 2", false},
		{"an API server with a signer was to read files, and has not been restarted", settled, func(o *Observed) {
			o.External = true
			o.Servers[0].Configured.External, o.Servers[0].Running.External = true, true
			o.Servers[1].Running.External = true
		}, ConvergeControlPlane, "", "sign with 2, which it gets from its signer", false},
		{"a manager is to start with a retired key", settled, func(o *Observed) { o.ControllerManagers[0].Configured = 1 },
			ConvergeControlPlane, "", "kube-controller-manager kcm-0 to sign with key version 2", false},
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
		{"an API server is down, and a node from before has joined", refreshed, func(o *Observed) {
			o.Nodes.Oldest = 1
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
		{"a destination lost a key once all API servers had switched, and there are no managers", switched,
			func(o *Observed) {
				o.ControllerManagers, o.Publications = nil, []Publication{fleet("the fleet", 1)}
			}, PublishKeys, StepRefresh, "the fleet to accept a canary token of key version 2", false},
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

// TestHeldSwitch has a destination lose the new key in the switch, and says what is done before it has that again:
// nothing that makes one more API server sign with it, and all that brings back what is down.
func TestHeldSwitch(t *testing.T) {
	oldest, before := Keys{Verify: []int{1}, Sign: 1}, Keys{Verify: []int{1, 2}, Sign: 1}
	after := Keys{Verify: []int{1, 2}, Sign: 2}
	starting := serving("cp-1", after)
	starting.Ready, starting.Waiting = false, "starting"
	signer := func(k Keys) Keys { k.External = true; return k }
	tests := []struct {
		name      string
		external  bool
		bootstrap Keys
		foreign   []string
		servers   []Server
		want      ActionKind
	}{
		{"an API server would change live", true, Keys{}, nil,
			[]Server{serving("cp-0", signer(after)), serving("cp-1", signer(before))}, PublishKeys},
		{"the next API server to come would switch", false, before, nil,
			[]Server{serving("cp-0", after), serving("cp-1", after)}, PublishKeys},
		{"the next API server to come would switch once this one is ready", false, before, nil,
			[]Server{serving("cp-0", after), starting}, ConvergeControlPlane},
		{"the next API server to come is brought up", false, oldest, nil,
			[]Server{serving("cp-0", after), starting}, ConvergeControlPlane},
		{"the next API server to come loses a foreign key", false, after, []string{"a"},
			[]Server{serving("cp-0", after), starting}, ConvergeControlPlane},
	}
	for _, test := range tests {
		o := Observed{
			Wanted: 2, Stored: []int{1, 2}, Presence: PresencePresent, Nodes: Nodes{Converged: true}, External: test.external,
			Servers:            test.servers,
			ControllerManagers: []ControllerManager{{Name: "kcm-0", Configured: 1, Running: 1, Ready: true}},
			Bootstrap:          test.bootstrap, BootstrapForeign: test.foreign, ForeignMayGo: []string{"a"},
			Publications: []Publication{{Name: "the fleet", Accepts: []int{1}}},
		}
		d := plan(o)
		if d.Action.Kind != test.want || d.Step != StepSwitch {
			t.Errorf("%s: %v", test.name, described{d})
		}
		if err := wellFormed(o, d); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// TestManagersSwitchLast lets no kube-controller-manager sign with the new key while some API server is not proven to.
func TestManagersSwitchLast(t *testing.T) {
	before, after := Keys{Verify: []int{1, 2}, Sign: 1}, Keys{Verify: []int{1, 2}, Sign: 2}
	for name, c := range map[string]struct {
		change func(*Server)
		want   int
	}{
		"it is proven":                              {func(*Server) {}, 2},
		"nobody knows what it runs with":            {func(s *Server) { s.Running = Keys{} }, 1},
		"it was given the key after it had started": {func(s *Server) { s.Running = before }, 1},
		"it leaves, and no other is there":          {func(s *Server) { s.Leaving = true }, 1},
	} {
		o := Observed{
			Wanted: 2, Stored: []int{1, 2}, Presence: PresencePresent, Nodes: Nodes{Converged: true},
			Servers:            []Server{serving("cp-0", after)},
			ControllerManagers: []ControllerManager{{Name: "kcm-0", Configured: 1, Running: 1, Ready: true}},
		}
		c.change(&o.Servers[0])
		if d := plan(o); d.Step != StepSwitch || d.Action.Target.ControllerManagerSign != c.want {
			t.Errorf("%s: %v", name, described{d})
		}
	}
}

// TestLeavingServer wants nothing to wait for an API server that is being removed, not even one with a retired key.
func TestLeavingServer(t *testing.T) {
	leaving := serving("cp-1", Keys{Verify: []int{1}, Sign: 1})
	leaving.Leaving = true
	d := plan(Observed{
		Wanted: 2, Stored: []int{2}, Presence: PresencePresent, Nodes: Nodes{Converged: true},
		Servers: []Server{serving("cp-0", Keys{Verify: []int{2}, Sign: 2}), leaving},
	})
	if !d.Settled {
		t.Errorf("%v", described{d})
	}
}

// TestBlockedWithoutSight wants a person to be asked who can make the API servers be seen.
func TestBlockedWithoutSight(t *testing.T) {
	d := plan(Observed{Wanted: 1, ControlPlaneWaiting: "its credentials to be renewed", ControlPlaneBlocked: true})
	if !d.Blind || !d.Blocked || d.Waiting != "its credentials to be renewed" {
		t.Errorf("%v, blocked %t", described{d}, d.Blocked)
	}
}

// TestDoneWhileBlocked takes a rotation for done although a person must act before the nodes are as wanted.
func TestDoneWhileBlocked(t *testing.T) {
	d := plan(Observed{
		Wanted: 2, Stored: []int{2}, Presence: PresencePresent, Nodes: Nodes{Waiting: "a disruption", Blocked: true},
		Servers: []Server{serving("cp-0", Keys{Verify: []int{2}, Sign: 2})},
	})
	if !d.Blocked || !d.Done || d.Settled {
		t.Errorf("%v, blocked %t", described{d}, d.Blocked)
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
