package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/internal/controller"
)

// Row is one line of the table.
type Row struct {
	What  string  `json:"what"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit,omitempty"`
	// AtLeast and AtMost are aims; zero is none.
	AtLeast float64 `json:"atLeast,omitempty"`
	AtMost  float64 `json:"atMost,omitempty"`
}

func (r Row) measured() string {
	text := fmt.Sprintf("%.1f", r.Value)
	switch r.Unit {
	case "":
		return fmt.Sprintf("%.2f", r.Value)
	case "Secrets/s", "MiB", "tokens/s", "signatures/s":
		text = fmt.Sprintf("%.0f", r.Value)
	case "ms a token":
		text = fmt.Sprintf("%.2f", r.Value)
	}
	return text + " " + r.Unit
}

func (r Row) aim() string {
	switch {
	case r.AtLeast > 0:
		return fmt.Sprintf("at least %v", r.AtLeast)
	case r.AtMost > 0:
		return strings.TrimSpace(fmt.Sprintf("at most %v %s", r.AtMost, r.Unit))
	}
	return ""
}

func (r Row) met() string {
	switch {
	case r.AtLeast == 0 && r.AtMost == 0:
		return ""
	case r.Value < r.AtLeast, r.AtMost > 0 && r.Value > r.AtMost:
		return "no"
	}
	return "yes"
}

// What was not measured has no rows.

func (r *Results) rotationRows() []Row {
	if len(r.Rotations) == 0 {
		return nil
	}
	rows := []Row{{
		What:  fmt.Sprintf("rotation of %d API servers and %d nodes", r.Load.APIServers, r.Load.Nodes),
		Value: median(each(r.Rotations, (*timeline).total)), Unit: "s", AtMost: 90,
	}}
	for _, step := range steps {
		var times []float64
		for _, t := range r.Rotations {
			times = append(times, t.Steps[step])
		}
		rows = append(rows, Row{What: "- step " + string(step), Value: median(times), Unit: "s"})
	}
	return rows
}

func (r *Results) tokenRows() []Row {
	t := r.Tokens
	if t.Rotation == nil {
		return nil
	}
	resign, limited, free := median(t.Resign), median(t.Clear), median(t.ClearUnlimited)
	return []Row{
		{What: fmt.Sprintf("re-signing %d legacy tokens, ES256", r.Load.Secrets), Value: resign, Unit: "Secrets/s"},
		{What: "- bare updates of the same Secrets, not signed", Value: median(t.Update), Unit: "Secrets/s"},
		{What: "- ratio, the median of rounds", Value: median(ratios(t.Resign, t.Update)), AtLeast: 0.9},
		{What: "- cleared, kube-controller-manager refills, no client limits", Value: free, Unit: "Secrets/s"},
		{What: "- ratio", Value: resign / free, AtLeast: 2.5},
		{What: fmt.Sprintf("- cleared, kube-controller-manager refills, %s requests/s", t.ManagerQPS), Value: limited, Unit: "Secrets/s"},
		{What: "- ratio", Value: resign / limited, AtLeast: 2.5},
		{What: "- by the controller in a rotation, from the first write to the last", Value: float64(r.Load.Secrets) / t.RotationWrites, Unit: "Secrets/s"},
		{What: fmt.Sprintf("- that rotation, of one API server and %d legacy tokens", r.Load.Secrets), Value: t.Rotation.Total, Unit: "s"},
	}
}

func (r *Results) staleRows() []Row {
	if len(r.Stale.Told) == 0 {
		return nil
	}
	told, alone := slices.Max(r.Stale.Told), slices.Max(r.Stale.Alone)
	return []Row{
		{What: "mounted legacy token stale, at most", Value: told, Unit: "s", AtMost: 2},
		{What: "- without telling its pods, at most", Value: alone, Unit: "s"},
		{What: "- ratio", Value: alone / told},
	}
}

func (r *Results) memoryRows() []Row {
	if r.Memory.Peak == 0 {
		return nil
	}
	rows := []Row{
		{What: fmt.Sprintf("controller memory, peak while re-signing %d legacy tokens", r.Load.Secrets), Value: r.Memory.Peak, Unit: "MiB", AtMost: 150},
		{What: "- after it", Value: r.Memory.Now, Unit: "MiB"},
	}
	if len(r.Rotations) > 0 {
		rows = append(rows, Row{What: "- peak before, with the cluster with nodes", Value: r.Memory.PeakBefore, Unit: "MiB"})
	}
	return rows
}

