package controllercmd

import (
	"strings"
	"testing"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// TestUnservedInfrastructure opens a cluster whose spec.infrastructure has a member that this version does not know:
// the typed object then has none.
func TestUnservedInfrastructure(t *testing.T) {
	uc := &v1alpha1.UserCluster{}
	on := infrastructures{}
	_, planeErr := on.controlPlane(uc)
	_, nodesErr := nodesOf(on, nil, nil)(uc)
	for what, err := range map[string]error{"control plane": planeErr, "nodes": nodesErr} {
		if err == nil || !strings.Contains(err.Error(), "infrastructure is not served by this controller") {
			t.Errorf("opening its %s: %v, want its infrastructure not to be served", what, err)
		}
	}
}
