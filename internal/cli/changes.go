package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// changes describes how wanted differs from old: in fields that can never change, and in fields that can be updated. It
// ignores the wanted key version, which only a rotation raises.
func changes(old, wanted *v1alpha1.UserCluster) (fixed, updates []string) {
	var d differences
	a, b := old.Spec, wanted.Spec
	d.infrastructure(a.Infrastructure, b.Infrastructure)
	d.fix("enableAdvancedCluster", a.EnableAdvancedCluster, b.EnableAdvancedCluster)
	if line := sourceChange(old, wanted); line != "" {
		d.updates = append(d.updates, line)
	}
	d.key(a.KSASigningKey, b.KSASigningKey)
	d.fleet(old, a.GKEConnect, b.GKEConnect)
	return d.fixed, append(d.updates, poolChanges(a.Infrastructure.NodePools(), b.Infrastructure.NodePools())...)
}

// differences are lines that describe how fields differ.
type differences struct{ fixed, updates []string }

func (d *differences) fix(field string, from, to any) { compare(&d.fixed, field, from, to) }

func (d *differences) update(field string, from, to any) { compare(&d.updates, "~ "+field, from, to) }

func compare(list *[]string, field string, from, to any) {
	if from != to {
		*list = append(*list, fmt.Sprintf("%s: %v -> %v", field, from, to))
	}
}

// infrastructure compares everything but the node pools.
func (d *differences) infrastructure(a, b v1alpha1.Infrastructure) {
	if a.Kubeadm != nil && b.Kubeadm != nil {
		d.kubeadm(*a.Kubeadm, *b.Kubeadm)
		return
	}
	if a.ClusterAPI != nil && b.ClusterAPI != nil {
		d.fix("infrastructure.clusterAPI.cluster", a.ClusterAPI.Cluster, b.ClusterAPI.Cluster)
		d.fix("infrastructure.clusterAPI.method", a.ClusterAPI.Method, b.ClusterAPI.Method)
		d.update("infrastructure.clusterAPI.shutdownSendRetryAfter",
			a.ClusterAPI.ShutdownSendRetryAfter, b.ClusterAPI.ShutdownSendRetryAfter)
		return
	}
	if a.Local == nil || b.Local == nil {
		d.fix("infrastructure", cmp.Or(a.Name(), "another"), cmp.Or(b.Name(), "another"))
		return
	}
	d.fix("gkeOnPremVersion", a.Local.KubernetesVersion, b.Local.KubernetesVersion)
	d.fix("network.serviceCIDR", a.Local.Network.ServiceCIDR, b.Local.Network.ServiceCIDR)
	d.fix("network.podCIDR", a.Local.Network.PodCIDR, b.Local.Network.PodCIDR)
	d.fix("masterNode.replicas", a.Local.ControlPlane.Replicas, b.Local.ControlPlane.Replicas)
}

func (d *differences) kubeadm(a, b v1alpha1.KubeadmInfrastructure) {
	d.fix("infrastructure.kubeadm.kubeconfigSecret", cmp.Or(a.KubeconfigSecret, "none"),
		cmp.Or(b.KubeconfigSecret, "none"))
	d.fix("infrastructure.kubeadm.certificatesDir", a.CertificatesDir, b.CertificatesDir)
	d.update("infrastructure.kubeadm.shutdownSendRetryAfter", a.ShutdownSendRetryAfter, b.ShutdownSendRetryAfter)
}

func (d *differences) key(a, b v1alpha1.KSASigningKey) {
	d.fix("ksaSigningKey.issuer", a.Issuer, b.Issuer)
	d.update("ksaSigningKey.algorithm", a.Algorithm, b.Algorithm)
	d.update("ksaSigningKey.nodeRefresh", a.NodeRefresh, b.NodeRefresh)
	d.update("ksaSigningKey.tokenReload", inSeconds(a.TokenReloadSeconds), inSeconds(b.TokenReloadSeconds))
	d.update("ksaSigningKey.retire", a.Retire, b.Retire)
	d.update("ksaSigningKey.retireTimeout", inSeconds(a.RetireTimeoutSeconds), inSeconds(b.RetireTimeoutSeconds))
	for _, url := range without(a.Publish, b.Publish) {
		d.updates = append(d.updates, "- ksaSigningKey.publish: "+url)
	}
	for _, url := range without(b.Publish, a.Publish) {
		d.updates = append(d.updates, "+ ksaSigningKey.publish: "+url)
	}
	d.update("ksaSigningKey.publishMaxAge", inSeconds(a.PublishMaxAgeSeconds), inSeconds(b.PublishMaxAgeSeconds))
}

