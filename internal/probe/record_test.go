package probe

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at is so many tenths of a second after the epoch.
func at(tenths int) time.Time { return epoch.Add(time.Duration(tenths) * 100 * time.Millisecond) }

// play plays uses of one token at one API server, ten a second: a letter each, for accepted, refused, overwritten,
// unavailable.
func play(rec *recorder, kind Kind, server, uses string) {
	results := map[rune]result{'a': accepted, 'r': refused, 'o': overwritten, 'u': unavailable}
	for i, u := range uses {
		if result, ok := results[u]; ok {
			rec.record(use{Kind: kind, Server: server, KeyID: "k1", Result: result, At: at(i)})
		}
	}
}

func TestSpells(t *testing.T) {
	tests := []struct {
		uses   string
		counts Counts
		spells int
		open   bool
		stale  float64
	}{
		{"", Counts{}, 0, false, 0},
		{"aaaa", Counts{Accepted: 4}, 0, false, 0},
		{"aauua", Counts{Accepted: 3, Unavailable: 2}, 0, false, 0},
		{"arra", Counts{Accepted: 2, Refused: 2}, 1, false, 0.2},
		{"arrr", Counts{Accepted: 1, Refused: 3}, 1, true, 0.2},
		{"r", Counts{Refused: 1}, 1, true, 0},
		{"ruuuua", Counts{Accepted: 1, Refused: 1, Unavailable: 4}, 1, false, 0.5},
		{"raarrra", Counts{Accepted: 3, Refused: 4}, 2, false, 0.3},
		{"r     arr", Counts{Accepted: 1, Refused: 3}, 2, true, 0.6},
	}
	for _, test := range tests {
		t.Run(test.uses, func(t *testing.T) {
			rec := newRecorder("p", "n", epoch)
			play(rec, Legacy, "s", test.uses)
			lines := rec.snapshot().Lines
			if test.uses == "" {
				if len(lines) != 0 {
					t.Errorf("lines %v, want none", lines)
				}
				return
			}
			l := lines[0]
			if diff := cmp.Diff(test.counts, l.Counts()); diff != "" {
				t.Errorf("counts (-want +got):\n%s", diff)
			}
			if len(l.Spells) != test.spells || fmt.Sprintf("%.3f", l.StaleSeconds) != fmt.Sprintf("%.3f", test.stale) {
				t.Errorf("%d spells of at most %vs, want %d of %vs", len(l.Spells), l.StaleSeconds, test.spells, test.stale)
			}
			if open := test.spells > 0 && l.Spells[len(l.Spells)-1].End.IsZero(); open != test.open {
				t.Errorf("last spell open: %v, want %v", open, test.open)
			}
		})
	}
}

func TestSpellsAreBoundedAndKeepTheLongest(t *testing.T) {
	rec := newRecorder("p", "n", epoch)
	play(rec, Bound, "s", "rrrra"+strings.Repeat("ra", 3*maxSpells))
	l := rec.snapshot().Lines[0]
	if len(l.Spells) != maxSpells || l.Spells[0].Refusals != 4 {
		t.Errorf("%d spells, the first of %d refusals; want %d, the first of 4", len(l.Spells), l.Spells[0].Refusals,
			maxSpells)
	}
	if l.Counts().Refused != 4+3*maxSpells {
		t.Errorf("%d refusals counted", l.Counts().Refused)
	}
}

func TestSpellsOfServersAndKindsAreApart(t *testing.T) {
	rec := newRecorder("p", "n", epoch)
	play(rec, Bound, "s1", "arr")
	play(rec, Bound, "s2", "aaa")
	play(rec, ThirdParty, "s1", "aaa")
	var got []string
	for _, l := range rec.snapshot().Lines {
		got = append(got, fmt.Sprintf("%s %s %d", l.Kind, l.Server, l.Counts().Refused))
	}
	if diff := cmp.Diff([]string{"bound s1 2", "bound s2 0", "third-party s1 0"}, got); diff != "" {
		t.Errorf("refusals (-want +got):\n%s", diff)
	}
}

func TestReadyNeedsEveryKind(t *testing.T) {
	rec := newRecorder("p", "n", epoch)
	play(rec, Bound, "s1", "a")
	play(rec, Legacy, "s2", "ra")
	play(rec, ThirdParty, "s1", "ur")
	if rec.ready() {
		t.Error("ready without an accepted third-party token")
	}
	play(rec, ThirdParty, "s2", "a")
	if !rec.ready() {
		t.Error("not ready although every kind was accepted")
	}
}

