package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/inuse"
)

// answerTimeout is how long the controller may take to answer which tokens of a cluster are valid.
const answerTimeout = time.Minute

// clusterTokens are the valid tokens of one user cluster.
type clusterTokens struct {
	Namespace string                `json:"namespace"`
	Name      string                `json:"name"`
	Tokens    v1alpha1.TokensStatus `json:"tokens"`
}

// describeTokens shows which tokens of clusters are valid, and who holds them.
func (a *app) describeTokens(ctx context.Context, c admin, clusters []v1alpha1.UserCluster, o output) error {
	all := []clusterTokens{}
	for i := range clusters {
		tokens, err := a.tokensOf(ctx, c.in(clusters[i].Namespace), &clusters[i])
		if err != nil {
			return err
		}
		all = append(all, clusterTokens{Namespace: clusters[i].Namespace, Name: clusters[i].Name, Tokens: tokens})
	}
	return o.write(a.Out, all, func(w io.Writer) error {
		for i, t := range all {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if err := a.tokenTable(w, t); err != nil {
				return err
			}
		}
		return nil
	})
}

// tokensOf asks the controller, which alone reaches the signers, for the valid tokens of a cluster. A user who may not
// ask gets the last answer.
func (a *app) tokensOf(ctx context.Context, c admin, uc *v1alpha1.UserCluster) (v1alpha1.TokensStatus, error) {
	ask := a.Now().UTC().Format(time.RFC3339Nano)
	err := c.ask(ctx, uc, ask)
	if last := uc.Status.KSASigningKey.Tokens; apierrors.IsForbidden(err) && last != nil {
		a.note("warning: you may not annotate user cluster %s, so this is what was last seen: %v", uc.Name, err)
		return *last, nil
	}
	if err != nil {
		return v1alpha1.TokensStatus{}, inWords(err, "asking for the tokens of user cluster %s", uc.Name)
	}
	var tokens v1alpha1.TokensStatus
	look := func(uc *v1alpha1.UserCluster) (step, detail string, done bool) {
		if uc != nil && answered(uc) {
			tokens = *uc.Status.KSASigningKey.Tokens
			return "found the tokens", "", true
		}
		return "looking for tokens", "", false
	}
	err = a.follow(ctx, c, uc.Name, waiting{wait: true, timeout: answerTimeout}, look)
	if e := (*exitError)(nil); errors.As(err, &e) && e.code == ExitTimeout {
		return tokens, &exitError{ExitTimeout, hint.Errorf(
			"check that keyturn-controller runs and reaches the cluster: "+a.program.describe+c.arguments(uc.Name),
			"the controller has not answered within %s which tokens of user cluster %s are valid", answerTimeout, uc.Name)}
	}
	return tokens, err
}

// ask asks the controller by an annotation.
func (c admin) ask(ctx context.Context, uc *v1alpha1.UserCluster, value string) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": map[string]string{v1alpha1.AnnotationShowTokens: value}},
	})
	if err != nil {
		return err
	}
	return c.patch(ctx, uc.DeepCopy(), client.RawPatch(types.MergePatchType, patch))
}

// answered reports whether the controller has answered the latest request.
func answered(uc *v1alpha1.UserCluster) bool {
	tokens := uc.Status.KSASigningKey.Tokens
	return tokens != nil && tokens.ObservedAt != nil && tokens.Request == uc.Annotations[v1alpha1.AnnotationShowTokens]
}

func (a *app) tokenTable(w io.Writer, t clusterTokens) error {
	fmt.Fprintf(w, "Valid tokens of user cluster %s, %s:\n", t.Name, a.ago(t.Tokens.ObservedAt))
	rows := [][]string{{"KIND", "WORKLOAD", "ACCOUNT", "AUDIENCE", "KEY", "TOKENS", "LAST EXPIRY", "NEW ONE BY"}}
	for _, r := range t.Tokens.Workloads {
		rows = append(rows, []string{
			string(r.Kind), orDash(r.Workload), account(r), orDash(r.Audience), versionOf(r.KeyVersion),
			strconv.FormatInt(r.Count, 10), a.expiry(r), refreshWords(r),
		})
	}
	if err := table(w, "  ", rows...); err != nil {
		return err
	}
	for _, why := range t.Tokens.Unknown {
		fmt.Fprintf(w, "Not known: %s\n", why)
	}
	return a.oldTokens(w, t.Tokens)
}

// oldTokens summarizes the tokens of the old key, while a rotation runs.
func (a *app) oldTokens(w io.Writer, tokens v1alpha1.TokensStatus) error {
	for _, c := range tokens.Old {
		fmt.Fprintf(w, "Of the old key: %d of kind %s\n", c.Count, c.Kind)
	}
	if at := tokens.CertainAt; at != nil && at.After(a.Now()) {
		fmt.Fprintf(w, "The last token of the old key that nothing replaces expires by %s\n", at.UTC().Format(time.RFC3339))
	}
	return nil
}

func account(r v1alpha1.WorkloadTokens) string {
	switch {
	case r.ServiceAccount != "":
		return r.Namespace + "/" + r.ServiceAccount
	case r.Namespace != "":
		return r.Namespace + "/*"
	}
	return "*"
}

func versionOf(version int32) string {
	if version == 0 {
		return "not known"
	}
	return fmt.Sprint(version)
}

// expiry returns when the last token of a row expires.
func (a *app) expiry(r v1alpha1.WorkloadTokens) string {
	if r.ExpiresAt == nil {
		return noExpiry(r)
	}
	at := r.ExpiresAt.UTC().Format(time.RFC3339)
	if left := r.ExpiresAt.Sub(a.Now()); left > 0 {
		at += fmt.Sprintf(" (in %s)", duration.HumanDuration(left))
	}
	return at
}

// noExpiry returns why a row of tokens has no expiry.
func noExpiry(r v1alpha1.WorkloadTokens) string {
	if r.Kind == v1alpha1.TokenKind(inuse.Legacy) {
		return "never"
	}
	return "not known"
}

// refreshWords describes what gives the holder a token of the next key.
func refreshWords(r v1alpha1.WorkloadTokens) string {
	words := map[inuse.Refresh]string{
		inuse.ByKubelet: "the kubelet", inuse.ByContainer: "a new container", inuse.ByPod: "a new pod",
		inuse.BySecret: "its Secret, signed again", inuse.Replaced: "got it already",
		inuse.Never: "nothing: it lives until it expires",
	}
	text := cmp.Or(words[inuse.Refresh(r.Refresh)], r.Refresh)
	if r.LastUsed != "" {
		text += fmt.Sprintf(" (used outside on %s: copy the new one)", r.LastUsed)
	}
	return text
}
