package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/preflight"
	"github.com/keyturn/keyturn/internal/probe"
	"github.com/keyturn/keyturn/signer/ledger"
	"github.com/keyturn/keyturn/token"
)

const probeNamespace = "keyturn-probe"

// Pods of the CronJob come and go all the time, so what is said of pods is about the others.
const otherPods = "app.kubernetes.io/name!=keyturn-probe-cronjob"

// workloadNames returns the names of all that run beside the pods that are always there.
func workloadNames() (names []string) {
	for _, w := range probe.Workloads() {
		names = append(names, string(w))
	}
	return names
}

// awaitWorkloads waits until the pods of all Deployments of the probe run.
func (p *place) awaitWorkloads(t *testing.T) {
	t.Helper()
	args := []string{"-n", probeNamespace, "rollout", "status", "--timeout=3m"}
	for _, w := range append([]string{""}, workloadNames()...) {
		name := strings.TrimSuffix("deployment/keyturn-probe-"+w, "-")
		if w == string(probe.CronJob) {
			continue
		}
		if out, err := p.kubectl(t, p.userKubeconfig("e2e"), append(args, name)...); err != nil {
			t.Fatalf("waiting for %s: %v\n%s", name, err, out)
		}
	}
}

// copies are the reports of the running pods that have a copy of a legacy token, each of which has used it.
func (p *place) copies(t *testing.T) (found []probe.Report) {
	t.Helper()
	c := p.user("e2e").CoreV1()
	p.eventually("reading how pods fare that copy their tokens", func(ctx context.Context) error {
		found = nil
		pods, err := c.Pods(probeNamespace).List(ctx, metav1.ListOptions{LabelSelector: otherPods})
		if err != nil {
			return err
		}
		reports, err := probe.Collect(ctx, c.ConfigMaps(probeNamespace))
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if pod.DeletionTimestamp != nil {
				continue
			}
			for _, r := range lastOf(reports, pod.Name) {
				if r.Workload.Copies() {
					found = append(found, r)
				}
			}
		}
		// The pod of the sidecar has a container beside it that reads its token once.
		if len(found) != len(probe.Workloads()) {
			return fmt.Errorf("%d containers with a copy have told of it, want %d", len(found), len(probe.Workloads()))
		}
		return nil
	})
	return found
}

// lastOf returns the last report of each workload of a pod.
func lastOf(reports []probe.Report, pod string) map[probe.Workload]probe.Report {
	last := map[probe.Workload]probe.Report{}
	for _, r := range reports {
		if seen, ok := last[r.Workload]; r.Pod == pod && len(r.Lines) > 0 && (!ok || r.StartedAt.After(seen.StartedAt)) {
			last[r.Workload] = r
		}
	}
	return last
}

// named returns the pods of the probe that a rotation names before it starts, by why it does.
func (p *place) named(t *testing.T) map[preflight.Kind][]string {
	t.Helper()
	var preview struct {
		Findings []preflight.Finding `json:"findings"`
	}
	out := p.must(p.credentials("rotate", "--dry-run", "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &preview); err != nil {
		t.Fatalf("reading the preview: %v\n%s", err, out)
	}
	pods := map[preflight.Kind][]string{}
	for _, f := range preview.Findings {
		if f.Object.Namespace == probeNamespace {
			pods[f.Kind] = append(pods[f.Kind], f.Object.Name)
		}
	}
	return pods
}

// kept returns the pods of the probe that the status names after a rotation, since they keep an old token.
func (p *place) kept() (pods []string) {
	if old := p.cluster("e2e").Status.KSASigningKey.OldTokens; old != nil {
		for _, h := range old.Pods {
			if h.Namespace == probeNamespace {
				pods = append(pods, h.Name)
			}
		}
	}
	slices.Sort(pods)
	return pods
}

// expectMoved checks that no pod that the rotation to the version started was ever refused, however it came by its
// token.
func (p *place) expectMoved(t *testing.T, version int) {
	t.Helper()
	p.awaitWorkloads(t)
	kid := p.keyID(t, version)
	for _, r := range p.copies(t) {
		for _, l := range r.Lines {
			if c := l.Counts(); l.KeyIDs[kid].Requests() != c.Requests() || c.Refused > 0 {
				t.Errorf("pod %s, which has its token by %s, used it at %s: %+v, spells %+v; the new key is %s",
					r.Pod, r.Workload, l.Server, l.KeyIDs, l.Spells, kid)
			}
		}
	}
	if names := p.kept(); len(names) > 0 {
		t.Errorf("pods keep an old token: %v", names)
	}
}

// expectNamed checks that the pods which keep an old token are those that were named before, and that the status names
// them, but for those that read a mounted file once: of them, only the preview can name what they mount.
func (p *place) expectNamed(t *testing.T, named map[preflight.Kind][]string) {
	t.Helper()
	var want []string
	for _, r := range p.copies(t) {
		switch {
		case r.Workload != probe.Once:
			want = append(want, r.Pod)
		case !slices.Contains(slices.Concat(named[preflight.MountedToken], named[preflight.CopiedToken]), r.Pod):
			t.Errorf("the preview did not name pod %s, which mounts a legacy token: %v", r.Pod, named)
		}
	}
	slices.Sort(want)
	before := slices.Sorted(slices.Values(named[preflight.CopiedToken]))
	if got := p.kept(); !slices.Equal(before, want) || !slices.Equal(got, want) {
		t.Errorf("the preview named %v and the status names %v, want %v", before, got, want)
	}
}

// createToken is a token that somebody asks for outside of the cluster.
func (p *place) createToken(t *testing.T) (minted string) {
	t.Helper()
	p.eventually("creating a token", func(context.Context) error {
		out, err := p.kubectl(t, p.userKubeconfig("e2e"), "-n", "default", "create", "token", "default", "--duration=1h")
		if err != nil {
			return fmt.Errorf("kubectl create token: %w", err)
		}
		minted = strings.TrimSpace(string(out))
		return nil
	})
	return minted
}

// held returns what the tokens claim that the running pods of the probe hold, and those given. Legacy tokens are signed
// by no signer.
func (p *place) held(t *testing.T, outside ...string) []probe.Held {
	t.Helper()
	var all []probe.Held
	for _, bearer := range outside {
		header, claims, err := token.ParseUnverified(bearer)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, probe.Held{
			KeyID: header.KeyID, Subject: claims.Subject, Audiences: claims.Audience, Expires: claims.Expiry.Time(),
		})
	}
	pods := p.probePods(t)
	p.eventually("reading which tokens the pods hold", func(ctx context.Context) error {
		reports, err := probe.Collect(ctx, p.user("e2e").CoreV1().ConfigMaps(probeNamespace))
		for _, r := range reports {
			if _, runs := pods[r.Pod]; !runs {
				continue
			}
			for kind, h := range r.Held {
				if kind != probe.Legacy {
					all = append(all, h)
				}
			}
		}
		return err
	})
	return all
}

