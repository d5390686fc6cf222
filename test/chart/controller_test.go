package chart

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
)

// TestFlags has keyturn-controller parse the arguments that the chart gives it.
func TestFlags(t *testing.T) {
	const program = root + "bin/keyturn-controller"
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v\nhint: run `make build`", err)
	}
	for name, args := range map[string][]string{"defaults": nil, "all values": {"--values", "testdata/all.yaml"}} {
		t.Run(name, func(t *testing.T) {
			given := arguments(t, args...)
			// With --help, flags that are known and can be parsed end in success.
			out, err := exec.CommandContext(t.Context(), program, append(given, "--help")...).CombinedOutput()
			if err != nil {
				t.Errorf("keyturn-controller %s: %v: %s", strings.Join(given, " "), err, out)
			}
		})
	}
}

// arguments returns the arguments of the controller.
func arguments(t *testing.T, values ...string) []string {
	t.Helper()
	var d appsv1.Deployment
	convert(t, named(render(t, values...))["Deployment/keyturn-controller"], &d)
	return d.Spec.Template.Spec.Containers[0].Args
}

// TestMetricsOfAlerts wants the controller to have each metric that an alert rule names. A registry refuses a second
// metric of a name with another description.
func TestMetricsOfAlerts(t *testing.T) {
	if _, err := controller.NewScheme(); err != nil { // the package registers its metrics
		t.Fatal(err)
	}
	raw, err := os.ReadFile(chart + "/files/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`keyturn_[a-z_]+`).FindAllString(string(raw), -1)
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) < 4 {
		t.Errorf("the alert rules name %v only", names)
	}
	for _, name := range names {
		other := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: "another metric of the name"})
		if err := metrics.Registry.Register(other); err == nil {
			metrics.Registry.Unregister(other)
			t.Errorf("the controller has no metric %s", name)
		}
	}
}

// TestLeaseRoles asks the API server for the rights to the Lease by which controllers agree on the one that works.
func TestLeaseRoles(t *testing.T) {
	installRoles(t)
	checkRights(t, []right{
		{account, "create", "coordination.k8s.io", "leases", "", v1alpha1.SystemNamespace, "", true},
		{account, "update", "coordination.k8s.io", "leases", "", v1alpha1.SystemNamespace, "keyturn-controller", true},
		{account, "update", "coordination.k8s.io", "leases", "", v1alpha1.SystemNamespace, "other", false},
		{account, "update", "coordination.k8s.io", "leases", "", "team-a", "keyturn-controller", false},
		{account, "delete", "coordination.k8s.io", "leases", "", v1alpha1.SystemNamespace, "keyturn-controller", false},
	})
}

// TestLeaderElection elects a leader with the rights of the controller, and has it give up the Lease.
func TestLeaderElection(t *testing.T) {
	installRoles(t)
	as := rest.CopyConfig(config)
	as.Impersonate.UserName = account
	clientset, err := kubernetes.NewForConfig(as)
	if err != nil {
		t.Fatal(err)
	}
	lease, err := resourcelock.New(resourcelock.LeasesResourceLock, v1alpha1.SystemNamespace, "keyturn-controller",
		clientset.CoreV1(), clientset.CoordinationV1(), resourcelock.ResourceLockConfig{Identity: "test"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	lock := &renewals{Interface: lease, after: cancel}
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, ReleaseOnCancel: true,
		LeaseDuration: 15 * time.Second, RenewDeadline: 10 * time.Second, RetryPeriod: time.Second,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	elector.Run(ctx)
	record, _, err := lease.Get(t.Context())
	if err != nil || lock.count < 2 || record.HolderIdentity != "" {
		t.Errorf("%d updates, Lease %+v, %v; want it to be renewed and released", lock.count, record, err)
	}
}

// renewals is a lock that calls after once an update has been answered. The leader stops between two requests, since
// it could not release a Lease that an unanswered request changes meanwhile.
type renewals struct {
	resourcelock.Interface
	after func()
	count int
}

func (r *renewals) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	defer r.after()
	err := r.Interface.Update(ctx, record)
	if err == nil {
		r.count++
	}
	return err
}