// sourceChange describes how the source of keys changes, and the effect; empty if it does not change.
func sourceChange(old, wanted *v1alpha1.UserCluster) string {
	from, to := old.Spec.KeySource(), wanted.Spec.KeySource()
	if from == to {
		return ""
	}
	n := wantedServers(old)
	if old.Spec.Infrastructure.Adopted() {
		return fmt.Sprintf("~ ksaSigningKey.source: %s -> %s (%s)", from, to, convertsEach(n))
	}
	restart := fmt.Sprintf("restarts %d API servers once, one at a time", n)
	if n == 1 {
		restart = "restarts the only API server once: AN INTERRUPTION of the Kubernetes API"
	}
	return fmt.Sprintf("~ ksaSigningKey.source: %s -> %s (%s)", from, to, restart)
}

// without returns the elements of list that other lacks.
func without(list, other []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return slices.Contains(other, s) })
}

// fleet allows correcting the fleet of a cluster that was never registered. The API server decides in the end.
func (d *differences) fleet(old *v1alpha1.UserCluster, a, b *v1alpha1.GKEConnect) {
	const field = "gkeConnect"
	change := d.fix
	if !registered(old) {
		change = d.update
	}
	switch {
	case a == nil && b == nil:
		return
	case a == nil:
		d.updates = append(d.updates, fmt.Sprintf("+ %s: project %s, location %s", field, b.ProjectID, b.Location))
		return
	case b == nil:
		change(field, fmt.Sprintf("project %s, location %s", a.ProjectID, a.Location), "none")
		return
	}
	change(field+".projectID", a.ProjectID, b.ProjectID)
	change(field+".location", a.Location, b.Location)
	change(field+".endpoint", ofGoogle(a.Endpoint), ofGoogle(b.Endpoint))
	change(field+".stsEndpoint", ofGoogle(a.STSEndpoint), ofGoogle(b.STSEndpoint))
	if a.CABundle != b.CABundle {
		d.updates = append(d.updates, fmt.Sprintf("~ %s.certificateAuthorityPath: %s now",
			field, count(strings.Count(b.CABundle, "-----BEGIN CERTIFICATE-----"), "certificate")))
	}
	d.update(field+".propagationTime", inSeconds(a.PropagationSeconds), inSeconds(b.PropagationSeconds))
}

// registered reports whether the fleet has, or had, the keys of the cluster.
func registered(uc *v1alpha1.UserCluster) bool {
	return slices.ContainsFunc(uc.Status.Publications, func(p v1alpha1.PublicationStatus) bool {
		return strings.HasPrefix(p.Name, "fleet membership ") && (p.PublishedAt != nil || len(p.AcceptedVersions) > 0)
	})
}

// ofGoogle describes an endpoint.
func ofGoogle(endpoint string) string { return cmp.Or(endpoint, "that of Google Cloud") }

func inSeconds(n int32) time.Duration { return time.Duration(n) * time.Second }

func poolChanges(old, wanted []v1alpha1.NodePool) []string {
	var lines []string
	for _, p := range wanted {
		i := slices.IndexFunc(old, func(o v1alpha1.NodePool) bool { return o.Name == p.Name })
		if i < 0 {
			lines = append(lines, fmt.Sprintf("+ node pool %s: %s", p.Name, count(int(p.Replicas), "node")))
			continue
		}
		if d := poolChange(old[i], p); d != "" {
			lines = append(lines, fmt.Sprintf("~ node pool %s: %s", p.Name, d))
		}
	}
	for _, p := range old {
		if !slices.ContainsFunc(wanted, func(w v1alpha1.NodePool) bool { return w.Name == p.Name }) {
			lines = append(lines, fmt.Sprintf("- node pool %s: %s", p.Name, count(int(p.Replicas), "node")))
		}
	}
	return lines
}

// poolChange describes how a pool changes; empty if it does not.
func poolChange(old, wanted v1alpha1.NodePool) string {
	var parts []string
	if old.Replicas != wanted.Replicas {
		parts = append(parts, fmt.Sprintf("replicas %d -> %d", old.Replicas, wanted.Replicas))
	}
	if old.MaxSurge != wanted.MaxSurge {
		parts = append(parts, fmt.Sprintf("maxSurge %d -> %d", old.MaxSurge, wanted.MaxSurge))
	}
	if !equality.Semantic.DeepEqual(old.Labels, wanted.Labels) {
		parts = append(parts, fmt.Sprintf("labels %s -> %s", labels(old), labels(wanted)))
	}
	if !equality.Semantic.DeepEqual(old.Taints, wanted.Taints) {
		parts = append(parts, fmt.Sprintf("taints %s -> %s", taints(old), taints(wanted)))
	}
	return strings.Join(parts, ", ")
}

func labels(p v1alpha1.NodePool) string {
	var list []string
	for k, v := range p.Labels {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return orNone(list)
}

func taints(p v1alpha1.NodePool) string {
	var list []string
	for _, t := range p.Taints {
		list = append(list, t.ToString())
	}
	return orNone(list)
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ",")
}

// count returns a number of things: "no nodes", "1 node", "2 nodes".
func count(n int, thing string) string {
	switch n {
	case 0:
		return "no " + thing + "s"
	case 1:
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