// expectLedgers checks that the signers' ledgers have each of the tokens, with what it claims.
func (p *place) expectLedgers(t *testing.T, tokens []probe.Held) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(p.dataDir(), "clusters", "*", "*", "signer", "ledger"))
	if err != nil {
		t.Fatal(err)
	}
	var entries []ledger.Entry
	for _, path := range paths {
		report, err := ledger.Read(path, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, report.Entries...)
	}
	bound := 0
	for _, h := range tokens {
		if h.PodUID != "" {
			bound++
		}
		if !slices.ContainsFunc(entries, func(e ledger.Entry) bool { return notes(e, h) }) {
			t.Errorf("no ledger of %v has the token %+v", paths, h)
		}
	}
	t.Logf("%d ledgers have %d entries; of %d tokens, %d are of pods", len(paths), len(entries), len(tokens), bound)
	if bound == 0 {
		t.Error("no pod holds a token: nothing was compared")
	}
}

// notes reports whether an entry of a ledger stands for a token, and for nothing coarser.
func notes(e ledger.Entry, h probe.Held) bool {
	audiences := slices.Clone(h.Audiences)
	slices.Sort(audiences)
	var bound ledger.Object
	if e.Bound != nil {
		bound = *e.Bound
	}
	want := ledger.Object{}
	if h.PodUID != "" {
		want = ledger.Object{Kind: "Pod", Name: h.PodName, UID: h.PodUID}
	}
	return !e.Coarse && e.KeyID == h.KeyID && token.Subject(e.Namespace, e.ServiceAccount) == h.Subject &&
		slices.Equal(e.Audiences, audiences) && bound == want && !e.Expires.Before(h.Expires)
}

// expectTokensTold checks that `gkectl describe clusters --tokens` tells of tokens of these kinds of the version: one
// that was asked for outside, and those that pods of the probe hold.
func (p *place) expectTokensTold(t *testing.T, version int, kinds ...string) {
	t.Helper()
	out := p.must("describe", "clusters", "e2e", "--tokens", "-o", "json", "--kubeconfig", p.kubeconfig())
	var told []struct {
		Tokens v1alpha1.TokensStatus `json:"tokens"`
	}
	if err := json.Unmarshal([]byte(out), &told); err != nil || len(told) != 1 {
		t.Fatalf("reading the tokens of the cluster: %v\n%s", err, out)
	}
	for _, kind := range kinds {
		want := v1alpha1.WorkloadTokens{
			Namespace: probeNamespace, ServiceAccount: "keyturn-probe", Workload: "Deployment/keyturn-probe",
		}
		if kind == "Requested" {
			want = v1alpha1.WorkloadTokens{Namespace: "default", ServiceAccount: "default", Refresh: "Never"}
		}
		if !slices.ContainsFunc(told[0].Tokens.Workloads, func(w v1alpha1.WorkloadTokens) bool {
			return string(w.Kind) == kind && w.Namespace == want.Namespace && w.ServiceAccount == want.ServiceAccount &&
				w.Workload == want.Workload && (want.Refresh == "" || w.Refresh == want.Refresh) &&
				w.KeyVersion == int32(version) && w.Count > 0
		}) {
			t.Errorf("no %s tokens of %+v are told of:\n%s", kind, want, out)
		}
	}
}
