package plane

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/localtest"
)

// checkPodSecurity checks that pods which could leave their machine are refused, until an administrator lets a
// namespace have them.
func (d *driver) checkPodSecurity() {
	d.T.Helper()
	client, yes := d.Client(""), true
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "privileged"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{
			Name: "c", Image: "x", SecurityContext: &corev1.SecurityContext{Privileged: &yes},
		}}},
	}
	create := func() error {
		dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
		_, err := client.CoreV1().Pods("default").Create(d.T.Context(), pod, dry)
		return err
	}
	d.Issue("") // the ServiceAccount is there
	if err := create(); err == nil || !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest"`) {
		d.T.Errorf("a privileged pod: %v", err)
	}
	label := []byte(`{"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}}`)
	namespaces := client.CoreV1().Namespaces()
	_, err := namespaces.Patch(d.T.Context(), "default", types.MergePatchType, label, metav1.PatchOptions{})
	if err != nil {
		d.T.Fatal(err)
	}
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) { // admission watches namespaces
		err := create()
		if err == nil {
			return
		}
		if time.Since(begin) > localtest.Patience {
			d.T.Fatalf("a privileged pod in a namespace that may have some: %v", err)
		}
	}
}

// checkIdentities checks that each API server of the cluster has a Lease of its own, for which no other competes.
func (d *driver) checkIdentities(servers int) {
	d.T.Helper()
	if os.Geteuid() != 0 {
		return // they share the host's name then
	}
	leases, err := d.Client("").CoordinationV1().Leases(metav1.NamespaceSystem).List(d.T.Context(),
		metav1.ListOptions{LabelSelector: "apiserver.kubernetes.io/identity=kube-apiserver"})
	if err != nil {
		d.T.Fatal(err)
	}
	var names []string
	for _, lease := range leases.Items {
		names = append(names, lease.Labels[corev1.LabelHostname])
	}
	slices.Sort(names)
	var want []string
	for i := range servers {
		want = append(want, components.APIServerName(i))
		site, _, err := d.host.Data.Site(datadir.SiteName(d.UC))
		if err != nil {
			d.T.Fatal(err)
		}
		log, err := os.ReadFile(site.Path("run", components.APIServerName(i)+".log"))
		if err != nil || strings.Contains(string(log), "Failed to update lease") {
			d.T.Errorf("the log of %s tells of another server with its Lease, %v", components.APIServerName(i), err)
		}
	}
	if !slices.Equal(names, want) {
		d.T.Errorf("the Leases are of %v, want %v", names, want)
	}
}

// A cluster that was made in one data directory is not touched by a controller with another.
func TestClusterOfAnotherDataDirectory(t *testing.T) {
	here, there := emptyHost(t), emptyHost(t)
	uc := localtest.UserCluster("alpha", 1)
	for _, h := range []*Host{here, there} {
		if err := h.Data.Claim(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := there.Data.EnsureSite(datadir.SiteName(uc), uc.UID); err != nil { // one of the same name
		t.Fatal(err)
	}
	uc.Status.Infrastructure.Local = &v1alpha1.LocalInfrastructureStatus{Home: here.Data.ID()}
	_, errObserve := there.ControlPlane(uc).Observe(t.Context())
	_, errDelete := there.ControlPlane(uc).Delete(t.Context())
	_, errConfig := there.ControlPlane(uc).Config(t.Context(), "")
	for what, err := range map[string]error{
		"Observe": errObserve, "Delete": errDelete, "Config": errConfig,
		"Converge": there.ControlPlane(uc).Converge(t.Context(), controlplane.Target{}, nil),
	} {
		if err == nil || !strings.Contains(err.Error(), here.Data.ID()) || hint.Of(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, ok, err := there.Data.Site(datadir.SiteName(uc)); !ok || err != nil {
		t.Errorf("the site of the same name is gone: %v", err)
	}
	if _, _, err := here.Data.SiteOf(uc); err != nil {
		t.Errorf("at home: %v", err)
	}
}

// Two admin clusters may have a UserCluster of the same name each, and let the same keyturn-local run them.
func TestClusterOfAnotherAdminCluster(t *testing.T) {
	h := emptyHost(t)
	if err := h.Data.Claim(); err != nil {
		t.Fatal(err)
	}
	one, other := localtest.UserCluster("alpha", 1), localtest.UserCluster("alpha", 1)
	other.UID = "another"
	if _, err := h.Data.EnsureSite(datadir.SiteName(one), one.UID); err != nil {
		t.Fatal(err)
	}
	_, errObserve := h.ControlPlane(other).Observe(t.Context())
	_, errConfig := h.ControlPlane(other).Config(t.Context(), "")
	for what, err := range map[string]error{
		"Observe": errObserve, "Config": errConfig,
		"Converge": h.ControlPlane(other).Converge(t.Context(), controlplane.Target{}, nil),
	} {
		if !errors.Is(err, datadir.ErrTaken) || hint.Of(err) == "" {
			t.Errorf("%s: %v", what, err)
		}
	}
	if gone, err := h.ControlPlane(other).Delete(t.Context()); !gone || err != nil {
		t.Errorf("deleting it: %t, %v", gone, err)
	}
	if _, ok, err := h.Data.SiteOf(one); !ok || err != nil {
		t.Errorf("the first cluster's site: %t, %v", ok, err)
	}
}

func TestObserveOfAClusterNeverSeen(t *testing.T) {
	h := emptyHost(t)
	uc := localtest.UserCluster("alpha", 3)
	state, err := h.ControlPlane(uc).Observe(t.Context())
	if err != nil || len(state.Servers) > 0 || state.Endpoint != "" {
		t.Errorf("got %+v, %v", state, err)
	}
	if _, err := h.ControlPlane(uc).Config(t.Context(), ""); err == nil {
		t.Error("there is a way to reach it")
	}
	if gone, err := h.ControlPlane(uc).Delete(t.Context()); !gone || err != nil {
		t.Errorf("deleting it: %v, %v", gone, err)
	}
}
