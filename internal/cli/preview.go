package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/preflight"
)

// mostShown is how many objects of one kind a preview names.
const mostShown = 10

// preview shows on standard error what a rotation will do.
func (a *app) preview(ctx context.Context, c admin, uc *v1alpha1.UserCluster) {
	key := uc.Spec.KSASigningKey
	a.note("A rotation of the KSA signing key of user cluster %s:", uc.Name)
	a.note("  key version %d -> %d (%s)", key.Version, key.Version+1, key.Algorithm)
	if places := publishedAt(uc); len(places) > 0 {
		a.note("  publishes the new key to %s first, and takes the old one away at the end", strings.Join(places, ", "))
	}
	a.note("  %s", restarts(uc))
	report, err := c.inspect(ctx, uc)
	if err != nil {
		a.note("warning: what it does to nodes, tokens and pods cannot be shown: %v", err)
		return
	}
	switch {
	case uc.Spec.NodeRefresh() == v1alpha1.NodeRefreshEvict:
		a.previewEvicted(report)
	case uc.Spec.NodeRefresh().KeepsPods():
		a.previewKept(uc, report)
	default:
		a.previewReplaced(report)
	}
	a.note("  signs %s again", count(report.LegacySecrets, "legacy token Secret"))
	a.warn(report.Immutable, "legacy token Secrets that are immutable; THE ROTATION WAITS until they are deleted, or made again without it")
	a.warn(used(report.Outside), "legacy tokens that no pod holds and that somebody uses; they stop working when they are signed again: copy the new ones")
	a.previewPods(uc, report)
}

// previewPods names the pods that need attention.
func (a *app) previewPods(uc *v1alpha1.UserCluster, report preflight.Report) {
	switch {
	case uc.Spec.NodeRefresh() == v1alpha1.NodeRefreshEvict:
		a.warn(budgets(report.Blocking), "PodDisruptionBudgets that let no pod go now; THE ROTATION WAITS for those of their pods that hold a token")
		a.warn(report.BareHolders, "pods with tokens and without a controller, which would not be made again; THE ROTATION WAITS until these pods are deleted, or annotated with "+
			v1alpha1.AnnotationEvict+"=true")
		return
	case uc.Spec.NodeRefresh().KeepsPods():
		a.warn(uses(report.SubPaths), "running pods that mount a token by subPath and never see a new one; THE ROTATION WAITS until these pods are deleted")
		a.warn(uses(report.Drivers), "running pods for which the driver of a volume keeps a token, which stays the old one: restart these pods")
	default:
		a.warn(budgets(report.Blocking), "PodDisruptionBudgets that let no pod go now; nodes are not drained before they do")
		a.warn(report.BarePods, "pods without a controller, which end with their node and are not made again")
		a.warn(uses(report.ThirdParty), "running pods with third-party tokens, which are not refreshed: restart these pods")
		return
	}
	a.warn(uses(report.Copies), "running pods with a copy of a legacy token, by environment variable, subPath or volume driver, which stays the old one: restart these pods")
}

// publishedAt names the places where the public keys of a cluster are published.
func publishedAt(uc *v1alpha1.UserCluster) []string {
	var places []string
	if uc.Spec.GKEConnect != nil {
		places = append(places, "fleet membership "+membership(uc))
	}
	return append(places, uc.Spec.KSASigningKey.Publish...)
}

// membership is the name of the entry that a cluster has in its fleet.
func membership(uc *v1alpha1.UserCluster) string {
	g := uc.Spec.GKEConnect
	return fmt.Sprintf("projects/%s/locations/%s/memberships/%s", g.ProjectID, g.Location, uc.Name)
}

// restarts says what happens to the API servers.
func restarts(uc *v1alpha1.UserCluster) string {
	if uc.Spec.KSASigningKey.Source == v1alpha1.KeySourceExternal {
		return "restarts no API server: each gets its keys from the signer beside it"
	}
	n := wantedServers(uc)
	if n == 1 {
		return "restarts the only API server three times; EACH RESTART IS AN INTERRUPTION of the Kubernetes API"
	}
	return fmt.Sprintf("restarts %d API servers three times, one at a time; the Kubernetes API stays available", n)
}

func (a *app) previewReplaced(report preflight.Report) {
	if len(report.Nodes) == 0 {
		a.note("  replaces no nodes")
		return
	}
	a.note("  deletes %s and creates new ones: %s", count(len(report.Nodes), "node"), nodeNames(report.Nodes))
}

func (a *app) previewEvicted(report preflight.Report) {
	if report.Holders == 0 {
		a.note("  evicts no pods: none holds a token")
		return
	}
	a.note("  keeps %s and evicts %s, those that hold a token, a few of each controller at a time",
		count(len(report.Nodes), "node"), count(report.Holders, "pod"))
}

// previewKept says what happens to nodes that stay, and how long it takes.
func (a *app) previewKept(uc *v1alpha1.UserCluster, report preflight.Report) {
	if len(report.Nodes) == 0 {
		a.note("  has no nodes whose tokens are to be replaced")
		return
	}
	reload := time.Duration(uc.Spec.KSASigningKey.TokenReloadSeconds) * time.Second
	a.note("  keeps %s and all pods: %s", count(len(report.Nodes), "node"), nodeNames(report.Nodes))
	if uc.Spec.NodeRefresh() == v1alpha1.NodeRefreshInPlace {
		a.note("  restarts the kubelets, one at a time, which then replace all tokens in the pods' volumes, third-party tokens too")
	} else {
		a.note("  waits until the kubelets have replaced all tokens in the pods' volumes by themselves, third-party tokens too: up to %s",
			report.Renewal.Round(time.Second))
	}
	a.note("  accepts the old key for %s more, until applications have read their new tokens", reload)
}

func nodeNames(nodes []preflight.Node) string {
	var names []string
	for _, n := range nodes {
		name := n.Name
		if n.Pool != "" {
			name += " (" + n.Pool + ")"
		}
		names = append(names, name)
	}
	return strings.Join(shorten(names), ", ")
}

// warn names objects that need attention, if there are any.
func (a *app) warn(names []string, what string) {
	if len(names) > 0 {
		a.note("warning: %s (%d):\n  %s", what, len(names), strings.Join(shorten(names), "\n  "))
	}
}

// shorten keeps a long list readable.
func shorten(names []string) []string {
	if len(names) <= mostShown {
		return names
	}
	return append(names[:mostShown:mostShown], fmt.Sprintf("and %d more", len(names)-mostShown))
}

func budgets(list []preflight.Budget) []string {
	var names []string
	for _, b := range list {
		why := fmt.Sprintf("%d pods are healthy, %d have to be", b.Healthy, b.Desired)
		if b.Uncounted != "" {
			why = "kube-controller-manager cannot count its pods: " + b.Uncounted
		}
		names = append(names, fmt.Sprintf("%s (%s)", b.Name, why))
	}
	return names
}

func used(list []preflight.Used) []string {
	var names []string
	for _, u := range list {
		names = append(names, fmt.Sprintf("%s (used last on %s)", u.Secret, u.Last))
	}
	return names
}

func uses(list []preflight.PodUse) []string {
	var names []string
	for _, p := range list {
		names = append(names, fmt.Sprintf("%s (%s)", p.Pod, strings.Join(p.Uses, ", ")))
	}
	return names
}