func (r *Results) exchangeRows() []Row {
	e := r.Exchanges
	if e.Checks == 0 {
		return nil
	}
	return []Row{
		{What: fmt.Sprintf("exchanges at the STS of the local fleet, ES256, %d clients", exchangeClients), Value: e.PerSecond, Unit: "tokens/s"},
		{What: "- p99", Value: e.P99, Unit: "ms"},
		{What: "- the check of signature and claims alone, one core", Value: e.Checks, Unit: "tokens/s"},
		{What: "- ratio", Value: e.PerSecond / e.Checks},
	}
}

func (r *Results) requestRows() (rows []Row) {
	for _, q := range r.Requests {
		rate := func(t Turn) float64 { return t.PerSecond }
		p99 := func(t Turn) float64 { return t.P99 }
		cpu := func(t Turn) float64 { return t.CPU }
		signer := func(t Turn) float64 { return t.SignerCPU }
		rows = append(rows, Row{
			What:  fmt.Sprintf("TokenRequests, %s, keys external, %d clients", q.Algorithm, requestClients),
			Value: median(each(q.External, rate)), Unit: "tokens/s",
		})
		rows = append(rows,
			Row{What: "- keys from files", Value: median(each(q.Files, rate)), Unit: "tokens/s"},
			Row{What: "- ratio, the median of rounds", Value: median(ratios(each(q.External, rate), each(q.Files, rate))), AtLeast: 0.95},
			Row{What: "- p99, keys external", Value: median(each(q.External, p99)), Unit: "ms"},
			Row{What: "- p99, keys from files", Value: median(each(q.Files, p99)), Unit: "ms"},
			Row{What: "- ratio, the median of rounds", Value: median(ratios(each(q.External, p99), each(q.Files, p99))), AtMost: 1.1},
			Row{What: "- processor time of API server and signer, keys external", Value: median(each(q.External, cpu)), Unit: "ms a token"},
			Row{What: "- of it the signer's", Value: median(each(q.External, signer)), Unit: "ms a token"},
			Row{What: "- processor time of the API server, keys from files", Value: median(each(q.Files, cpu)), Unit: "ms a token"},
			Row{What: "- ratio, the median of rounds", Value: median(ratios(each(q.External, cpu), each(q.Files, cpu)))},
			Row{What: "- by the least signer that there can be, bare API server", Value: median(each(q.Least, rate)), Unit: "tokens/s"},
			Row{What: "- keys from files, bare API server", Value: median(each(q.LeastFiles, rate)), Unit: "tokens/s"},
			Row{What: "- ratio, the median of rounds", Value: median(ratios(each(q.Least, rate), each(q.LeastFiles, rate)))},
		)
	}
	return rows
}

func (r *Results) signerRows() []Row {
	if len(r.Requests) == 0 {
		return nil
	}
	child := func(q Requests) float64 { return q.Child }
	parent := func(q Requests) float64 { return q.Parent }
	return []Row{
		{What: "memory of the signer under these TokenRequests, peak", Value: slices.Max(each(r.Requests, child)), Unit: "MiB", AtMost: 30},
		{What: "- of its parent, which only keeps it running", Value: slices.Max(each(r.Requests, parent)), Unit: "MiB"},
	}
}

func (r *Results) signatureRows() (rows []Row) {
	for _, s := range r.Signatures {
		rate := func(r Rate) float64 { return r.PerSecond }
		cpu := func(r Rate) float64 { return r.PerCPUSecond }
		bare := each(s.Bare, rate)
		rows = append(rows,
			Row{What: fmt.Sprintf("the signer's Sign in process, %s, %d at once", s.Algorithm, signClients), Value: median(each(s.Sign, rate)), Unit: "signatures/s"},
			Row{What: "- Go's signature alone", Value: median(bare), Unit: "signatures/s"},
			Row{What: "- ratio, the median of rounds", Value: median(ratios(each(s.Sign, rate), bare)), AtLeast: 0.9},
			Row{What: "- ratio by processor time, the median of rounds", Value: median(ratios(each(s.Sign, cpu), each(s.Bare, cpu)))},
			Row{What: "- by the program keyturn-signer, over its socket", Value: median(each(s.Socket, rate)), Unit: "signatures/s"},
			Row{What: "- ratio to the signature alone, the median of rounds", Value: median(ratios(each(s.Socket, rate), bare))},
			Row{What: "- by a program that answers a constant, over such a socket", Value: median(each(s.Floor, rate)), Unit: "answers/s"},
			Row{What: "- time of a token to that of a constant and a signature, the median of rounds", Value: median(s.aboveFloor(rate)), AtMost: 1.1},
			Row{What: "- processor time, likewise", Value: median(s.aboveFloor(cpu))},
			Row{What: "- by a program that signs and answers a constant, over such a socket",
				Value: median(each(s.SigningFloor, rate)), Unit: "answers/s"},
			Row{What: "- time of a token to that, the median of rounds",
				Value: median(ratios(each(s.SigningFloor, rate), each(s.Socket, rate)))},
			Row{What: "- processor time, likewise",
				Value: median(ratios(each(s.SigningFloor, cpu), each(s.Socket, cpu)))},
		)
	}
	return rows
}

