package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/preflight"
	"github.com/keyturn/keyturn/internal/printable"
)

// mostShown is how many objects of one kind a preview names.
const mostShown = 10

// rotationPreview is what a rotation will do. It is the output of `rotate --dry-run -o json`.
type rotationPreview struct {
	Cluster     string               `json:"cluster"`
	FromVersion int32                `json:"fromVersion"`
	ToVersion   int32                `json:"toVersion"`
	Algorithm   v1alpha1.Algorithm   `json:"algorithm"`
	NodeRefresh v1alpha1.NodeRefresh `json:"nodeRefresh"`
	PublishedAt []string             `json:"publishedAt"`
	APIServers  restarts             `json:"apiServers"`
	Nodes       []preflight.Node     `json:"nodes"`
	// Retire is when the old key is retired. RetireTimeoutSeconds is how long that waits at most with WhenUnused.
	Retire               v1alpha1.RetirePolicy `json:"retire"`
	RetireTimeoutSeconds int32                 `json:"retireTimeoutSeconds,omitempty"`
	// LeftCopies are where copies of the old private key may remain, since Keyturn does not delete them.
	LeftCopies []string `json:"leftCopies"`
	// LegacySecrets is the number of Secrets with legacy tokens that are signed again.
	LegacySecrets int                 `json:"legacySecrets"`
	Findings      []preflight.Finding `json:"findings"`

	renewal                      time.Duration
	holders, controlPlaneHolders int
	// rollsOut means that nothing runs on a machine, and that control-plane machines are replaced.
	rollsOut bool
	// unread is why what replaces the machines could not be read.
	unread error
}

// preview finds out what a rotation will do. If it cannot inspect the user cluster, the error says why, and the preview
// has what is known without it.
func (c admin) preview(ctx context.Context, uc *v1alpha1.UserCluster) (rotationPreview, error) {
	report, err := c.inspect(ctx, uc)
	held, unread := c.machines(ctx, uc)
	report.Findings = append(report.Findings, held...)
	p := newPreview(uc, report)
	p.unread = unread
	return p, err
}

func newPreview(uc *v1alpha1.UserCluster, report preflight.Report) rotationPreview {
	key := uc.Spec.KSASigningKey
	p := rotationPreview{
		Cluster: uc.Name, FromVersion: key.Version, ToVersion: key.Version + 1, Algorithm: key.Algorithm,
		NodeRefresh: uc.Spec.NodeRefresh(),
		PublishedAt: append([]string{}, publishedAt(uc)...), Nodes: append([]preflight.Node{}, report.Nodes...),
		APIServers: restartsOf(uc), Retire: cmp.Or(key.Retire, v1alpha1.RetireAfterRefresh), LeftCopies: []string{},
		LegacySecrets: report.LegacySecrets, Findings: preflight.Merge(report.Findings, preflight.OfAlgorithm(uc)),
		renewal: report.Renewal, holders: report.Holders, controlPlaneHolders: report.ControlPlaneHolders,
	}
	if p.Retire == v1alpha1.RetireWhenUnused {
		p.RetireTimeoutSeconds = key.RetireTimeoutSeconds
	}
	if p.rollsOut = uc.Spec.Infrastructure.RollsOut(); p.rollsOut {
		p.LeftCopies = append(p.LeftCopies, "user data that the infrastructure provider keeps", "backups of etcd")
		return p
	}
	if uc.Spec.Infrastructure.Adopted() {
		p.LeftCopies = append(p.LeftCopies, leftCopies...)
	}
	if uc.Spec.Infrastructure.ClusterAPI != nil {
		p.LeftCopies = append(p.LeftCopies, "bootstrap data Secrets of control-plane Machines")
	}
	return p
}

// writePreview shows what a rotation will do; unseen is why the user cluster could not be inspected.
func writePreview(w io.Writer, uc *v1alpha1.UserCluster, p rotationPreview, unseen error) {
	fmt.Fprintf(w, "A rotation of the KSA signing key of user cluster %s:\n", p.Cluster)
	fmt.Fprintf(w, "  key version %d -> %d (%s)\n", p.FromVersion, p.ToVersion, p.Algorithm)
	if len(p.PublishedAt) > 0 {
		fmt.Fprintf(w, "  publishes the new key to %s first, and removes the old one at the end\n",
			strings.Join(p.PublishedAt, ", "))
	}
	fmt.Fprintf(w, "  %s\n", p.APIServers)
	switch {
	case unseen != nil:
	case p.NodeRefresh == v1alpha1.NodeRefreshEvict:
		writeEvicted(w, p)
	case p.NodeRefresh.KeepsPods():
		writeKept(w, uc, p)
	default:
		writeReplaced(w, p)
	}
	if unseen == nil {
		fmt.Fprintf(w, "  signs %s again\n", count(p.LegacySecrets, "legacy token Secret"))
	}
	writeRetire(w, uc, p)
	if len(p.LeftCopies) > 0 && !p.rollsOut {
		fmt.Fprintln(w, "  deletes Secret kube-system/kubeadm-certs, since a node must not join with the keys in it, "+
			"and waits a minute if it was there: upload them again before one joins")
	}
	if len(p.LeftCopies) > 0 {
		fmt.Fprintf(w, "  deletes no copies of the old private key in %s: delete those yourself\n",
			strings.Join(p.LeftCopies, ", "))
	}
	writeFindings(w, p.Findings)
	if p.unread != nil {
		fmt.Fprintf(w, "warning: what keeps Cluster API from replacing machines cannot be shown: %s\n",
			printable.Line(p.unread.Error()))
	}
	if unseen != nil {
		fmt.Fprintf(w, "warning: what it does to nodes, tokens and pods cannot be shown: %s\n",
			printable.Line(unseen.Error()))
	}
}

