package controller

import (
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/inuse"
	"github.com/keyturn/keyturn/internal/printable"
	"github.com/keyturn/keyturn/internal/rotation"
)

// maxWorkloads is how many holders of tokens a status lists, about 60 KB at most.
const maxWorkloads = 200

// setTokens sets the observed valid tokens. A settled cluster shows them only until its next round.
func setTokens(k *v1alpha1.KSASigningKeyStatus, o observation) {
	var s v1alpha1.TokensStatus
	seen := o.tokens
	if seen != nil && seen.isAbout(&o) {
		s = tokensStatus(seen, o)
	}
	if s.Request == "" && k.Tokens != nil {
		s.Request = k.Tokens.Request
	}
	k.Tokens = nil
	if s.ObservedAt != nil || s.Request != "" {
		k.Tokens = &s
	}
}

// tokensStatus converts what was observed.
func tokensStatus(seen *tokensSeen, o observation) v1alpha1.TokensStatus {
	s := v1alpha1.TokensStatus{ObservedAt: whole(seen.at), Request: seen.request, Unknown: unknown(seen.report)}
	if seen.problem != "" {
		s.Unknown = []string{seen.problem}
		return s
	}
	if len(o.Stored) == 2 {
		s.Old = oldTokens(seen.report, o)
		s.CertainAt = whole(seen.report.Gone(o.Stored[0]))
	}
	if seen.request == "" {
		return s
	}
	for _, row := range inuse.Fold(seen.report.Rows, maxWorkloads) {
		s.Workloads = append(s.Workloads, v1alpha1.WorkloadTokens{
			Namespace: row.Namespace, ServiceAccount: row.Account, Workload: row.Workload,
			TokenCount: countOf(row.Kind, row.Count, row.Expires), Audience: row.Audience,
			KeyVersion: int32(row.Version), Refresh: string(row.Refresh), LastUsed: row.LastUsed,
		})
	}
	return s
}

func countOf(kind inuse.Kind, count int, expires time.Time) v1alpha1.TokenCount {
	return v1alpha1.TokenCount{Kind: v1alpha1.TokenKind(kind), Count: int64(count), ExpiresAt: whole(expires)}
}

// oldTokens counts the tokens of the old key. Tokens in Secrets were counted by the last walk over them.
func oldTokens(report inuse.Report, o observation) []v1alpha1.TokenCount {
	var counts []v1alpha1.TokenCount
	for _, c := range report.Of(o.Stored[0]) {
		if c.Kind != inuse.Legacy {
			counts = append(counts, countOf(c.Kind, c.Count, c.Expires))
		}
	}
	if n := o.legacyCount.Stale; n > 0 {
		counts = append(counts, countOf(inuse.Legacy, int(n), time.Time{}))
	}
	return counts
}

// unknown returns what signers cannot know, once for all key versions.
func unknown(report inuse.Report) []string {
	var texts []string
	seen := map[string]bool{}
	for _, g := range report.Gaps {
		text := "API server " + g.Signer + ": " + g.Reason
		if !g.Until.IsZero() {
			text += "; the tokens from before have expired by " + g.Until.UTC().Format(time.RFC3339)
		}
		if !seen[text] {
			texts = append(texts, text)
		}
		seen[text] = true
	}
	return texts
}

// whole truncates a time to whole seconds, as the API stores it. A fraction would be a change in each round.
func whole(t time.Time) *metav1.Time {
	if t.IsZero() {
		return nil
	}
	at := metav1.NewTime(t.Truncate(time.Second))
	return &at
}

// awaitedSince returns since when Retire waits for tokens to expire; zero if it does not. It does not change if an API
// server dies meanwhile and the step goes back to Refresh.
func awaitedSince(uc *v1alpha1.UserCluster) time.Time {
	c := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionKSATokensExpired)
	if c == nil || c.Reason != v1alpha1.ReasonTokensLive {
		return time.Time{}
	}
	return c.LastTransitionTime.Time
}

// setTokensCondition sets whether Retire waits for tokens to expire, and the result of the wait.
func setTokensCondition(uc *v1alpha1.UserCluster, d rotation.Decision, o observation, now metav1.Time) {
	const kind = v1alpha1.ConditionKSATokensExpired
	waits := !awaitedSince(uc).IsZero()
	switch {
	case d.Step == rotation.StepGenerate, waits && d.Done:
		meta.RemoveStatusCondition(&uc.Status.Conditions, kind)
	case d.Patient:
		if !waits { // its last transition time is the start of the wait
			meta.RemoveStatusCondition(&uc.Status.Conditions, kind)
		}
		setCondition(uc, kind, false, v1alpha1.ReasonTokensLive, "waiting for "+d.Waiting, now)
	case !waits || d.Step != rotation.StepRetire || d.Blocked:
	case o.tokensLive(now.Time):
		setCondition(uc, kind, false, v1alpha1.ReasonRetiredInUse, "the old key was retired without waiting for "+
			o.tokensWords(), now)
	default:
		setCondition(uc, kind, true, v1alpha1.ReasonTokensExpired,
			"no third-party or requested token of the old key is valid", now)
	}
}

// tokensLive reports whether tokens of the old key that nothing replaces may be valid.
func (o *observation) tokensLive(now time.Time) bool {
	if o.tokens == nil || o.tokens.problem != "" || !o.tokens.switched {
		return true
	}
	gone := o.tokens.report.Gone(o.Stored[0])
	return gone.IsZero() || now.Before(gone)
}

// tokensWords names them.
func (o *observation) tokensWords() string {
	if o.tokens == nil || o.tokens.problem != "" {
		return "tokens that could not be determined"
	}
	return o.tokens.report.Awaited(o.Stored[0])
}

// cleanTokens cleans and cuts texts from signers and pods.
func cleanTokens(s *v1alpha1.TokensStatus) {
	if s == nil {
		return
	}
	for i := range s.Unknown {
		s.Unknown[i] = printable.Line(s.Unknown[i])
	}
	for i := range s.Workloads {
		w := &s.Workloads[i]
		for _, text := range []*string{&w.Namespace, &w.ServiceAccount, &w.Workload, &w.Audience, &w.LastUsed} {
			*text = printable.Line(*text)
		}
	}
}
