package pools

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/internal/nodes/eviction"
)

// Pods that cannot go keep no others from being asked, and those that are going are not asked.
func TestRefusedPodsComeLast(t *testing.T) {
	pod := func(name string) corev1.Pod {
		return corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	}
	going := pod("going")
	going.DeletionTimestamp = &metav1.Time{}
	m := &Memory{}
	m.refuse(map[types.UID]eviction.Refusal{"refused": {}})
	var got []string
	for _, p := range m.order([]corev1.Pod{pod("refused"), pod("a"), going, pod("b")}) {
		got = append(got, p.Name)
	}
	if all := strings.Join(got, " "); all != "a b refused" {
		t.Errorf("asked are %s", all)
	}
}

func TestNewName(t *testing.T) {
	long := strings.Repeat("a", 40)
	none := func(string) bool { return false }
	if name := newName(long, long, none); len(name) > 63 {
		t.Errorf("%s has %d bytes: too long for a host name label", name, len(name))
	}
	seen := map[string]bool{}
	for range 200 {
		name := newName("c", "p", func(n string) bool { return seen[n] })
		if seen[name] || !strings.HasPrefix(name, "c-p-") || len(name) != len("c-p-")+5 {
			t.Fatalf("name %s", name)
		}
		seen[name] = true
	}
}
