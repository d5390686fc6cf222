package inuse_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/inuse"
	"github.com/keyturn/keyturn/internal/podtokens"
	"github.com/keyturn/keyturn/signer/ledger"
)

const issuer = "https://issuer.test"

// at is a time so many minutes after that of all tests.
func at(minutes int) time.Time { return time.Unix(1e9, 0).Add(time.Duration(minutes) * time.Minute) }

// world is a cluster in which version 2 follows version 1, with one signer that knows of every token.
func world(change ...func(*inuse.Input)) inuse.Input {
	in := inuse.Input{
		Keys:      []inuse.Key{{Version: 1, ID: "k1", From: at(-1000)}, {Version: 2, ID: "k2", From: at(-10)}},
		Signers:   []inuse.Signer{{Name: "cp-0", Report: ledger.Report{Since: at(-995)}}},
		Audiences: []string{issuer}, MaxLife: 365 * 24 * time.Hour, Now: at(0),
	}
	for _, f := range change {
		f(&in)
	}
	return in
}

// signed adds an entry to the ledger of the first signer. An audience of "" is the API server's.
func signed(key, audience, pod string, expires int) func(*inuse.Input) {
	e := ledger.Entry{
		KeyID: key, Namespace: "ns", ServiceAccount: "app", Audiences: []string{cmp.Or(audience, issuer)},
		Expires: at(expires),
	}
	if pod != "" {
		e.Bound = &ledger.Object{Kind: "Pod", Name: pod, UID: "uid-" + pod}
	}
	return entry(e)
}

func entry(e ledger.Entry) func(*inuse.Input) {
	return func(in *inuse.Input) {
		r := &in.Signers[0].Report
		r.Entries = append(r.Entries, e)
	}
}

func pod(name string, tokens ...podtokens.Token) func(*inuse.Input) {
	return func(in *inuse.Input) {
		workload, _, _ := strings.Cut(name, "-")
		in.Pods = append(in.Pods, inuse.Pod{
			Namespace: "ns", Name: name, UID: "uid-" + name, Account: "app", Workload: "Deployment/" + workload, Tokens: tokens,
		})
	}
}

func secret(name, key, lastUsed string) func(*inuse.Input) {
	return func(in *inuse.Input) {
		in.Secrets = append(in.Secrets,
			inuse.Secret{Namespace: "ns", Name: name, Account: "old", KeyID: key, LastUsed: lastUsed})
	}
}

var (
	api   = podtokens.Token{Kind: podtokens.Bound, Way: podtokens.File, Refresh: podtokens.ByKubelet}
	named = podtokens.Token{Kind: podtokens.Bound, Audience: issuer, Way: podtokens.File, Refresh: podtokens.ByKubelet}
	vault = podtokens.Token{
		Kind: podtokens.ThirdParty, Audience: "vault", Way: podtokens.File, Refresh: podtokens.ByKubelet,
	}
	pinned = podtokens.Token{
		Kind: podtokens.ThirdParty, Audience: "vault", Way: podtokens.SubPath, Refresh: podtokens.ByPod,
	}
	file = podtokens.Token{Kind: podtokens.Legacy, Secret: "s", Way: podtokens.File, Refresh: podtokens.ByKubelet}
	env  = podtokens.Token{Kind: podtokens.Legacy, Secret: "s", Way: podtokens.Environment, Refresh: podtokens.ByContainer}
)

// ending is a token of a pod that ends.
func ending(t podtokens.Token) podtokens.Token {
	t.Refresh = podtokens.Never
	return t
}

// canary names the account of the tokens by which API servers prove themselves.
func canary(namespace, name string) func(*inuse.Input) {
	return func(in *inuse.Input) { in.Canary = types.NamespacedName{Namespace: namespace, Name: name} }
}

func problem(in *inuse.Input) { in.Signers[0].Problem = "it has its keys from files" }