// writeFindings lists the objects of each kind that need attention.
func writeFindings(w io.Writer, all []preflight.Finding) {
	for len(all) > 0 {
		n := slices.IndexFunc(all, func(f preflight.Finding) bool { return f.Kind != all[0].Kind })
		if n < 0 {
			n = len(all)
		}
		var names []string
		for _, f := range all[:n] {
			names = append(names, f.String())
		}
		fmt.Fprintf(w, "warning: %s (%d):\n  %s\n", all[0].Text, n, strings.Join(shorten(names), "\n  "))
		all = all[n:]
	}
}

// publishedAt returns the destinations that the public keys of a cluster are published to.
func publishedAt(uc *v1alpha1.UserCluster) []string {
	var destinations []string
	if uc.Spec.GKEConnect != nil {
		destinations = append(destinations, "fleet membership "+membership(uc))
	}
	return append(destinations, uc.Spec.KSASigningKey.Publish...)
}

// membership returns the name of the cluster's membership in its fleet.
func membership(uc *v1alpha1.UserCluster) string {
	g := uc.Spec.GKEConnect
	return fmt.Sprintf("projects/%s/locations/%s/memberships/%s", g.ProjectID, g.Location, uc.Name)
}

// writeRetire shows when the old key is retired, and what that does to tokens that a rotation does not replace.
func writeRetire(w io.Writer, uc *v1alpha1.UserCluster, p rotationPreview) {
	switch {
	case p.Retire == v1alpha1.RetireWhenUnused:
		fmt.Fprintf(w, "  waits up to %s for tokens that it does not replace to expire, before it retires the old key\n",
			inSeconds(p.RetireTimeoutSeconds))
	case uc.Spec.KeySource() == v1alpha1.KeySourceExternal:
		fmt.Fprintln(w, "  does not wait for tokens that it cannot replace, such as those of `kubectl create token`; "+
			"with ksaSigningKey.retire: WhenUnused it would")
	default:
		fmt.Fprintln(w, "  does not wait for tokens that it cannot replace, such as those of `kubectl create token`")
	}
}

func writeReplaced(w io.Writer, p rotationPreview) {
	if len(p.Nodes) == 0 {
		fmt.Fprintln(w, "  replaces no nodes")
		return
	}
	if p.rollsOut {
		fmt.Fprintln(w, "  makes Cluster API replace the other nodes once, and evicts pods with a token on control-plane "+
			"nodes")
		return
	}
	fmt.Fprintf(w, "  deletes %s and creates new ones: %s\n", count(len(p.Nodes), "node"), nodeNames(p.Nodes))
}

// writeEvicted shows what happens if pods with tokens are evicted.
func writeEvicted(w io.Writer, p rotationPreview) {
	if p.holders == 0 {
		fmt.Fprintln(w, "  evicts no pods: none holds a token")
		return
	}
	fmt.Fprintf(w, "  keeps %s and evicts %s, those that hold a token, a few of each controller at a time\n",
		count(len(p.Nodes), "node"), count(p.holders, "pod"))
	if p.controlPlaneHolders > 0 {
		fmt.Fprintf(w, "  of these pods, %d are on control-plane nodes\n", p.controlPlaneHolders)
	}
}

// writeKept shows what happens to nodes that stay, and how long it takes.
func writeKept(w io.Writer, uc *v1alpha1.UserCluster, p rotationPreview) {
	if len(p.Nodes) == 0 {
		fmt.Fprintln(w, "  has no nodes whose tokens must be replaced")
		return
	}
	fmt.Fprintf(w, "  keeps %s and all pods: %s\n", count(len(p.Nodes), "node"), nodeNames(p.Nodes))
	if p.NodeRefresh == v1alpha1.NodeRefreshInPlace {
		fmt.Fprintln(w, "  restarts the kubelets, one at a time, which then replace all tokens in the pods' volumes, "+
			"third-party tokens too")
	} else {
		fmt.Fprintf(w, "  waits until the kubelets have renewed all tokens in the pods' volumes, third-party tokens too: "+
			"up to %s\n",
			p.renewal.Round(time.Second))
	}
	reload := time.Duration(uc.Spec.KSASigningKey.TokenReloadSeconds) * time.Second
	fmt.Fprintf(w, "  accepts the old key for %s more, until applications have read their new tokens\n", reload)
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

// shorten cuts a long list.
func shorten(names []string) []string {
	if len(names) <= mostShown {
		return names
	}
	return append(names[:mostShown:mostShown], fmt.Sprintf("and %d more", len(names)-mostShown))
}
