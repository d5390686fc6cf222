package inuse

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/podtokens"
	"github.com/keyturn/keyturn/signer/ledger"
)

// How much later than a key a ledger may begin and still have all tokens of it. A cluster is created with its first
// key, and its signers follow. A later key finds existing signers, whose ledgers are complete about a minute after they
// began.
const (
	beginning = 10 * time.Minute
	warmUp    = 2 * time.Minute
)

// mayMiss reports whether tokens of a key may have been signed before a ledger that is complete since a time. If it is
// unknown when the key was first used, they may.
func mayMiss(k Key, since time.Time) bool {
	allowed := warmUp
	if k.Version == 1 {
		allowed = beginning
	}
	return since.After(k.From.Add(allowed))
}

type sum struct {
	Input
	pods map[string]*Pod // by UID
	// versions are the key versions by kid.
	versions map[string]int
	gaps     []Gap
	rows     map[Row]*tally // by the row without count and expiry
	// newest is the newest key version of which a pod has a token for an audience.
	newest map[held]int
	// coarse reports whether some ledger has dropped which pods its tokens are of.
	coarse bool
}

type tally struct {
	count   int
	expires time.Time
	never   bool // one of them has no known expiry
}

// held is a token of a pod, regardless of its key.
type held struct{ uid, audience string }

func newSum(in Input) *sum {
	s := &sum{
		Input: in, pods: map[string]*Pod{}, versions: map[string]int{}, rows: map[Row]*tally{}, newest: map[held]int{},
	}
	for i := range in.Pods {
		s.pods[in.Pods[i].UID] = &in.Pods[i]
	}
	for _, k := range in.Keys {
		s.versions[k.ID] = k.Version
	}
	for _, signer := range in.Signers {
		s.addGaps(signer)
	}
	return s
}

// addGaps records which key versions a signer does not know, completely or before its ledger began.
func (s *sum) addGaps(signer Signer) {
	since := signer.Report.Since
	for _, k := range s.Keys {
		switch {
		case signer.Problem != "":
			s.gaps = append(s.gaps, Gap{Signer: signer.Name, Version: k.Version, Reason: signer.Problem})
		case mayMiss(k, since):
			until := since.Add(s.MaxLife)
			if until.After(s.Now) {
				reason := "its ledger began at " + stamp(since) + ", after the key was first used"
				s.gaps = append(s.gaps, Gap{Signer: signer.Name, Version: k.Version, Reason: reason, Until: until})
			}
		}
	}
}

// merged returns the entries of all ledgers, with those that are alike combined, since several API servers issue tokens
// to one holder.
func (s *sum) merged() []ledger.Entry {
	type alike struct {
		keyID, namespace, account, audiences string
		bound                                ledger.Object
		coarse                               bool
	}
	all := map[alike]ledger.Entry{}
	for _, signer := range s.Signers {
		for _, e := range signer.Report.Entries {
			account := types.NamespacedName{Namespace: e.Namespace, Name: e.ServiceAccount}
			if !e.Expires.Add(ledger.Leeway).After(s.Now) || account == s.Canary {
				continue
			}
			key := alike{e.KeyID, e.Namespace, e.ServiceAccount, strings.Join(e.Audiences, ","), ledger.Object{}, e.Coarse}
			if e.Bound != nil {
				key.bound = *e.Bound
			}
			if all[key].Expires.Before(e.Expires) {
				all[key] = e
			}
		}
	}
	entries := slices.Collect(maps.Values(all))
	for _, e := range entries {
		if e.Coarse {
			s.coarse = true
		}
		if e.Bound != nil {
			h := held{e.Bound.UID, s.audience(e.Audiences)}
			s.newest[h] = max(s.newest[h], s.versions[e.KeyID])
		}
	}
	return entries
}

// audience returns the audience of tokens; empty for the API server.
func (s *sum) audience(audiences []string) string {
	if slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(s.Audiences, a) }) {
		return ""
	}
	return strings.Join(audiences, ",")
}

// entry adds the tokens of an entry, unless they are bound to a pod that is gone.
func (s *sum) entry(e ledger.Entry) {
	row := Row{
		Namespace: e.Namespace, Account: e.ServiceAccount, Kind: Requested, Audience: s.audience(e.Audiences),
		Version: s.versions[e.KeyID], Refresh: Never,
	}
	switch {
	case e.Coarse:
		row.Kind = Unknown
	case e.Bound != nil && e.Bound.Kind == "Pod":
		pod := s.pods[e.Bound.UID]
		if pod == nil {
			return
		}
		row.ofPod(pod, s)
	}
	s.add(row, e.Expires)
}

