package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// Results are what one run measured. They are written as results.json.
type Results struct {
	MeasuredAt time.Time `json:"measuredAt"`
	Seconds    float64   `json:"seconds"`
	Machine    Machine   `json:"machine"`
	Load       Load      `json:"load"`
	// Rotations are the rotations of the cluster with nodes.
	Rotations []*timeline `json:"rotations"`
	Stale     Stale       `json:"stale"`
	Tokens    Tokens      `json:"tokens"`
	Memory    Memory      `json:"memory"`
	Exchanges Exchanges   `json:"exchanges"`
	// Requests and Signatures have one for each algorithm.
	Requests   []Requests   `json:"requests,omitempty"`
	Signatures []Signatures `json:"signatures,omitempty"`
	Ledger     Ledger       `json:"ledger"`
	InUse      *InUse       `json:"inUse,omitempty"`
	Sources    Sources      `json:"sources"`
	Kubeadm    *Kubeadm     `json:"kubeadm,omitempty"`
	Scale      *Scale       `json:"scale,omitempty"`
	CAPIScale  *Scale       `json:"capiScale,omitempty"`
	CAPI       *CAPI        `json:"capi,omitempty"`
	// Table is what follows from the rest, and is shown.
	Table []Row `json:"table"`
}

// Load is what was to be done.
type Load struct {
	APIServers int `json:"apiServers"`
	Nodes      int `json:"nodes"`
	Secrets    int `json:"secrets"`
	// Sample is how many Secrets were cleared.
	Sample int `json:"sample"`
}

// Stale is how many seconds a mounted legacy token was behind its Secret, by pod.
type Stale struct {
	// Told is with our trigger, in rotations, and Alone without it.
	Told  []float64 `json:"toldSeconds"`
	Alone []float64 `json:"aloneSeconds"`
}

// Tokens are rates, in Secrets a second, one for each time.
type Tokens struct {
	Resign []float64 `json:"resign"`
	// Update is bare updates without signing.
	Update []float64 `json:"update"`
	// Clear is clearing for the cluster's kube-controller-manager, which may do ManagerQPS requests a second, and
	// ClearUnlimited for one without such a limit.
	Clear          []float64 `json:"clear"`
	ClearUnlimited []float64 `json:"clearUnlimited"`
	ManagerQPS     string    `json:"managerQPS"`
	// Rotation is the one that re-signed all of them, and RotationWrites how many seconds of it were between the first
	// and the last of these writes.
	Rotation       *timeline `json:"rotation"`
	RotationWrites float64   `json:"rotationWritesSeconds"`
}

// Memory is the memory of the controller, in MiB.
type Memory struct {
	// PeakBefore is while it made and rotated the cluster with nodes, Peak while it re-signed the Secrets, and Now after
	// it.
	PeakBefore float64 `json:"peakBeforeMiB"`

	Peak float64 `json:"peakMiB"`
	Now  float64 `json:"nowMiB"`
}

func newResults(o options, dir string) *Results {
	return &Results{
		MeasuredAt: time.Now().UTC().Truncate(time.Second),
		Machine:    describe(dir),
		Load:       Load{APIServers: apiServers, Nodes: nodeCount, Secrets: o.secrets, Sample: o.sample},
	}
}

// finish makes the table when all is measured that was wanted.
func (r *Results) finish() {
	r.Seconds = time.Since(r.MeasuredAt).Seconds()
	r.Table = slices.Concat(r.rotationRows(), r.tokenRows(), r.staleRows(), r.memoryRows(), r.exchangeRows(),
		r.requestRows(), r.signerRows(), r.signatureRows(), r.sourceRows(), r.kubeadmRows(), r.scaleRows(), r.capiScaleRows(), r.capiRows(), r.inUseRows())
}

func (r *Results) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the directory of the results: %w", err)
	}
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the results: %w", err)
	}
	var markdown bytes.Buffer
	r.markdown(&markdown)
	for name, data := range map[string][]byte{"results.json": append(data, '\n'), "results.md": markdown.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			return fmt.Errorf("writing the results: %w", err)
		}
	}
	return nil
}

// print writes the table for people at a terminal.
func (r *Results) print(w io.Writer) error {
	fmt.Fprintf(w, "\n%s\n\n", r.Machine)
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(table, "WHAT\tMEASURED\tAIM\tMET")
	for _, row := range r.Table {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", row.What, row.measured(), row.aim(), row.met())
	}
	return table.Flush()
}

func (r *Results) markdown(w io.Writer) {
	fmt.Fprintf(w, "Measured %s in %.0f minutes on: %s.\n\n", r.MeasuredAt.Format(time.DateOnly), r.Seconds/60, r.Machine)
	fmt.Fprint(w, "| what | measured | aim | met |\n|---|---|---|---|\n")
	for _, row := range r.Table {
		fmt.Fprintf(w, "| %s | %s | %s | %s |\n", row.What, row.measured(), row.aim(), row.met())
	}
}
