package preflight

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/podtokens"
)

// holder is a pod that may hold a token: one issued for it, or the content of a Secret that may be a legacy token.
type holder struct {
	pod          Object
	bare, issued bool
	controlPlane bool
	// copied are the Secrets that it has a copy of, and mounted those whose files its kubelet keeps up to date.
	copied, mounted []string
	// data are the volumes whose content is lost with the pod.
	data []string
}

// holder records a pod if it may hold a token: one of all.
func (i *inspection) holder(p *corev1.Pod, pod Object, all []podtokens.Token) {
	if len(all) == 0 {
		return
	}
	h := holder{
		pod: pod, bare: metav1.GetControllerOf(p) == nil, controlPlane: i.controlPlane[p.Spec.NodeName], data: emptyDirs(p),
	}
	for _, t := range all {
		switch {
		case t.Kind != podtokens.Legacy:
			h.issued = true
		case t.Refresh == podtokens.ByKubelet:
			h.mounted = append(h.mounted, t.Secret)
		default:
			h.copied = append(h.copied, t.Secret)
		}
	}
	i.holders = append(i.holders, h)
}

// judgeHolders counts the pods that hold a token, and finds those that need attention, once it is known which Secrets
// hold a legacy token.
func (i *inspection) judgeHolders() {
	for _, h := range i.holders {
		h.copied, h.mounted = i.legacyOf(h.pod, h.copied), i.legacyOf(h.pod, h.mounted)
		if !h.issued && len(h.copied)+len(h.mounted) == 0 {
			continue
		}
		i.report.Holders++
		if h.controlPlane {
			i.report.ControlPlaneHolders++
		}
		switch {
		case i.evicts:
			i.evicted(h)
		case i.keeps && len(h.copied) > 0:
			i.findUses(CopiedToken, h.pod, h.copied)
		case i.keeps:
			i.findUses(MountedToken, h.pod, h.mounted)
		}
	}
}

// legacyOf returns those of a pod's Secrets that hold a legacy token.
func (i *inspection) legacyOf(pod Object, secrets []string) []string {
	return slices.DeleteFunc(secrets, func(s string) bool {
		return !i.legacy[types.NamespacedName{Namespace: pod.Namespace, Name: s}]
	})
}

// evicted finds what blocks the eviction of a pod, or what is lost by it.
func (i *inspection) evicted(h holder) {
	if h.bare {
		i.find(BareHolder, h.pod, "")
	}
	i.findUses(DataOnNode, h.pod, h.data)
}
