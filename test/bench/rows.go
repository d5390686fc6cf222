package main

import (
	"fmt"
	"slices"
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
	case "Secrets/s", "MiB", "tokens/s":
		text = fmt.Sprintf("%.0f", r.Value)
	}
	return text + " " + r.Unit
}

func (r Row) aim() string {
	switch {
	case r.AtLeast > 0:
		return fmt.Sprintf("at least %v", r.AtLeast)
	case r.AtMost > 0:
		return fmt.Sprintf("at most %v %s", r.AtMost, r.Unit)
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

func (r *Results) rotationRows() []Row {
	var totals []float64
	for _, t := range r.Rotations {
		totals = append(totals, t.Total)
	}
	rows := []Row{{
		What:  fmt.Sprintf("rotation of %d API servers and %d nodes", r.Load.APIServers, r.Load.Nodes),
		Value: median(totals), Unit: "s", AtMost: 90,
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
	told, alone := slices.Max(r.Stale.Told), slices.Max(r.Stale.Alone)
	return []Row{
		{What: "mounted legacy token stale, at most", Value: told, Unit: "s", AtMost: 2},
		{What: "- without telling its pods, at most", Value: alone, Unit: "s"},
		{What: "- ratio", Value: alone / told},
	}
}

func (r *Results) memoryRows() []Row {
	return []Row{
		{What: fmt.Sprintf("controller memory, peak while re-signing %d legacy tokens", r.Load.Secrets), Value: r.Memory.Peak, Unit: "MiB", AtMost: 150},
		{What: "- after it", Value: r.Memory.Now, Unit: "MiB"},
		{What: "- peak before, with the cluster with nodes", Value: r.Memory.PeakBefore, Unit: "MiB"},
	}
}

func (r *Results) exchangeRows() []Row {
	e := r.Exchanges
	return []Row{
		{What: fmt.Sprintf("exchanges at the STS of the local fleet, ES256, %d clients", exchangeClients), Value: e.PerSecond, Unit: "tokens/s"},
		{What: "- p99", Value: e.P99, Unit: "ms"},
		{What: "- the check of signature and claims alone, one core", Value: e.Checks, Unit: "tokens/s"},
		{What: "- ratio", Value: e.PerSecond / e.Checks},
	}
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
