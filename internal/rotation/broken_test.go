package rotation

import (
	"slices"
	"strings"
	"time"
)

// brokenPlanners each break one rule of a rotation: by believing what was not proven, or by deciding otherwise.
var brokenPlanners = []struct {
	name string
	plan planner
	// law is part of what it is caught for; stuck means that it is caught for never ending.
	law   string
	stuck bool
	// in is the only shape of cluster in which it is tried; zero: in all.
	in shape
}{
	{name: "skips the proof of publish", law: "not proven", plan: func(o Observed) Decision {
		o.Servers = slices.Clone(o.Servers)
		for i, s := range o.Servers {
			if s.Ready && s.Running.Equal(s.Configured) {
				o.Servers[i].Accepts = s.Configured.Verify
			}
		}
		return plan(o)
	}},
	{name: "forgets the fleet in publish", law: "the fleet has not proven", plan: func(o Observed) Decision {
		versions := plan(o).Versions
		if len(o.Stored) == 2 {
			o.Publications = nil
		}
		d := plan(o)
		d.Versions = versions
		return d
	}},
	{name: "does not wait until all of the fleet has the key", law: "may not know the key yet",
		plan: func(o Observed) Decision {
			o.Publications = slices.Clone(o.Publications)
			for i := range o.Publications {
				o.Publications[i].CertainAt = time.Time{}
			}
			return plan(o)
		}},
	{name: "does not wait until all of the fleet has lost the key", law: "may accept it", plan: func(o Observed) Decision {
		if plan(o).Step == StepRetire {
			o.Publications = slices.Clone(o.Publications)
			for i := range o.Publications {
				o.Publications[i].CertainAt = time.Time{}
			}
		}
		return plan(o)
	}},
	{name: "switches on before all of the fleet has the key again", law: "may not know the key yet", in: haFleet,
		plan: func(o Observed) Decision {
			if began := slices.ContainsFunc(o.Servers, func(s Server) bool { return s.Configured.Sign == o.Wanted }); began &&
				plan(o).Step == StepSwitch {
				o.Publications = slices.Clone(o.Publications)
				for i := range o.Publications {
					o.Publications[i].CertainAt = time.Time{}
				}
			}
			return plan(o)
		}},
	{name: "switches on while the fleet has lost the key", law: "the fleet has not proven",
		plan: func(o Observed) Decision {
			began := slices.ContainsFunc(o.Servers, func(s Server) bool { return s.Configured.Sign == o.Wanted })
			waits := slices.ContainsFunc(o.Publications, func(p Publication) bool { return p.CertainAt.After(now) })
			if !began || waits || plan(o).Step != StepSwitch {
				return plan(o)
			}
			o.Publications = nil
			d := plan(o)
			d.Versions = Versions{}
			return d
		}},
	{name: "refreshes while the fleet has lost the key", law: "while the fleet refuses it",
		plan: func(o Observed) Decision {
			d := plan(o)
			if d.Step == StepRefresh && d.Action.Kind == PublishKeys {
				d.Action = Action{Kind: ConvergeNodes, Version: o.Stored[1]}
			}
			return d
		}},
	{name: "switches two API servers at a time", law: "while", plan: func(o Observed) Decision {
		d := plan(o)
		if d.Action.Kind != ConvergeControlPlane || d.Action.Target.Next != "" {
			return d
		}
		for _, s := range o.Servers {
			if !s.Configured.Equal(d.Action.Target.Keys) {
				d.Action.Target.Next = s.Name
			}
		}
		return d
	}},
	{name: "changes all API servers while one is not proven", law: "is not proven", plan: func(o Observed) Decision {
		d := plan(o)
		if d.Action.Kind == ConvergeControlPlane && d.Action.Target.Next == "" {
			d.Action.Target.Live = slices.ContainsFunc(o.Servers, func(s Server) bool {
				return s.live(d.Action.Target.Keys) && !s.Configured.Equal(d.Action.Target.Keys)
			})
		}
		return d
	}},
	{name: "restarts API servers that have a signer", law: "although it has a signer", plan: func(o Observed) Decision {
		d := plan(o)
		if t := &d.Action.Target; t.Live {
			i := slices.IndexFunc(o.Servers, func(s Server) bool { return !s.Configured.Equal(t.Keys) })
			t.Live, t.Next = false, o.Servers[i].Name
		}
		return d
	}},
	{name: "deletes the key while tokens of it are remembered", law: "has forgotten it", plan: func(o Observed) Decision {
		o.Servers = slices.Clone(o.Servers)
		for i := range o.Servers {
			o.Servers[i].Forgets = time.Time{}
		}
		return plan(o)
	}},
	{name: "believes that signers have what they were given", law: "versions", plan: func(o Observed) Decision {
		d := plan(o)
		if d.Versions.Private != 0 &&
			!slices.ContainsFunc(o.Servers, func(s Server) bool { return s.Configured.Sign != o.Wanted }) {
			d.Versions.Private = o.Wanted
		}
		return d
	}},
	{name: "takes API servers out for nothing", law: "for nothing", plan: func(o Observed) Decision {
		d := plan(o)
		if d.Action.Kind == ConvergeControlPlane && d.Action.Target.Next == "" && len(o.Servers) == 1 {
			d.Action.Target.Next = o.Servers[0].Name
		}
		return d
	}},
	{name: "switches kube-controller-manager first", law: "is switched before the API servers are",
		plan: func(o Observed) Decision {
			d := plan(o)
			if d.Step == StepSwitch {
				d.Action.Target.ControllerManagerSign = d.Action.Target.Keys.Sign
			}
			return d
		}},
	{name: "does not wait for kube-controller-manager", law: "kcm-", plan: func(o Observed) Decision {
		o.ControllerManagers = slices.Clone(o.ControllerManagers)
		for i, m := range o.ControllerManagers {
			o.ControllerManagers[i].Running, o.ControllerManagers[i].Ready = m.Configured, true
		}
		d := plan(o)
		d.Versions = Versions{}
		return d
	}},
	{name: "retires before the legacy tokens are refreshed", law: "legacy tokens {Proven:0",
		plan: func(o Observed) Decision {
			o.Legacy.Proven, o.Legacy.Final = o.Wanted, o.Wanted
			d := plan(o)
			d.Versions = Versions{}
			return d
		}},
	{name: "replaces nodes before legacy tokens are re-signed", law: "dies in this rotation",
		plan: func(o Observed) Decision {
			if len(o.Stored) == 2 && (o.Nodes.Oldest < o.Wanted || !o.Nodes.Converged) {
				o.Legacy.Proven = o.Wanted
			}
			return plan(o)
		}},
	{name: "re-signs legacy tokens right after a restart", law: "while kubelets do not watch them", in: oneNodes,
		plan: func(o Observed) Decision {
			o.Servers = slices.Clone(o.Servers)
			for i := range o.Servers {
				o.Servers[i].WatchesBack = time.Time{}
			}
			return plan(o)
		}},
	{name: "skips the last walk over the legacy tokens", law: "legacy tokens {Proven:2 Final:0",
		plan: func(o Observed) Decision {
			o.Legacy.Final = o.Legacy.Proven
			d := plan(o)
			d.Versions = Versions{}
			return d
		}},
	{name: "retires before the nodes are replaced", law: "", plan: func(o Observed) Decision {
		if len(o.Stored) == 2 {
			o.Nodes, o.Legacy.Final = Nodes{Converged: true, Oldest: o.Wanted}, o.Legacy.Proven
		}
		d := plan(o)
		d.Versions = Versions{}
		return d
	}},
	{name: "deletes the key before it is refused", law: "before cp-0 refused it", plan: func(o Observed) Decision {
		d := plan(o)
		if d.Step == StepRetire {
			d.Action = Action{Kind: DeleteKey, Version: o.Stored[0]}
		}
		return d
	}},
	{name: "forgets the fleet in retire", law: "the fleet accepts it", plan: func(o Observed) Decision {
		if d := plan(o); d.Step != StepRetire {
			return d
		}
		o.Publications = nil
		return plan(o)
	}},
	{name: "goes back to publish when it has lost its memory", law: "goes backward", plan: func(o Observed) Decision {
		d := plan(o)
		if d.Step == StepRetire && o.Legacy.Proven == 0 && d.Action.Kind == ConvergeControlPlane {
			d.Action.Target.Keys = Keys{Verify: o.Stored, Sign: o.Stored[0]}
		}
		return d
	}},
	{name: "reports Switch for an API server that dies later", law: "had begun", plan: func(o Observed) Decision {
		d := plan(o)
		if d.Step == StepRefresh && d.Action.Kind == ConvergeControlPlane {
			d.Step = StepSwitch
		}
		return d
	}},
	{name: "believes the spec", law: "versions", plan: func(o Observed) Decision {
		d := plan(o)
		if slices.Contains(o.Stored, o.Wanted) && d.Versions.Token != 0 {
			d.Versions = Versions{Token: o.Wanted, Private: o.Wanted, Public: []int{o.Wanted}}
		}
		return d
	}},
	{name: "stops one step early", law: "settled with", plan: func(o Observed) Decision {
		d := plan(o)
		if d.Action.Kind == DeleteKey {
			keys := Keys{Verify: []int{o.Wanted}, Sign: o.Wanted, External: o.External}
			return Decision{Action: converge(keys, o.Wanted), Settled: true, Done: true, Versions: d.Versions}
		}
		return d
	}},
	{name: "leaves dead API servers alone", law: "is left down by Wait", plan: func(o Observed) Decision {
		d := plan(o)
		down := slices.ContainsFunc(o.Servers, func(s Server) bool { return s.Running.IsZero() })
		if down && d.Action.Kind == ConvergeControlPlane && d.Action.Target.Next == "" {
			d.Action = Action{Kind: Wait}
		}
		return d
	}},
	{name: "proves legacy tokens through a dead API server", law: "RefreshTokens", plan: func(o Observed) Decision {
		d := plan(o)
		if d.Step == StepRetire && o.Legacy.Proven != o.Wanted {
			d.Action = Action{Kind: RefreshTokens, Version: o.Stored[1]}
		}
		return d
	}},
	{name: "asks the fleet before it restarts an API server", law: "is left down by PublishKeys",
		plan: func(o Observed) Decision {
			d := plan(o)
			if d.Step == StepPublish && len(o.Publications) > 0 && !slices.Equal(o.Publications[0].Accepts, o.Stored) {
				d.Action = Action{Kind: PublishKeys, Publish: o.Stored}
			}
			return d
		}},
	{name: "takes what it does not see for absent", law: "although it saw nothing", plan: func(o Observed) Decision {
		if o.Presence == PresenceUnknown {
			o.Presence = PresenceAbsent
		}
		return plan(o)
	}},
	{name: "lets a newcomer wait for its turn", law: "lags behind", plan: func(o Observed) Decision {
		d := plan(o)
		for _, s := range o.Servers {
			if s.Name == d.Action.Target.Next && s.lags(d.Action.Target.Keys) {
				d.Action.Target.Next = ""
			}
		}
		return d
	}},
	{name: "forgets bootstrap material", law: "settled with bootstrap material", plan: func(o Observed) Decision {
		o.Bootstrap = Keys{}
		return plan(o)
	}},
	{name: "changes bootstrap material before the proof", law: "bootstrap material: ", plan: func(o Observed) Decision {
		d := plan(o)
		if d.Step == StepPublish && d.Action.Kind == ConvergeControlPlane && !o.Bootstrap.IsZero() {
			d.Action.Target.Keys.Sign, d.Action.Target.Bootstrap = o.Wanted, true
		}
		return d
	}},
	{name: "asks for a retired key", law: "lags behind", in: shape{servers: 3, managers: 2, restores: true},
		plan: func(o Observed) Decision {
			for _, s := range o.Servers {
				if v := s.Configured.Verify; len(o.Stored) > 0 && len(v) == 1 && v[0] < o.Stored[0] {
					return Decision{Action: Action{Kind: Wait}, Waiting: "its Secret to be restored", Blocked: true}
				}
			}
			return plan(o)
		}},
	{name: "lets two API servers wait for each other", stuck: true, in: shape{servers: 2, managers: 1, disks: true},
		plan: func(o Observed) Decision {
			d := plan(o)
			two := 0
			for _, s := range o.Servers {
				if s.restarting() && !s.lags(d.Action.Target.Keys) {
					two++
				}
			}
			if two == 2 {
				d.Action.Target.Next = ""
			}
			return d
		}},
	{name: "drops a foreign key that nobody has released", law: "a foreign key that may not go", in: haForeign,
		plan: func(o Observed) Decision {
			o.ForeignMayGo = []string{foreignKid}
			return plan(o)
		}},
	{name: "names no API server that is to drop a foreign key", stuck: true, in: haForeign,
		plan: func(o Observed) Decision {
			d := plan(o)
			if strings.Contains(d.Waiting, "to stop accepting the keys") {
				d.Action.Target.Next = ""
			}
			return d
		}},
	{name: "leaves the old private key on disks", law: "on disks", plan: func(o Observed) Decision {
		o.Held = nil
		return plan(o)
	}},
	{name: "does not wait for tokens to expire", law: "a token of it has not expired", in: awaiting,
		plan: func(o Observed) Decision {
			o.Outstanding = Outstanding{}
			return plan(o)
		}},
	{name: "waits for ever for tokens to expire", stuck: true, in: awaiting, plan: func(o Observed) Decision {
		o.Outstanding.Gone, o.Outstanding.Limit = later, time.Time{}
		return plan(o)
	}},
	{name: "never believes that tokens are refreshed", stuck: true, plan: func(o Observed) Decision {
		o.Legacy.Proven = 0
		return plan(o)
	}},
}