// ofPod makes the row one of tokens that a pod holds. For tokens that its spec requests, it sets how they are replaced.
func (r *Row) ofPod(pod *Pod, s *sum) {
	r.Workload = pod.Workload
	if r.Audience != "" {
		r.Kind = ThirdParty
	}
	named := false
	for _, t := range pod.Tokens {
		if t.Kind == podtokens.Legacy || s.audienceOf(t) != r.Audience {
			continue
		}
		if r.Kind == Requested {
			r.Kind = Bound
		}
		if !named || worse(Refresh(t.Refresh), r.Refresh) {
			named, r.Refresh = true, Refresh(t.Refresh)
		}
	}
	if r.Refresh == ByKubelet && s.newest[held{pod.UID, r.Audience}] > r.Version {
		r.Refresh = Replaced
	}
}

// audienceOf returns the audience of a token that is issued for a pod; empty for the API server.
func (s *sum) audienceOf(t podtokens.Token) string {
	if t.Kind == podtokens.Bound {
		return ""
	}
	return t.Audience
}

// worse reports whether a refresh is later than another, or never. An empty one is before all.
func worse(a, b Refresh) bool {
	order := []Refresh{BySecret, ByKubelet, ByContainer, ByPod, Never}
	return slices.Index(order, a) > slices.Index(order, b)
}

// unlisted adds the tokens that pods hold by their spec and that no ledger lists, if some ledger may lack them.
func (s *sum) unlisted() {
	if len(s.gaps) == 0 && !s.coarse {
		return
	}
	for i := range s.Pods {
		pod, done := &s.Pods[i], map[string]bool{}
		for _, t := range pod.Tokens {
			audience := s.audienceOf(t)
			if _, listed := s.newest[held{pod.UID, audience}]; t.Kind == podtokens.Legacy || listed || done[audience] {
				continue
			}
			done[audience] = true
			row := Row{Namespace: pod.Namespace, Account: pod.Account, Kind: Requested, Audience: audience}
			row.ofPod(pod, s)
			s.add(row, time.Time{})
		}
	}
}

// secrets adds the legacy tokens, by the workloads that hold them.
func (s *sum) secrets() {
	holders := s.holders()
	for _, secret := range s.Secrets {
		row := Row{
			Namespace: secret.Namespace, Account: secret.Account, Kind: Legacy,
			Version: s.versions[secret.KeyID], Refresh: BySecret,
		}
		workloads := holders[[2]string{secret.Namespace, secret.Name}]
		for workload, refresh := range workloads {
			row.Workload, row.Refresh = workload, refresh
			s.add(row, time.Time{})
		}
		if len(workloads) == 0 {
			row.Workload, row.LastUsed = "Secret/"+secret.Name, secret.LastUsed
			s.add(row, time.Time{})
		}
	}
}

// holders returns the workloads that hold the token of a Secret, by its namespace and name, and what gives the slowest
// of their pods the new one.
func (s *sum) holders() map[[2]string]map[string]Refresh {
	all := map[[2]string]map[string]Refresh{}
	for _, pod := range s.Pods {
		for _, t := range pod.Tokens {
			if t.Kind != podtokens.Legacy {
				continue
			}
			secret, refresh := [2]string{pod.Namespace, t.Secret}, Refresh(t.Refresh)
			if refresh == ByKubelet {
				refresh = BySecret // its kubelet follows
			}
			if all[secret] == nil {
				all[secret] = map[string]Refresh{}
			}
			if worse(refresh, all[secret][pod.Workload]) {
				all[secret][pod.Workload] = refresh
			}
		}
	}
	return all
}

func (s *sum) add(row Row, expires time.Time) {
	t := s.rows[row]
	if t == nil {
		t = &tally{}
		s.rows[row] = t
	}
	t.add(1, expires)
}

func (t *tally) add(count int, expires time.Time) {
	t.count += count
	t.never = t.never || expires.IsZero()
	if expires.After(t.expires) {
		t.expires = expires
	}
}

// latest returns when the last of them expires; zero if unknown.
func (t *tally) latest() time.Time {
	if t.never {
		return time.Time{}
	}
	return t.expires
}

// sorted returns the rows with their counts, the most urgent first.
func sorted(rows map[Row]*tally) []Row {
	var all []Row
	for row, t := range rows {
		row.Count, row.Expires = t.count, t.latest()
		all = append(all, row)
	}
	slices.SortFunc(all, compare)
	return all
}

func compare(a, b Row) int {
	return cmp.Or(
		cmp.Compare(slices.Index(Kinds, a.Kind), slices.Index(Kinds, b.Kind)),
		cmp.Compare(a.Version, b.Version),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Workload, b.Workload),
		cmp.Compare(a.Account, b.Account),
		cmp.Compare(a.Audience, b.Audience),
		cmp.Compare(a.Refresh, b.Refresh),
		cmp.Compare(a.LastUsed, b.LastUsed),
	)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
