package cli

import (
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/preflight"
)

// TestOtherInfrastructure has gkectl show and compare a cluster whose infrastructure it does not know.
func TestOtherInfrastructure(t *testing.T) {
	a, out, _ := testEnv()
	other := v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Name: "other", CreationTimestamp: metav1.NewTime(a.Now().Add(-time.Hour))},
		Status:     v1alpha1.UserClusterStatus{APIServers: []v1alpha1.APIServerStatus{{Name: "a", Ready: true}, {Name: "b"}}},
	}
	if err := a.clusterTable(out, []v1alpha1.UserCluster{other}, false); err != nil {
		t.Fatal(err)
	}
	if fields := strings.Fields(out.String()); !slices.Contains(fields, "1/2") || slices.Contains(fields, "0/0") {
		t.Errorf("list shows not 1 of 2 API servers and no nodes:\n%s", out)
	}
	out.Reset()
	if err := a.describeOne(out, &other); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "Infrastructure:   -\nKubernetes:       -\n") ||
		strings.Contains(text, "Pods:") {
		t.Errorf("describe of a cluster of which little is known:\n%s", text)
	}
	if got := restartsOf(&other).String(); !strings.Contains(got, "restarts 2 API servers") {
		t.Errorf("preview: %s", got)
	}
	rolling := other
	rolling.Spec.Infrastructure.ClusterAPI = &v1alpha1.ClusterAPIInfrastructure{Method: v1alpha1.MethodRollout}
	p := newPreview(&rolling, preflight.Report{})
	if !strings.Contains(p.APIServers.String(), "replace 2 control-plane") ||
		strings.Contains(strings.Join(p.LeftCopies, ","), "cloud-init") {
		t.Errorf("preview of a rotation by rollouts: %+v", p)
	}
	local := other
	local.Spec.Infrastructure.Local = &v1alpha1.LocalInfrastructure{NodePools: []v1alpha1.NodePool{{Name: "a"}}}
	if fixed, _ := changes(&other, &local); !slices.Equal(fixed, []string{"infrastructure: another -> local"}) {
		t.Errorf("fields that cannot be changed: %q", fixed)
	}
}