// A kind that is not used everywhere counts from when it is expected.
func TestReadyNeedsAnOptionalKindOnlyWhereItIsExpected(t *testing.T) {
	rec := newRecorder("p", "n", epoch)
	for _, kind := range apiServerKinds() {
		play(rec, kind, "s1", "a")
	}
	if !rec.ready() {
		t.Error("not ready without a workload identity, although there is none")
	}
	rec.expect(WorkloadIdentity, "sts")
	if rec.ready() {
		t.Error("ready before the workload identity was used")
	}
	play(rec, WorkloadIdentity, "sts", "ur")
	if rec.ready() {
		t.Error("ready without an accepted workload identity")
	}
	play(rec, WorkloadIdentity, "sts", "a")
	if !rec.ready() {
		t.Error("not ready although every kind was accepted")
	}
}

func TestFileLag(t *testing.T) {
	tests := []struct {
		name string
		do   func(*recorder)
		want FileLag
	}{
		{"the first look is no change", func(r *recorder) {
			r.fileRead("old", at(0))
			r.secretChanged("old", at(1))
			r.fileRead("old", at(2))
		}, FileLag{}},
		{"the file follows", func(r *recorder) {
			r.fileRead("old", at(0))
			r.secretChanged("old", at(1))
			r.secretChanged("new", at(10))
			r.fileRead("old", at(15))
			r.fileRead("new", at(20))
			r.fileRead("new", at(30))
		}, FileLag{Changes: 1, MaxSeconds: 1}},
		{"the same event twice", func(r *recorder) {
			r.fileRead("old", at(0))
			r.secretChanged("old", at(1))
			r.secretChanged("new", at(10))
			r.secretChanged("new", at(19))
			r.fileRead("new", at(20))
			r.secretChanged("new", at(30))
		}, FileLag{Changes: 1, MaxSeconds: 1}},
		{"the file is first", func(r *recorder) {
			r.fileRead("old", at(0))
			r.secretChanged("old", at(1))
			r.fileRead("new", at(9))
			r.secretChanged("new", at(10))
		}, FileLag{Changes: 1}},
		{"cleared and filled: stale from the first change on", func(r *recorder) {
			r.fileRead("old", at(0))
			r.secretChanged("old", at(1))
			r.secretChanged("", at(10))
			r.secretChanged("new", at(20))
			r.fileRead("new", at(30))
		}, FileLag{Changes: 1, MaxSeconds: 2}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rec := newRecorder("p", "n", epoch)
			test.do(rec)
			if diff := cmp.Diff(test.want, rec.snapshot().FileLag); diff != "" {
				t.Errorf("file lag (-want +got):\n%s", diff)
			}
		})
	}
}

// A report is a copy, and survives JSON.
func TestReportIsACopy(t *testing.T) {
	rec := newRecorder("p", "n", epoch)
	play(rec, Bound, "s", "arra")
	before := rec.snapshot()
	data, err := json.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	play(rec, Bound, "s", "rrr")
	rec.mounted(Bound, "k2")
	var after Report
	if err := json.Unmarshal(data, &after); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("report changed (-before +after):\n%s", diff)
	}
}

func TestRecorderCountsFromManyGoroutines(t *testing.T) {
	rec := newRecorder("p", "n", epoch)
	var work sync.WaitGroup
	for range 8 {
		work.Go(func() {
			play(rec, Bound, "s", strings.Repeat("aru", 100))
			rec.snapshot()
		})
	}
	work.Wait()
	want := Counts{Accepted: 800, Refused: 800, Unavailable: 800}
	if diff := cmp.Diff(want, rec.snapshot().Lines[0].Counts()); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
}

func TestSummary(t *testing.T) {
	first, second := newRecorder("p1", "n1", epoch), newRecorder("p2", "n2", epoch)
	play(first, Bound, "s1", "aaau")
	play(first, Legacy, "s1", "aooa")
	play(first, ThirdParty, "s1", "aa")
	play(second, Bound, "s2", "aa")
	play(second, Legacy, "s1", "aoa")
	s := Summarize([]Report{first.snapshot(), second.snapshot()})
	want := Summary{Pods: 2, Tokens: []TokenUses{
		{Kind: Bound, Requests: 6, Unavailable: 1, Accepted: map[string]int64{"k1": 5}, RefusedKeyIDs: map[string]int64{}},
		{Kind: Legacy, Requests: 7, Refused: 3, Overwritten: 3, StaleSeconds: 0.2, Accepted: map[string]int64{"k1": 4},
			RefusedKeyIDs: map[string]int64{"k1": 3}},
		{Kind: ThirdParty, Requests: 2, Accepted: map[string]int64{"k1": 2}, RefusedKeyIDs: map[string]int64{}},
	}, InUse: []PodTokens{
		{Pod: "p1", Node: "n1", UpdatedAt: at(1), KeyIDs: map[Kind]string{}},
		{Pod: "p2", Node: "n2", UpdatedAt: at(2), KeyIDs: map[Kind]string{}},
	}}
	if diff := cmp.Diff(want, s); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	if s.Failed() || len(s.Unused()) > 0 {
		t.Errorf("refusals of an overwritten legacy token count as failure, or %v as unused", s.Unused())
	}
	for _, kind := range []Kind{Bound, Legacy, ThirdParty} {
		rec := newRecorder("p3", "n", epoch)
		play(rec, kind, "s1", "ar")
		if !Summarize([]Report{first.snapshot(), rec.snapshot()}).Failed() {
			t.Errorf("a refused %s token is no failure", kind)
		}
	}
	if got := Summarize(nil).Unused(); len(got) != 3 {
		t.Errorf("of nothing, only %v are unused", got)
	}
}