func TestSum(t *testing.T) {
	for _, test := range []struct {
		name    string
		in      inuse.Input
		want    []string
		awaited string
		gone    string
	}{
		{name: "nothing", in: world(), gone: "+0s"},
		{
			name: "pods of a workload", gone: "+30m0s",
			awaited: "2 third-party tokens of key version 1 to expire, the last at " + stamp(30),
			in: world(pod("web-1", api, vault), pod("web-2", api, vault),
				signed("k1", "", "web-1", 60), signed("k1", "vault", "web-1", 10), signed("k1", "", "web-2", 70),
				signed("k1", "vault", "web-2", 30)),
			want: []string{
				"ns/app Deployment/web ThirdParty for vault: 2 of 1 until +30m0s, by Kubelet",
				"ns/app Deployment/web Bound: 2 of 1 until +1h10m0s, by Kubelet",
			},
		},
		{
			name: "a newer one in the same file", gone: "+10m0s",
			awaited: "1 third-party token of key version 1 to expire, the last at " + stamp(10),
			in:      world(pod("web-1", vault), signed("k1", "vault", "web-1", 10), signed("k2", "vault", "web-1", 90)),
			want: []string{
				"ns/app Deployment/web ThirdParty for vault: 1 of 1 until +10m0s, by Replaced",
				"ns/app Deployment/web ThirdParty for vault: 1 of 2 until +1h30m0s, by Kubelet",
			},
		},
		{
			name: "a newer one beside a copy of the old one", gone: "+10m0s",
			awaited: "1 third-party token of key version 1 to expire, the last at " + stamp(10),
			in:      world(pod("web-1", vault, pinned), signed("k1", "vault", "web-1", 10), signed("k2", "vault", "web-1", 90)),
			want: []string{
				"ns/app Deployment/web ThirdParty for vault: 1 of 1 until +10m0s, by Pod",
				"ns/app Deployment/web ThirdParty for vault: 1 of 2 until +1h30m0s, by Pod",
			},
		},
		{
			name: "a pod that ends keeps what it has", gone: "+0s",
			in:   world(pod("web-1", ending(api)), signed("k1", "", "web-1", 10)),
			want: []string{"ns/app Deployment/web Bound: 1 of 1 until +10m0s, by Never"},
		},
		{name: "a pod that is gone", gone: "+0s", in: world(signed("k1", "vault", "web-1", 10))},
		{name: "a token that has expired", gone: "+0s", in: world(signed("k1", "vault", "", -1))},
		{
			name: "a token that API servers accept for its last minute", gone: "+0s",
			awaited: "1 requested token of key version 1 to expire, the last at " + stamp(0),
			in:      world(signed("k1", "vault", "", 0)),
			want:    []string{"ns/app - Requested for vault: 1 of 1 until +0s, by Never"},
		},
		{
			name: "tokens by which API servers prove themselves", gone: "+0s",
			in: world(signed("k1", "", "", 10), canary("ns", "app")),
		},
		{
			name: "tokens of other accounts beside them", gone: "+10m0s",
			awaited: "1 requested token of key version 1 to expire, the last at " + stamp(10),
			in:      world(signed("k1", "", "", 10), canary("ns", "canary")),
			want:    []string{"ns/app - Requested: 1 of 1 until +10m0s, by Never"},
		},
		{
			name: "asked for, also for a pod whose spec does not", gone: "+2h0m0s",
			awaited: "2 requested tokens of key version 1 to expire, the last at " + stamp(120),
			in:      world(pod("web-1", vault), signed("k1", "", "", 120), signed("k1", "", "web-1", 60)),
			want: []string{
				"ns/app - Requested: 1 of 1 until +2h0m0s, by Never",
				"ns/app Deployment/web Requested: 1 of 1 until +1h0m0s, by Never",
			},
		},
		{
			name: "asked for, and of pods", gone: "+2h0m0s",
			awaited: "1 requested and 2 third-party tokens of key version 1 to expire, the last at " + stamp(120),
			in: world(
				pod("web-1", vault), pod("web-2", vault), signed("k1", "", "", 120), signed("k1", "vault", "web-1", 5),
				signed("k1", "vault", "web-2", 6),
			),
			want: []string{
				"ns/app - Requested: 1 of 1 until +2h0m0s, by Never",
				"ns/app Deployment/web ThirdParty for vault: 2 of 1 until +6m0s, by Kubelet",
			},
		},
		{
			name: "asked for, bound to a Secret", gone: "+2h0m0s",
			awaited: "1 requested token of key version 1 to expire, the last at " + stamp(120),
			in: world(entry(ledger.Entry{KeyID: "k1", Namespace: "ns", ServiceAccount: "ci", Audiences: []string{"a", "b"},
				Bound: &ledger.Object{Kind: "Secret", Name: "s", UID: "u"}, Expires: at(120)})),
			want: []string{"ns/ci - Requested for a,b: 1 of 1 until +2h0m0s, by Never"},
		},
		{
			name: "by two API servers", gone: "+2h0m0s",
			awaited: "1 requested token of key version 1 to expire, the last at " + stamp(120),
			in: world(signed("k1", "", "", 120), func(in *inuse.Input) {
				other := in.Signers[0]
				other.Report.Entries = []ledger.Entry{other.Report.Entries[0]}
				other.Report.Entries[0].Expires = at(90)
				other.Name, in.Signers = "cp-1", append(in.Signers, other)
			}),
			want: []string{"ns/app - Requested: 1 of 1 until +2h0m0s, by Never"},
		},
		{
			name: "for one holder twice, the later one last", gone: "+3h0m0s",
			awaited: "1 requested token of key version 1 to expire, the last at " + stamp(180),
			in:      world(signed("k1", "", "", 120), signed("k1", "", "", 180)),
			want:    []string{"ns/app - Requested: 1 of 1 until +3h0m0s, by Never"},
		},
		{
			name: "a copy listed before the file", gone: "+10m0s",
			awaited: "1 third-party token of key version 1 to expire, the last at " + stamp(10),
			in:      world(pod("web-1", pinned, vault), signed("k1", "vault", "web-1", 10)),
			want:    []string{"ns/app Deployment/web ThirdParty for vault: 1 of 1 until +10m0s, by Pod"},
		},
		{
			name: "asked for, of a pod that holds only a legacy token", gone: "+10m0s",
			awaited: "1 requested token of key version 1 to expire, the last at " + stamp(10),
			in:      world(pod("web-1", file), signed("k1", "", "web-1", 10)),
			want:    []string{"ns/app Deployment/web Requested: 1 of 1 until +10m0s, by Never"},
		},
		{
			name: "of a pod that names the API server as audience", gone: "+0s",
			in:   world(pod("web-1", named), signed("k1", "", "web-1", 10)),
			want: []string{"ns/app Deployment/web Bound: 1 of 1 until +10m0s, by Kubelet"},
		},
		{
			name: "of a new key alone", gone: "+0s", in: world(signed("k2", "", "", 120)),
			want: []string{"ns/app - Requested: 1 of 2 until +2h0m0s, by Never"},
		},
		{
			name: "of a key that nobody knows", gone: "+0s", in: world(signed("strange", "", "", 120)),
			want: []string{"ns/app - Requested: 1 of 0 until +2h0m0s, by Never"},
		},
		{
			name: "a ledger that was full", gone: "+3h0m0s",
			awaited: "1 group of tokens without details in the ledgers to expire, the last at " + stamp(180),
			in:      world(pod("web-1", api), entry(ledger.Entry{KeyID: "k1", Namespace: "ns", Coarse: true, Expires: at(180)})),
			want: []string{
				"ns/ - Unknown: 1 of 1 until +3h0m0s, by Never",
				"ns/app Deployment/web Bound: 1 of 0 until ?, by Kubelet",
			},
		},
		{
			name: "a ledger that was full, and then not", gone: "+4h0m0s",
			awaited: "1 requested token of key version 1, and 1 group of tokens without details in the ledgers " +
				"to expire, the last at " + stamp(240),
			in: world(pod("web-1", api),
				entry(ledger.Entry{KeyID: "k1", Namespace: "ns", Coarse: true, Expires: at(180)}),
				signed("k1", "", "", 240), signed("k2", "", "", 240), signed("k2", "vault", "", 240)),
			want: []string{
				"ns/ - Unknown: 1 of 1 until +3h0m0s, by Never",
				"ns/app - Requested: 1 of 1 until +4h0m0s, by Never",
				"ns/app - Requested: 1 of 2 until +4h0m0s, by Never",
				"ns/app - Requested for vault: 1 of 2 until +4h0m0s, by Never",
				"ns/app Deployment/web Bound: 1 of 0 until ?, by Kubelet",
			},
		},
		{
			name: "a ledger that was full, beside tokens that it tells of", gone: "+3h0m0s",
			awaited: "1 group of tokens without details in the ledgers to expire, the last at " + stamp(180),
			in: world(pod("web-1", api, file), pod("db-1", vault, pinned), pod("ci-1", file), signed("k2", "", "web-1", 60),
				entry(ledger.Entry{KeyID: "k1", Namespace: "ns", Coarse: true, Expires: at(180)})),
			want: []string{
				"ns/ - Unknown: 1 of 1 until +3h0m0s, by Never",
				"ns/app Deployment/db ThirdParty for vault: 1 of 0 until ?, by Pod",
				"ns/app Deployment/web Bound: 1 of 2 until +1h0m0s, by Kubelet",
			},
		},
		{
			name: "a ledger that began later", gone: "+8755h0m0s",
			in: world(pod("web-1", vault), signed("k1", "", "", 120), func(in *inuse.Input) {
				in.Signers[0].Report.Since = at(-300)
			}),
			awaited: "1 requested token of key version 1, and any tokens that API server cp-0 did not record " +
				"(its ledger began at " + stamp(-300) + ", after the key was first used) to expire, the last at " + stamp(8755*60),
			want: []string{
				"ns/app - Requested: 1 of 1 until +2h0m0s, by Never",
				"ns/app Deployment/web ThirdParty for vault: 1 of 0 until ?, by Kubelet",
			},
		},
		{
			name: "a ledger that began later, long ago", gone: "+0s", in: world(func(in *inuse.Input) {
				in.Keys[0].From, in.MaxLife = time.Time{}, 900*time.Minute
			}),
		},
		{
			name: "no ledger", gone: "?", in: world(pod("web-1", api, vault), problem),
			awaited: "any tokens that API server cp-0 did not record (it has its keys from files) to expire",
			want: []string{
				"ns/app Deployment/web ThirdParty for vault: 1 of 0 until ?, by Kubelet",
				"ns/app Deployment/web Bound: 1 of 0 until ?, by Kubelet",
			},
		},
		{
			name: "legacy tokens", gone: "+0s", in: world(pod("web-1", file), pod("web-2", file, env, file), pod("db-1", file),
				secret("s", "k1", "2001-09-01"), secret("ci", "k1", "2001-09-08"), secret("new", "k2", ""),
				secret("empty", "", "")),
			want: []string{
				"ns/old Secret/empty Legacy: 1 of 0 until ?, by Secret",
				"ns/old Deployment/db Legacy: 1 of 1 until ?, by Secret",
				"ns/old Deployment/web Legacy: 1 of 1 until ?, by Container",
				"ns/old Secret/ci Legacy: 1 of 1 until ?, by Secret, used 2001-09-08",
				"ns/old Secret/new Legacy: 1 of 2 until ?, by Secret",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := inuse.Sum(test.in)
			if diff := gocmp.Diff(test.want, lines(r.Rows)); diff != "" {
				t.Errorf("rows (-want +got):\n%s", diff)
			}
			if got := r.Awaited(1); got != test.awaited {
				t.Errorf("awaited %q, want %q", got, test.awaited)
			}
			gone := r.Gone(1)
			if gone.After(test.in.Now) { // API servers accept an expired token a little longer
				gone = gone.Add(-ledger.Leeway)
			}
			if got := after(gone); got != test.gone {
				t.Errorf("gone %s, want %s", got, test.gone)
			}
		})
	}
}

