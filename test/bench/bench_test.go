package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/rotation"
)

// A rotation from 1 to 2 as the UserCluster tells it: the status of before, the steps, and the end.
func TestTimeline(t *testing.T) {
	start := time.Unix(1000, 0)
	tl := &timeline{Steps: map[rotation.Step]float64{}, step: rotation.StepGenerate}
	for _, seen := range []struct {
		after        float64
		step         string
		token        int32
		public       []int32
		signing      []int32
		wantComplete bool
	}{
		{0, "", 1, []int32{1}, []int32{1, 1}, false},
		{1, "Generate", 1, []int32{1}, []int32{1, 1}, false},
		{3, "Publish", 1, []int32{1}, []int32{1, 1}, false},
		{5, "Publish", 1, []int32{1, 2}, []int32{1, 1}, false},
		{10, "Switch", 1, []int32{1, 2}, []int32{2, 1}, false},
		{15, "Switch", 1, []int32{1, 2}, []int32{2}, false},
		{17, "Switch", 1, []int32{1, 2}, []int32{2, 2}, false},
		{20, "Refresh", 1, []int32{1, 2}, []int32{2, 2}, false},
		{30, "Retire", 2, []int32{1, 2}, []int32{0, 2}, false},
		{42, "", 2, []int32{2}, []int32{2, 2}, true},
	} {
		uc := &v1alpha1.UserCluster{}
		uc.Spec.KSASigningKey.Version = 2
		uc.Spec.Infrastructure.Local = &v1alpha1.LocalInfrastructure{ControlPlane: v1alpha1.ControlPlane{Replicas: 2}}
		for _, v := range seen.signing {
			uc.Status.APIServers = append(uc.Status.APIServers, v1alpha1.APIServerStatus{SigningVersion: v})
		}
		uc.Status.KSASigningKey = v1alpha1.KSASigningKeyStatus{Step: seen.step, TokenVersion: seen.token, PublicKeyVersions: seen.public}
		at := start.Add(time.Duration(seen.after * float64(time.Second)))
		if got := tl.see(uc, at); got != seen.wantComplete {
			t.Errorf("after %v s: complete = %t", seen.after, got)
		}
	}
	want := map[rotation.Step]float64{"Generate": 3, "Publish": 7, "Switch": 10, "Refresh": 10, "Retire": 12}
	if diff := cmp.Diff(want, tl.Steps); diff != "" || tl.Total != 42 || tl.Signing != 17 {
		t.Errorf("total = %v, want 42; all sign after %v, want 17; steps differ (-want +got):\n%s", tl.Total, tl.Signing, diff)
	}
}