// aboveFloor is, for each round, what a token takes over the socket, divided by what a constant takes there and a
// signature alone.
func (s Signatures) aboveFloor(rate func(Rate) float64) []float64 {
	out := make([]float64, len(s.Socket))
	for i := range out {
		out[i] = 1 / rate(s.Socket[i]) / (1/rate(s.Floor[i]) + 1/rate(s.Bare[i]))
	}
	return out
}

func (r *Results) sourceRows() []Row {
	external, files := r.Sources.External, r.Sources.Files
	if len(external) == 0 || len(files) == 0 {
		return nil
	}
	of := func(all []*timeline, value func(*timeline) float64) float64 { return median(each(all, value)) }
	return []Row{
		{What: fmt.Sprintf("rotation of %d API servers, keys external, until all sign with the new key", r.Load.APIServers), Value: of(external, (*timeline).signing), Unit: "s", AtMost: 1},
		{What: "- keys from files", Value: of(files, (*timeline).signing), Unit: "s"},
		{What: "- ratio", Value: of(external, (*timeline).signing) / of(files, (*timeline).signing)},
		{What: "- until it is complete, keys external", Value: of(external, (*timeline).total), Unit: "s", AtMost: 20},
		{What: "- until it is complete, keys from files", Value: of(files, (*timeline).total), Unit: "s"},
		{What: "- ratio", Value: of(external, (*timeline).total) / of(files, (*timeline).total)},
	}
}

func (r *Results) kubeadmRows() []Row {
	k := r.Kubeadm
	if k == nil || len(k.Runbook) == 0 || len(k.Files) == 0 || len(k.External) == 0 {
		return nil
	}
	total, signing := (*timeline).total, (*timeline).signing
	runbook := func(value func(times) float64) float64 { return median(each(k.Runbook, value)) }
	byHand, inSign := runbook(func(t times) float64 { return t.Total }), runbook(func(t times) float64 { return t.Signing })
	return []Row{
		{What: fmt.Sprintf("kubeadm, %d API servers: rotation by a runbook, until all sign with the new key", r.Load.APIServers),
			Value: inSign, Unit: "s"},
		{What: "- by Keyturn, keys from files", Value: median(each(k.Files, signing)), Unit: "s"},
		{What: "- by Keyturn, keys external", Value: median(each(k.External, signing)), Unit: "s", AtMost: 2},
		{What: "- until it is complete, by a runbook", Value: byHand, Unit: "s"},
		{What: "- by Keyturn, keys from files", Value: median(each(k.Files, total)), Unit: "s"},
		{What: "- ratio to the runbook", Value: median(each(k.Files, total)) / byHand},
		{What: "- by Keyturn, keys external", Value: median(each(k.External, total)), Unit: "s", AtMost: 25},
		{What: "- ratio to the runbook", Value: median(each(k.External, total)) / byHand},
		{What: "- an API server is away for, by a runbook, at most", Value: greatest(k.RunbookAway), Unit: "s"},
		{What: "- by Keyturn, keys from files", Value: greatest(k.FilesAway), Unit: "s", AtMost: 16},
		{What: "- by Keyturn, keys external", Value: greatest(k.ExternalAway), Unit: "s"},
		{What: "- conversion to signers, once", Value: k.Conversion, Unit: "s"},
	}
}

// greatest is 0 of none.
func greatest(all []float64) float64 { return slices.Max(append([]float64{0}, all...)) }

