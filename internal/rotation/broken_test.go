package rotation

import "slices"

// brokenPlanners each break one rule of a rotation: by believing what was not proven, or by deciding otherwise.
var brokenPlanners = []struct {
	name string
	plan planner
	// law is part of what it is caught for; stuck says that it is for never ending.
	law   string
	stuck bool
}{
	{name: "skips the proof of publish", law: "has not proven to accept", plan: func(o Observed) Decision {
		o.Servers = slices.Clone(o.Servers)
		for i, s := range o.Servers {
			if s.Ready && s.Running.Equal(s.Configured) {
				o.Servers[i].Accepts = s.Configured.Verify
			}
		}
		return Plan(o)
	}},
	{name: "forgets the fleet in publish", law: "the fleet has not proven", plan: func(o Observed) Decision {
		versions := Plan(o).Versions
		if len(o.Stored) == 2 {
			o.Fleet = nil
		}
		d := Plan(o)
		d.Versions = versions
		return d
	}},
	{name: "switches two API servers at a time", law: "while", plan: func(o Observed) Decision {
		d := Plan(o)
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
	{name: "takes API servers out for nothing", law: "for nothing", plan: func(o Observed) Decision {
		d := Plan(o)
		if d.Action.Kind == ConvergeControlPlane && d.Action.Target.Next == "" && len(o.Servers) == 1 {
			d.Action.Target.Next = o.Servers[0].Name
		}
		return d
	}},
	{name: "switches kube-controller-manager first", law: "is switched before the API servers are", plan: func(o Observed) Decision {
		d := Plan(o)
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
		d := Plan(o)
		d.Versions = Versions{}
		return d
	}},
	{name: "retires before the legacy tokens are refreshed", law: "legacy tokens {Proven:0", plan: func(o Observed) Decision {
		o.Legacy.Proven = o.Wanted
		d := Plan(o)
		d.Versions = Versions{}
		return d
	}},
	{name: "retires before the nodes are replaced", law: "", plan: func(o Observed) Decision {
		if len(o.Stored) == 2 {
			o.Nodes = Nodes{Converged: true, Oldest: o.Wanted}
		}
		d := Plan(o)
		d.Versions = Versions{}
		return d
	}},
	{name: "deletes the key before it is refused", law: "before cp-0 refused it", plan: func(o Observed) Decision {
		d := Plan(o)
		if d.Step == StepRetire {
			d.Action = Action{Kind: DeleteKey, Version: o.Stored[0]}
		}
		return d
	}},
	{name: "forgets the fleet in retire", law: "the fleet accepts it", plan: func(o Observed) Decision {
		if d := Plan(o); d.Step != StepRetire {
			return d
		}
		o.Fleet = nil
		return Plan(o)
	}},
	{name: "goes back to publish when it has lost its memory", law: "goes backward", plan: func(o Observed) Decision {
		d := Plan(o)
		if d.Step == StepRetire && o.Legacy.Proven == 0 && d.Action.Kind == ConvergeControlPlane {
			d.Action.Target.Keys = Keys{Verify: o.Stored, Sign: o.Stored[0]}
		}
		return d
	}},
	{name: "tells Switch of an API server that dies later", law: "had begun", plan: func(o Observed) Decision {
		d := Plan(o)
		if d.Step == StepRefresh && d.Action.Kind == ConvergeControlPlane {
			d.Step = StepSwitch
		}
		return d
	}},
	{name: "believes the spec", law: "versions", plan: func(o Observed) Decision {
		d := Plan(o)
		if slices.Contains(o.Stored, o.Wanted) && d.Versions.Token != 0 {
			d.Versions = Versions{Token: o.Wanted, Private: o.Wanted, Public: []int{o.Wanted}}
		}
		return d
	}},
	{name: "stops one step early", law: "settled with", plan: func(o Observed) Decision {
		d := Plan(o)
		if d.Action.Kind == DeleteKey {
			return Decision{Action: Action{Kind: Wait}, Settled: true, Versions: d.Versions}
		}
		return d
	}},
	{name: "leaves dead API servers alone", law: "is left down by Wait", plan: func(o Observed) Decision {
		d := Plan(o)
		down := slices.ContainsFunc(o.Servers, func(s Server) bool { return s.Running.IsZero() })
		if down && d.Action.Kind == ConvergeControlPlane && d.Action.Target.Next == "" {
			d.Action = Action{Kind: Wait}
		}
		return d
	}},
	{name: "proves legacy tokens through a dead API server", law: "is left down by RefreshTokens", plan: func(o Observed) Decision {
		d := Plan(o)
		if d.Step == StepRetire && o.Legacy.Proven != o.Wanted {
			d.Action = Action{Kind: RefreshTokens, Version: o.Stored[1]}
		}
		return d
	}},
	{name: "asks the fleet before it restarts an API server", law: "is left down by PublishKeys", plan: func(o Observed) Decision {
		d := Plan(o)
		if d.Step == StepPublish && o.Fleet != nil && !slices.Equal(o.Fleet.Accepts, o.Stored) {
			d.Action = Action{Kind: PublishKeys, Publish: o.Stored}
		}
		return d
	}},
	{name: "never believes that tokens are refreshed", stuck: true, plan: func(o Observed) Decision {
		o.Legacy.Proven = 0
		return Plan(o)
	}},
}
