package controller

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/inuse"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/podtokens"
	"github.com/keyturn/keyturn/internal/printable"
	"github.com/keyturn/keyturn/internal/rotation"
)

const (
	// tokensEvery is how often signers and pods are asked for valid tokens while a rotation runs, and tokensAgain how
	// soon they are asked again if that failed.
	tokensEvery = time.Minute
	tokensAgain = 10 * time.Second
	// tokensPatience limits one such observation.
	tokensPatience = 15 * time.Second
)

// tokensSeen describes the valid tokens, as observed once.
type tokensSeen struct {
	at time.Time
	// request is the request that it answers by also naming the holders of the tokens; empty if there was none.
	request string
	// keyIDs and servers are the stored keys and the API servers at that time.
	keyIDs, servers []string
	// switched means that every API server signed with the newest key, so no more tokens of an older one can appear.
	switched bool
	report   inuse.Report
	// problem is why there is no report.
	problem string
}

// gatherTokens observes the valid tokens: every minute while a rotation runs, and on request. Otherwise it costs
// nothing.
func (r *Reconciler) gatherTokens(ctx context.Context, uc *v1alpha1.UserCluster, o *observation) {
	memory, now := r.remember(uc), r.now()
	last := memory.tokens()
	asks := request(uc)
	due := asks != "" || len(o.Stored) == 2 && (last == nil || !last.holds(o, now))
	if due && answers(o) {
		last = r.lookAtTokens(ctx, uc, o, asks, now)
		memory.setTokens(last)
	}
	if last != nil && len(o.Stored) < 2 && !last.holds(o, now) {
		memory.setTokens(nil) // it is no longer needed
		last = nil
	}
	o.tokens = last
	o.Outstanding = outstanding(uc, o, now)
}

// answers reports whether some API server has just proven what it accepts. A silent one would delay the round.
func answers(o *observation) bool {
	return slices.ContainsFunc(o.Servers, func(s rotation.Server) bool { return len(s.Accepts) > 0 })
}

// request returns a request to show who holds the tokens that is not yet answered; empty for none.
func request(uc *v1alpha1.UserCluster) string {
	asks := uc.Annotations[v1alpha1.AnnotationShowTokens]
	if was := uc.Status.KSASigningKey.Tokens; was != nil && was.Request == printable.Line(asks) {
		return ""
	}
	return printable.Line(asks)
}

// holds reports whether the observation is recent, and about these keys and API servers.
func (s *tokensSeen) holds(o *observation, now time.Time) bool {
	every := tokensEvery
	if s.problem != "" {
		every = tokensAgain
	}
	return now.Sub(s.at) < every && s.isAbout(o) && (s.switched || !allSigned(o))
}

func (s *tokensSeen) isAbout(o *observation) bool {
	return slices.Equal(s.keyIDs, keyIDs(o.keys)) && slices.Equal(s.servers, serverNames(o.Servers))
}

func keyIDs(keys []keystore.KeyPair) []string {
	var ids []string
	for _, k := range keys {
		ids = append(ids, k.KeyID)
	}
	return ids
}

func serverNames(all []rotation.Server) []string {
	var names []string
	for _, s := range all {
		names = append(names, s.Name)
	}
	return names
}

// allSigned reports whether every API server signed a fresh token with the newest key.
func allSigned(o *observation) bool {
	newest := o.Stored[len(o.Stored)-1]
	return !slices.ContainsFunc(o.Servers, func(s rotation.Server) bool { return s.Signs != newest })
}

func (r *Reconciler) lookAtTokens(
	ctx context.Context, uc *v1alpha1.UserCluster, o *observation, asks string, now time.Time,
) *tokensSeen {
	ctx, cancel := context.WithTimeout(ctx, tokensPatience)
	defer cancel()
	seen := &tokensSeen{
		at: now, request: asks, keyIDs: keyIDs(o.keys), servers: serverNames(o.Servers), switched: allSigned(o),
	}
	in := inuse.Input{
		Keys: keysInUse(o), Audiences: []string{uc.Spec.KSASigningKey.Issuer},
		MaxLife: hostkeys.MaxTokenExpiration, Now: seen.at, Canary: controlplane.Canary,
	}
	for _, s := range o.Servers {
		in.Signers = append(in.Signers, askSigner(ctx, o.adapter, s))
	}
	who, err := r.holders(ctx, uc, asks != "")
	if err != nil {
		seen.problem = err.Error()
		return seen
	}
	in.Pods, in.Secrets = who.pods, who.secrets
	seen.report = inuse.Sum(in)
	return seen
}

// keysInUse returns the stored keys. It is unknown since when an adopted cluster has used its first one.
func keysInUse(o *observation) []inuse.Key {
	var keys []inuse.Key
	for _, k := range o.keys {
		key := inuse.Key{Version: k.Version, ID: k.KeyID, From: k.CreatedAt}
		if o.Adopted && k.Version == 1 {
			key.From = time.Time{}
		}
		keys = append(keys, key)
	}
	return keys
}

func askSigner(ctx context.Context, a controlplane.Adapter, s rotation.Server) inuse.Signer {
	report, err := a.Ledger(ctx, s.Name)
	signer := inuse.Signer{Name: s.Name, Report: report}
	switch {
	case errors.Is(err, controlplane.ErrNoLedger):
		signer.Problem = "it keeps no ledger of its tokens"
	case err != nil:
		signer.Problem = "its ledger cannot be read: " + err.Error()
	}
	return signer
}

// holders reads which pods exist and what they hold and, if tellWho is set, the data that names the holders.
func (r *Reconciler) holders(ctx context.Context, uc *v1alpha1.UserCluster, tellWho bool) (*holders, error) {
	if r.UserCluster == nil {
		return nil, errors.New("nobody reaches the user cluster")
	}
	client, err := r.UserCluster(ctx, uc)
	if err != nil {
		return nil, err
	}
	h := &holders{client: client, cluster: podtokens.Cluster{Audiences: []string{uc.Spec.KSASigningKey.Issuer}}}
	if tellWho {
		err = errors.Join(h.readOwners(ctx), h.readSecrets(ctx))
	}
	return h, errors.Join(err, h.readPods(ctx))
}

// outstanding returns what the planner needs to know about tokens of the old key that nothing replaces.
func outstanding(uc *v1alpha1.UserCluster, o *observation, now time.Time) rotation.Outstanding {
	key := uc.Spec.KSASigningKey
	out := rotation.Outstanding{Awaited: key.Retire == v1alpha1.RetireWhenUnused}
	if !out.Awaited || len(o.Stored) < 2 {
		return out
	}
	seen := o.tokens
	if seen != nil && seen.problem != "" {
		out.Waiting = "the valid tokens to be known: " + seen.problem
	}
	if seen != nil && seen.problem == "" && seen.switched && seen.isAbout(o) {
		out.Gone, out.Waiting = seen.report.Gone(o.Stored[0]), seen.report.Awaited(o.Stored[0])
	}
	if since := awaitedSince(uc); !since.IsZero() {
		out.Limit = since.Add(time.Duration(key.RetireTimeoutSeconds) * time.Second)
	}
	if out.Waiting != "" && out.Limit.After(now) {
		out.Waiting += "; Retire does not wait beyond " + out.Limit.UTC().Format(time.RFC3339)
	}
	return out
}