func (r *Results) scaleRows() []Row {
	s := r.Scale
	if s == nil {
		return nil
	}
	many := min(rotatedAtOnce, (s.Clusters-2)/2)
	return []Row{
		{What: fmt.Sprintf("%d settled clusters, control planes simulated: processor time", s.Clusters), Value: 100 * s.CPU, Unit: "% of a core", AtMost: 5},
		{What: "- memory", Value: s.Memory, Unit: "MiB", AtMost: 200},
		{What: "- requests to the admin cluster", Value: s.AdminRequests, Unit: "requests/s", AtMost: 10},
		{What: fmt.Sprintf("- requests to one user cluster of %d API servers, a round", r.Load.APIServers), Value: s.UserRequests, Unit: "requests"},
		{What: "- likewise, a round each ten minutes", Value: s.UserRequests / controller.DefaultSettledInterval.Minutes(), Unit: "requests/min", AtMost: 1},
		{What: "- rounds of a cluster meanwhile", Value: s.Rounds},
		{What: "- until all are made", Value: s.Created, Unit: "s"},
		{What: "- rotation of one of them", Value: s.One, Unit: "s"},
		{What: fmt.Sprintf("- rotation of %d at once, until the last is complete", many), Value: s.Many, Unit: "s"},
		{What: "- ratio", Value: s.Many / s.One, AtMost: 3},
		{What: fmt.Sprintf("- rotation of one while %d others are silent", many), Value: s.BesideSilent, Unit: "s"},
		{What: "- ratio", Value: s.BesideSilent / s.One},
	}
}

func (r *Results) capiScaleRows() []Row {
	s := r.CAPIScale
	if s == nil {
		return nil
	}
	return []Row{
		{What: fmt.Sprintf("%d settled clusters of Cluster API, control planes simulated: processor time", s.Clusters),
			Value: 100 * s.CPU, Unit: "% of a core"},
		{What: "- memory", Value: s.Memory, Unit: "MiB"},
		{What: "- requests to the management cluster", Value: s.AdminRequests, Unit: "requests/s"},
		{What: "- likewise, a round of one cluster", Value: s.AdminRequestsPerRound, Unit: "requests"},
		{What: fmt.Sprintf("- requests to one cluster of %d API servers, a round", r.Load.APIServers), Value: s.UserRequests,
			Unit: "requests"},
		{What: "- rounds of a cluster meanwhile", Value: s.Rounds},
		{What: "- until all are adopted", Value: s.Created, Unit: "s"},
		{What: "- rotation of one by method Rollout, whose machines are replaced at once", Value: s.One, Unit: "s"},
	}
}

func (r *Results) capiRows() []Row {
	c := r.CAPI
	if c == nil || len(c.Files) == 0 || len(c.External) == 0 || len(c.Rollout) == 0 {
		return nil
	}
	total, signing := (*timeline).total, (*timeline).signing
	of := func(all []*timeline, value func(*timeline) float64) float64 { return median(each(all, value)) }
	rollout := of(c.Rollout, total)
	return []Row{
		{What: "Cluster API, one control-plane machine and one worker: rotation in place, keys from files",
			Value: of(c.Files, total), Unit: "s"},
		{What: "- until the API server signs with the new key", Value: of(c.Files, signing), Unit: "s"},
		{What: "- in place, keys external", Value: of(c.External, total), Unit: "s"},
		{What: "- until the API server signs with the new key", Value: of(c.External, signing), Unit: "s"},
		{What: "- by method Rollout", Value: rollout, Unit: "s"},
		{What: "- until the API server signs with the new key", Value: of(c.Rollout, signing), Unit: "s"},
		{What: "- ratio of in place, keys from files, to Rollout", Value: of(c.Files, total) / rollout},
		{What: "- ratio of in place, keys external, to Rollout", Value: of(c.External, total) / rollout},
		{What: "- conversion to signers, once", Value: c.Conversion, Unit: "s"},
	}
}

// each returns one value of each of a list.
func each[T any](all []T, value func(T) float64) []float64 {
	out := make([]float64, 0, len(all))
	for _, a := range all {
		out = append(out, value(a))
	}
	return out
}

// ratios divides the values of two equally long lists.
func ratios(a, b []float64) []float64 {
	out := make([]float64, len(a))
	for i := range a {
		out[i] = a[i] / b[i]
	}
	return out
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	n := len(sorted)
	if n%2 == 1 {
		return sorted[n/2]
	}
	return (sorted[n/2-1] + sorted[n/2]) / 2
}