func lines(rows []inuse.Row) []string {
	var all []string
	for _, r := range rows {
		line := fmt.Sprintf("%s/%s %s %s", r.Namespace, r.Account, cmp.Or(r.Workload, "-"), r.Kind)
		if r.Audience != "" {
			line += " for " + r.Audience
		}
		line += fmt.Sprintf(": %d of %d until %s, by %s", r.Count, r.Version, after(r.Expires), r.Refresh)
		if r.LastUsed != "" {
			line += ", used " + r.LastUsed
		}
		all = append(all, line)
	}
	return all
}

func after(t time.Time) string {
	if t.IsZero() {
		return "?"
	}
	return "+" + t.Sub(at(0)).String()
}

func stamp(minutes int) string { return at(minutes).UTC().Format(time.RFC3339) }

// What a signer cannot tell is never nothing.
func TestGapsCount(t *testing.T) {
	r := inuse.Sum(world(problem, secret("s", "k1", "")))
	want := []inuse.Count{{Kind: inuse.Unknown, Count: 1}, {Kind: inuse.Legacy, Count: 1}}
	if diff := gocmp.Diff(want, r.Of(1)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestLateLedgers is about ledgers that began after a key. Those of a new cluster miss nothing, and those of signers
// that an old cluster was given miss what its API servers signed with files.
func TestLateLedgers(t *testing.T) {
	for _, test := range []struct {
		name  string
		since int
		want  []int
	}{
		{"begun with the first key", -995, nil},
		{"begun long after the first key", -900, []int{1}},
		{"begun soon after a later key", -5, []int{1, 2}},
		{"begun with a later key", -9, []int{1}},
	} {
		in := world(func(in *inuse.Input) { in.Signers[0].Report.Since = at(test.since) })
		var got []int
		for _, g := range inuse.Sum(in).Gaps {
			got = append(got, g.Version)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("a ledger %s misses tokens of the key versions %v, want %v", test.name, got, test.want)
		}
	}
}

// TestUnknownIsTheLatest has tokens that expire at a known time beside others of which nobody knows when: then nobody
// knows when the last of them does.
func TestUnknownIsTheLatest(t *testing.T) {
	blind := func(in *inuse.Input) {
		in.Signers = append(in.Signers, inuse.Signer{Name: "cp-1", Problem: "it has its keys from files"})
	}
	first := func(in *inuse.Input) {
		blind(in)
		in.Signers[0], in.Signers[1] = in.Signers[1], in.Signers[0]
	}
	late := func(in *inuse.Input) { in.Signers[0].Report.Since = at(-300) }
	for name, in := range map[string]inuse.Input{
		"known, then not": world(late, blind), "unknown, then known": world(late, first),
	} {
		r := inuse.Sum(in)
		if diff := gocmp.Diff([]inuse.Count{{Kind: inuse.Unknown, Count: 2}}, r.Of(1)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if gone := r.Gone(1); !gone.IsZero() {
			t.Errorf("%s: gone at %s", name, after(gone))
		}
	}
}

// TestFoldKeepsApart folds rows that differ in kind, key version or refresh: these stay apart.
func TestFoldKeepsApart(t *testing.T) {
	row := func(i int, kind inuse.Kind, version int, refresh inuse.Refresh) inuse.Row {
		return inuse.Row{
			Namespace: "ns", Account: fmt.Sprintf("app-%d", i), Kind: kind, Version: version, Refresh: refresh,
			Count: 1, Expires: at(i),
		}
	}
	var rows []inuse.Row
	for i := range 3 {
		rows = append(rows,
			row(i, inuse.Bound, 1, inuse.ByKubelet), row(i, inuse.Bound, 1, inuse.ByPod),
			row(i, inuse.Bound, 2, inuse.ByPod), row(i, inuse.ThirdParty, 2, inuse.ByPod))
	}
	want := []string{
		"ns/app-0 - Bound: 1 of 1 until +0s, by Kubelet",
		"/ others ThirdParty: 3 of 2 until +2m0s, by Pod",
		"/ others Bound: 2 of 1 until +2m0s, by Kubelet",
		"/ others Bound: 3 of 1 until +2m0s, by Pod",
		"/ others Bound: 3 of 2 until +2m0s, by Pod",
	}
	if diff := gocmp.Diff(want, lines(inuse.Fold(rows, 5))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Folded rows lose no token, and the urgent ones stay.
func TestFold(t *testing.T) {
	var changes []func(*inuse.Input)
	for i := range 300 {
		name := fmt.Sprintf("web%d-1", i)
		changes = append(changes, pod(name, api), signed("k1", "", name, i+1))
	}
	rows := inuse.Sum(world(append(changes, signed("k1", "", "", 500))...)).Rows
	for _, most := range []int{1, 2, 100, 300, 301, 500} {
		folded := inuse.Fold(rows, most)
		if len(folded) > max(most, 2) {
			t.Errorf("%d rows folded into %d, more than %d", len(rows), len(folded), most)
		}
		total, last := 0, time.Time{}
		for _, r := range folded {
			total += r.Count
			if r.Kind == inuse.Bound && r.Expires.After(last) {
				last = r.Expires
			}
		}
		if total != 301 || !last.Equal(at(300)) {
			t.Errorf("folded into %d: %d tokens, the last bound one until %s", most, total, after(last))
		}
		if most >= len(rows) && len(folded) != len(rows) {
			t.Errorf("%d rows folded into %d, although there may be %d", len(rows), len(folded), most)
		}
		if most >= 100 && folded[0] != rows[0] {
			t.Errorf("folded into %d: the most urgent is %+v", most, folded[0])
		}
	}
}