func TestTable(t *testing.T) {
	r := &Results{
		Load:      Load{APIServers: 3, Nodes: 2, Secrets: 100},
		Rotations: []*timeline{{Total: 80}, {Total: 120}},
		Stale:     Stale{Told: []float64{0.5, 2.5}, Alone: []float64{50, 10}},
		Tokens: Tokens{
			Resign: []float64{90, 80, 120}, Update: []float64{100, 100, 100}, Clear: []float64{45}, ClearUnlimited: []float64{30},
			ManagerQPS: "100", Rotation: &timeline{Total: 20}, RotationWrites: 4,
		},
		Memory:    Memory{PeakBefore: 160, Peak: 149, Now: 70},
		Exchanges: Exchanges{PerSecond: 100, P99: 5, Checks: 200},
		Requests: []Requests{{
			Algorithm: v1alpha1.ES256, Child: 31, Parent: 12,
			External: []Turn{{90, 11, 2, 1}, {50, 20, 2, 1}, {99, 10, 2, 1}},
			Least:    []Turn{{PerSecond: 95}}, LeastFiles: []Turn{{PerSecond: 100}},
			Files: []Turn{{100, 10, 1, 0}, {50, 10, 1, 0}, {100, 10, 1, 0}},
		}},
		Signatures: []Signatures{{
			Algorithm: v1alpha1.RS256, Sign: []Rate{{85, 1}}, Bare: []Rate{{100, 1}}, Socket: []Rate{{40, 1}}, Floor: []Rate{{100, 1}},
			SigningFloor: []Rate{{50, 1}},
		}},
		Ledger: Ledger{
			Signed: []Noting{{Algorithm: v1alpha1.ES256, With: []Rate{{1, 98}}, Without: []Rate{{1, 100}}}}, Memory: 4.7,
		},
		Sources: Sources{External: []*timeline{{Total: 15, Signing: 2}}, Files: []*timeline{{Total: 45, Signing: 20}}},
	}
	r.finish()
	var got []string
	for _, row := range r.Table {
		if row.met() != "" {
			got = append(got, row.measured()+", "+row.aim()+": "+row.met())
		}
	}
	want := []string{
		"100.0 s, at most 90 s: no",
		"0.90, at least 0.9: yes",
		"3.00, at least 2.5: yes",
		"2.00, at least 2.5: no",
		"2.5 s, at most 2 s: no",
		"149 MiB, at most 150 MiB: yes",
		"0.99, at least 0.95: yes",
		"1.10, at most 1.1: yes",
		"31 MiB, at most 30 MiB: no",
		"0.85, at least 0.9: no",
		"1.25, at most 1.1: no",
		"2.0 s, at most 1 s: no",
		"15.0 s, at most 20 s: yes",
		"0.98, at least 0.97: yes",
		"5 MiB, at most 8 MiB: yes",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows with an aim differ (-want +got):\n%s", diff)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

// Each group has rows of its own, and only those.
func TestTableOfNothing(t *testing.T) {
	r := &Results{}
	r.finish()
	if len(r.Table) > 0 {
		t.Errorf("nothing was measured, and the table has %v", r.Table)
	}
}

func TestGroups(t *testing.T) {
	for _, test := range []struct {
		only          string
		want, unknown []string
	}{
		{"", groupNames(), nil},
		{"signer,nodes", []string{"nodes", "signer"}, nil},
		{"rotation,x", []string{"rotation"}, []string{"x"}},
	} {
		o := options{only: test.only}
		var got []string
		for _, g := range o.groups() {
			got = append(got, g.name)
		}
		if diff := cmp.Diff([][]string{test.want, test.unknown}, [][]string{got, o.unknownGroups()}, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("--only %q: groups and unknown ones differ (-want +got):\n%s", test.only, diff)
		}
	}
}

func TestClusterConfig(t *testing.T) {
	got := clusterConfig(shape{name: "c", servers: 3, nodes: 2, source: v1alpha1.KeySourceExternal, algorithm: v1alpha1.RS256})
	for _, want := range []string{"name: c\n", "masterNode:\n  replicas: 3\n", "  source: external\n  algorithm: RS256\n", "- name: pool-1\n  replicas: 2\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("the config file lacks %q:\n%s", want, got)
		}
	}
}

// Every client is there at least once, and what has begun counts.
func TestBusy(t *testing.T) {
	var seen [3]atomic.Int64
	perSecond, p99, err := busy(t.Context(), len(seen), 0, func(_ context.Context, i int) error {
		time.Sleep(10 * time.Millisecond)
		seen[i].Add(1)
		return nil
	})
	if err != nil || perSecond <= 0 || perSecond > 300 || p99 < 10 {
		t.Errorf("%v a second, p99 %v ms, %v", perSecond, p99, err)
	}
	for i := range seen {
		if n := seen[i].Load(); n != 1 {
			t.Errorf("client %d did it %d times, want once", i, n)
		}
	}
	bad := errors.New("bad")
	if _, _, err := busy(t.Context(), 2, time.Hour, func(context.Context, int) error { return bad }); !errors.Is(err, bad) {
		t.Errorf("%v, want %v", err, bad)
	}
}

func TestInTurn(t *testing.T) {
	var got string
	for round := range 3 {
		_ = inTurn(round, func() error { got += "a"; return nil }, func() error { got += "b"; return nil })
	}
	if got != "abbaab" {
		t.Errorf("turns are %s, want abbaab", got)
	}
}

func TestMarkdown(t *testing.T) {
	r := &Results{Table: []Row{{What: "time", Value: 1, Unit: "s", AtMost: 2}}}
	var out bytes.Buffer
	r.markdown(&out)
	if row := "| time | 1.0 s | at most 2 s | yes |\n"; !strings.HasSuffix(out.String(), row) {
		t.Errorf("markdown is %q, want it to end in %q", out.String(), row)
	}
}

func TestUnlimitedArgs(t *testing.T) {
	got := unlimitedArgs([]string{"--kubeconfig=k", "--controllers=*", "--kube-api-qps=100", "--kube-api-burst=200", "--secure-port=1", "--root-ca-file=c"})
	want := []string{
		"--kubeconfig=k", "--root-ca-file=c", "--kube-api-qps=5000", "--kube-api-burst=5000",
		"--controllers=serviceaccount-token-controller", "--secure-port=0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("arguments differ (-want +got):\n%s", diff)
	}
}

func TestShares(t *testing.T) {
	for _, count := range []int{1, 9, 10, 101, 10000} {
		s := &secretsOf{count: count}
		sum := 0
		for n := range namespaces {
			sum += s.share(n)
		}
		if sum != count {
			t.Errorf("the shares of %d Secrets add up to %d", count, sum)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{{[]float64{3}, 3}, {[]float64{9, 1, 2}, 2}, {[]float64{4, 1}, 2.5}} {
		if got := median(test.values); math.Abs(got-test.want) > 1e-9 {
			t.Errorf("median(%v) = %v, want %v", test.values, got, test.want)
		}
	}
}
