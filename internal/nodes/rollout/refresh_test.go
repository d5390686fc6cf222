package rollout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
)

// TestRefreshOfRunningPods goes through whole refreshes with the objects of a real API server.
func TestRefreshOfRunningPods(t *testing.T) {
	for _, how := range []v1alpha1.NodeRefresh{v1alpha1.NodeRefreshInPlace, v1alpha1.NodeRefreshWait} {
		t.Run(string(how), func(t *testing.T) {
			b := newBench(t, 2, 1)
			b.every = 0
			b.cluster.NodeRefresh, b.cluster.TokenReload = how, 300*time.Second
			before := b.until("two nodes", 1, all(2, 1)).Nodes
			var files []nodes.TokenFile
			for i, n := range before {
				p := b.pod(fmt.Sprintf("p%d", i), n.Name, func(p *corev1.Pod) {
					p.Spec.ServiceAccountName = "default"
					useVault(p)
				})
				files = append(files, nodes.TokenFile{Pod: p.UID, Volume: "vault", Path: "token"})
				b.machines.SetToken(files[i],
					nodes.Token{KeyID: "old", IssuedAt: time.Now(), RenewBy: time.Now().Add(10 * time.Minute)})
			}
			st := b.until("an old token to be named", 2,
				waitingFor("pod "+b.ns+"/p0 on node "+before[0].Name+" to get a token of key version 2"))
			if st.Blocked {
				t.Errorf("blocked: %q", st.Waiting)
			}
			renew := func(i int) {
				b.machines.SetToken(files[i], nodes.Token{KeyID: "new"})
			}
			renew(0)
			if how == v1alpha1.NodeRefreshWait {
				if !strings.Contains(st.Waiting, "to get a token of key version 2, which is certain by 20") {
					t.Errorf("it does not say when: %q", st.Waiting)
				}
				b.ahead = 2*time.Minute + 4*time.Second
			}
			b.until("the second node", 2, waitingFor("pod "+b.ns+"/p1 on node "+before[1].Name+" to get a token",
				"the applications on node "+before[0].Name+" to read their new tokens, which is certain at "))
			renew(1)
			b.until("the second node's applications", 2, waitingFor("the applications on node "+before[1].Name))
			b.ahead += 299 * time.Second
			must(t, b.open().Converge(b.ctx, keysOf(2)))
			if b.observe(2).Waiting == "" {
				t.Error("nothing is waited for before the time to reload is over")
			}
			b.ahead += 3 * time.Second
			after := b.until("the end", 2,
				func(st nodes.State) bool { return st.Nodes[0].KeyVersion+st.Nodes[1].KeyVersion == 4 }).Nodes
			// The controller converges no more from here on.
			for _, n := range after {
				node, err := client.CoreV1().Nodes().Get(b.ctx, n.Name, metav1.GetOptions{})
				if err != nil || node.Labels[v1alpha1.LabelKeyVersion] != "2" {
					t.Errorf("node %s is labelled %v, %v", n.Name, node.Labels, err)
				}
			}
			if !all(2, 2)(b.observe(2)) {
				t.Errorf("it ends with %+v", b.observe(2))
			}
			if after[0].Name != before[0].Name || after[1].Name != before[1].Name || b.machines.Most() != 2 ||
				!b.podExists("p0") {
				t.Errorf("nodes were %v, are %v", before, after)
			}
			want := map[v1alpha1.NodeRefresh]int{v1alpha1.NodeRefreshInPlace: 1}[how]
			for _, n := range before {
				if got := b.machines.Restarts(n.Name); got != want {
					t.Errorf("the kubelet of %s was restarted %d times, want %d", n.Name, got, want)
				}
			}
			// Only a rotation to a newer key changes something now.
			b.cluster.NodeRefresh = v1alpha1.NodeRefreshReplace
			must(t, b.open().Converge(b.ctx, keysOf(2)))
			if st := b.observe(2); !all(2, 2)(st) || st.Nodes[0].Name != before[0].Name {
				t.Errorf("after a change of the mode: %+v", st)
			}
		})
	}
}

// useVault gives a pod a token for somebody else.
func useVault(p *corev1.Pod) {
	token := &corev1.ServiceAccountTokenProjection{Audience: "vault", Path: "token"}
	p.Spec.Volumes = []corev1.Volume{{Name: "vault",
		VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: token}},
		}}}}
	p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "vault", MountPath: "/vault"}}
}
