package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/podtokens/drivers"
)

// volumes reads for each PersistentVolumeClaim whether its volume is on one node, and which driver serves it.
func (i *inspection) volumes(ctx context.Context) error {
	i.localClaims, i.cluster.Claims = map[types.NamespacedName]bool{}, map[types.NamespacedName]string{}
	return i.eachPage(func(o metav1.ListOptions) (string, error) {
		list, err := i.client.CoreV1().PersistentVolumes().List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing PersistentVolumes: %w", err)
		}
		for n := range list.Items {
			i.volume(&list.Items[n])
		}
		return list.Continue, nil
	})
}

func (i *inspection) volume(v *corev1.PersistentVolume) {
	if v.Spec.ClaimRef == nil {
		return
	}
	claim := types.NamespacedName{Namespace: v.Spec.ClaimRef.Namespace, Name: v.Spec.ClaimRef.Name}
	i.localClaims[claim] = i.isLocal(v)
	if _, driver := drivers.Claim(v); driver != "" {
		i.cluster.Claims[claim] = driver
	}
}

func (i *inspection) isLocal(v *corev1.PersistentVolume) bool {
	if v.Spec.Local != nil || v.Spec.HostPath != nil {
		return true
	}
	a := v.Spec.NodeAffinity
	return a != nil && i.namesNodes(a.Required)
}

// bound returns why a pod cannot run on a new node.
func (i *inspection) bound(p *corev1.Pod) string {
	var why []string
	for key, value := range p.Spec.NodeSelector {
		if key == corev1.LabelHostname || i.hosts[value] {
			why = append(why, fmt.Sprintf("nodeSelector %s: %s", key, value))
		}
	}
	slices.Sort(why)
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil &&
		i.namesNodes(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution) {
		why = append(why, "node affinity")
	}
	for _, v := range p.Spec.Volumes {
		if claim := claimOf(p, v); claim != "" && i.localClaims[types.NamespacedName{Namespace: p.Namespace, Name: claim}] {
			why = append(why, "local volume "+v.Name)
		}
	}
	return strings.Join(why, ", ")
}

// claimOf returns the name of the PersistentVolumeClaim of a volume; empty if it has none.
func claimOf(p *corev1.Pod, v corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return p.Name + "-" + v.Name
	}
	return ""
}

// namesNodes reports whether a selector selects nodes by name. It must do so in each of its terms, since one is enough.
func (i *inspection) namesNodes(s *corev1.NodeSelector) bool {
	if s == nil || len(s.NodeSelectorTerms) == 0 {
		return false
	}
	names := func(e corev1.NodeSelectorRequirement) bool {
		if e.Operator != corev1.NodeSelectorOpIn {
			return false
		}
		return e.Key == corev1.LabelHostname || e.Key == metav1.ObjectNameField ||
			!slices.ContainsFunc(e.Values, func(v string) bool { return !i.hosts[v] })
	}
	return !slices.ContainsFunc(s.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool {
		return !slices.ContainsFunc(t.MatchExpressions, names) && !slices.ContainsFunc(t.MatchFields, names)
	})
}

// ofDaemonSet reports whether a pod belongs to a DaemonSet, which binds each pod to its node and creates new ones.
func ofDaemonSet(p *corev1.Pod) bool {
	owner := metav1.GetControllerOf(p)
	return owner != nil && owner.Kind == "DaemonSet"
}

// emptyDirs returns the volumes of a pod that are deleted with it.
func emptyDirs(p *corev1.Pod) []string {
	var names []string
	for _, v := range p.Spec.Volumes {
		if v.EmptyDir != nil && v.EmptyDir.Medium == corev1.StorageMediumDefault {
			names = append(names, v.Name)
		}
	}
	return names
}
