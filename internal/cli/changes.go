package cli

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// changes says in words how wanted differs from old: in fields that can never change, and in what can be updated.
// The wanted key version is none of either; only a rotation raises it.
func changes(old, wanted *v1alpha1.UserCluster) (fixed, updates []string) {
	a, b := old.Spec, wanted.Spec
	compare := func(list *[]string, field string, from, to any) {
		if from != to {
			*list = append(*list, fmt.Sprintf("%s: %v -> %v", field, from, to))
		}
	}
	compare(&fixed, "gkeOnPremVersion", a.KubernetesVersion, b.KubernetesVersion)
	compare(&fixed, "enableAdvancedCluster", a.EnableAdvancedCluster, b.EnableAdvancedCluster)
	compare(&fixed, "network.serviceCIDR", a.Network.ServiceCIDR, b.Network.ServiceCIDR)
	compare(&fixed, "network.podCIDR", a.Network.PodCIDR, b.Network.PodCIDR)
	compare(&fixed, "masterNode.replicas", a.ControlPlane.Replicas, b.ControlPlane.Replicas)
	compare(&fixed, "ksaSigningKey.source", a.KSASigningKey.Source, b.KSASigningKey.Source)
	compare(&updates, "~ ksaSigningKey.algorithm", a.KSASigningKey.Algorithm, b.KSASigningKey.Algorithm)
	return fixed, append(updates, poolChanges(a.NodePools, b.NodePools)...)
}

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

// poolChange says how a pool changes; empty when it does not.
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

// count is a number of things in words: "no nodes", "1 node", "2 nodes".
func count(n int, thing string) string {
	switch n {
	case 0:
		return "no " + thing + "s"
	case 1:
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
