package preflight

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/podtokens"
)

// holder is a pod that holds a token: one that was issued for it, or what some Secret holds, if that is a token.
type holder struct {
	pod          Object
	bare, issued bool
	controlPlane bool
	secrets      []types.NamespacedName
}

// holder notes a pod that may hold a token: one of all.
func (i *inspection) holder(p *corev1.Pod, pod Object, all []podtokens.Token) {
	h := holder{pod: pod, bare: metav1.GetControllerOf(p) == nil, controlPlane: i.controlPlane[p.Spec.NodeName]}
	for _, t := range all {
		if t.Kind == podtokens.Legacy {
			h.secrets = append(h.secrets, types.NamespacedName{Namespace: p.Namespace, Name: t.Secret})
		} else {
			h.issued = true
		}
	}
	if len(all) > 0 {
		i.holders = append(i.holders, h)
	}
}

// countHolders counts the pods that hold a token, once it is known which Secrets do.
func (i *inspection) countHolders() {
	for _, h := range i.holders {
		for _, s := range h.secrets {
			h.issued = h.issued || i.legacy[s]
		}
		if !h.issued {
			continue
		}
		i.report.Holders++
		if h.controlPlane {
			i.report.ControlPlaneHolders++
		}
		if h.bare && i.evicts {
			i.find(BareHolder, h.pod, "")
		}
	}
}