// Only where it is configured does workload identity count, as used or as unused.
func TestSummaryOfAnOptionalKind(t *testing.T) {
	without, with := newRecorder("p1", "n1", epoch), newRecorder("p2", "n2", epoch)
	for _, kind := range apiServerKinds() {
		play(without, kind, "s1", "a")
		play(with, kind, "s1", "a")
	}
	with.expect(WorkloadIdentity, "sts")
	tests := []struct {
		uses   string
		unused []Kind
		failed bool
		row    string
	}{
		{"", []Kind{WorkloadIdentity}, false, "workload-identity 0 0 0 0.0s -"},
		{"u", []Kind{WorkloadIdentity}, false, "workload-identity 1 0 1 0.0s -"},
		{"a", nil, false, "workload-identity 2 0 1 0.0s k1"},
		{"r", nil, true, "workload-identity 3 1 1 0.0s k1"},
	}
	check := func(reports []Report, unused []Kind, failed bool, row string) {
		t.Helper()
		s := Summarize(reports)
		if diff := cmp.Diff(unused, s.Unused()); diff != "" || s.Failed() != failed {
			t.Errorf("failed: %v, want %v; unused (-want +got):\n%s", s.Failed(), failed, diff)
		}
		var table strings.Builder
		if err := s.Print(&table); err != nil {
			t.Fatal(err)
		}
		got := ""
		for line := range strings.Lines(table.String()) {
			if strings.HasPrefix(line, string(WorkloadIdentity)) {
				got = strings.Join(strings.Fields(line), " ")
			}
		}
		if got != row {
			t.Errorf("row %q, want %q, in\n%s", got, row, &table)
		}
	}
	check([]Report{without.snapshot()}, nil, false, "")
	for _, test := range tests {
		play(with, WorkloadIdentity, "sts", test.uses)
		check([]Report{without.snapshot(), with.snapshot()}, test.unused, test.failed, test.row)
	}
}

// What is in use is what the pods have that run, after their last start.
func TestSummaryOfTokensInUse(t *testing.T) {
	report := func(pod string, started, updated int, kid string, ended bool) Report {
		r := Report{Pod: pod, Node: "n", StartedAt: at(started), UpdatedAt: at(updated), Ended: ended,
			Mounted: map[Kind]string{}}
		for _, k := range apiServerKinds() {
			r.Mounted[k] = kid
		}
		return r
	}
	odd := report("runs-too", 0, 900, "key-2-is-long", false)
	odd.Mounted[Legacy], odd.Mounted[ThirdParty] = "", "key-1-is-long"
	s := Summarize([]Report{
		report("ended", 0, 1000, "key-1-is-long", true),
		report("runs", 500, 1000, "key-2-is-long", false),
		report("runs", 0, 499, "key-1-is-long", false), // before its container was started again
		report("silent", 0, 399, "key-1-is-long", false),
		odd,
	})
	var got []string
	for _, p := range s.InUse {
		got = append(got, p.Pod)
	}
	if diff := cmp.Diff([]string{"runs", "runs-too"}, got); diff != "" {
		t.Errorf("pods that run (-want +got):\n%s", diff)
	}
	var table strings.Builder
	if err := s.Print(&table); err != nil {
		t.Fatal(err)
	}
	want := "in use by the 2 running pods: bound key-2-is (2), legacy without a key ID (1), legacy key-2-is (1), " +
		"third-party key-1-is (1), third-party key-2-is (1)\n"
	if !strings.HasSuffix(table.String(), want) {
		t.Errorf("want %q at the end of\n%s", want, &table)
	}
	data, err := json.Marshal(s)
	if err != nil || !strings.Contains(string(data),
		`"keyIDs":{"bound":"key-2-is-long","legacy":"key-2-is-long","third-party":"key-2-is-long"}`) {
		t.Errorf("JSON %s, %v", data, err)
	}
}
