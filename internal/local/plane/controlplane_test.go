package plane

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/components"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/localtest"
)

// testHost is a Host at addresses that nobody else uses, without bridges unless the test wants some.
func testHost(t *testing.T, programDir string, loopback bool) *Host {
	t.Helper()
	return New(localtest.RealData(t, loopback), localtest.Programs(t, programDir), nil)
}

// emptyHost has no binaries.
func emptyHost(t *testing.T) *Host {
	t.Helper()
	return New(localtest.Data(t), localtest.NoPrograms(t), nil)
}

// driver is a localtest.Driver that sees what is inside.
type driver struct {
	localtest.Driver
	host *Host
	// prover asks the API servers.
	prover *controlplane.Prover
}

func driverOf(t *testing.T, h *Host, uc *v1alpha1.UserCluster) *driver {
	d := &driver{host: h, prover: &controlplane.Prover{}}
	d.Driver = localtest.Driver{
		T: t, UC: uc, Data: h.Data, Observed: d.wantPhases,
		Open: func() controlplane.Adapter { return d.cp() },
	}
	return d
}

func (d *driver) cp() *ControlPlane { return d.host.ControlPlane(d.UC) }

// wantPhases fails the test if an intended restart waits for anything but one of its few phases.
func (d *driver) wantPhases(s controlplane.State) {
	d.T.Helper()
	waiting := map[string]string{}
	for _, x := range s.Servers {
		waiting[x.Name] = x.Waiting
	}
	for _, m := range s.ControllerManagers {
		waiting[m.Name] = m.Waiting
	}
	for name, w := range waiting {
		switch w {
		case "", phaseStopping, phaseStarting, phaseUnused, "was stopped":
		default:
			if !strings.HasPrefix(w, "not ready (") { // a busy machine may take long
				d.T.Errorf("%s: %s", name, w)
			}
		}
	}
}

// load is clients that use the API by the load balancer all the time and count what fails. Like every client-go
// client they honour Retry-After, by which an API server that is ending turns away what still reaches it.
type load struct {
	stop     context.CancelFunc
	done     sync.WaitGroup
	mu       sync.Mutex
	requests int
	failures []string
}

func startLoad(t *testing.T, cfg *rest.Config) *load {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	l := &load{stop: stop}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.repeat(ctx, func() error {
		_, err := client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	l.repeat(ctx, func() error {
		_, err := client.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{GenerateName: "load-"}}, metav1.CreateOptions{})
		return err
	})
	l.repeat(ctx, func() error {
		_, err := client.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{},
			metav1.CreateOptions{})
		return err
	})
	t.Cleanup(func() { stop(); l.done.Wait() })
	return l
}

// mustAllSucceed fails the test if a request failed since the last call, other than for the given reason. It waits
// until there were enough requests to know.
func (l *load) mustAllSucceed(t *testing.T, but ...string) {
	t.Helper()
	const enough = 100
	for begin := time.Now(); l.count() < enough; time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > localtest.Patience {
			t.Fatalf("there were only %d requests", l.count())
		}
	}
	n, failures := l.take()
	excused := 0
	failures = slices.DeleteFunc(failures, func(f string) bool {
		is := slices.ContainsFunc(but, func(reason string) bool { return strings.Contains(f, reason) })
		if is {
			excused++
		}
		return is
	})
	t.Logf("%d requests, %d failed for a known reason", n, excused)
	if len(failures) > 0 {
		t.Errorf("of %d requests %d failed: %q", n, len(failures), failures)
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.requests
}

func (l *load) repeat(ctx context.Context, request func() error) {
	tick := time.NewTicker(20 * time.Millisecond)
	l.done.Go(func() {
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := request()
			if ctx.Err() != nil {
				return
			}
			l.mu.Lock()
			l.requests++
			if err != nil {
				l.failures = append(l.failures, time.Now().Format("15:04:05.000 ")+err.Error())
			}
			l.mu.Unlock()
		}
	})
}

// take reports how many requests there were and which failed since the last call.
func (l *load) take() (requests int, failures []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	requests, failures = l.requests, l.failures
	l.requests, l.failures = 0, nil
	return requests, failures
}

func TestKeysChangeServerByServer(t *testing.T) {
	d := newDriver(t, testHost(t, "", true), localtest.UserCluster("alpha", 3))
	one, two := localtest.Key(t, 1), localtest.Key(t, 2)
	first := controlplane.Keys{Verify: []int{1}, Sign: 1}
	d.Until("creation", controlplane.Target{Keys: first, ControllerManagerSign: 1}, []keystore.KeyPair{one},
		localtest.Ready)
	old := d.Issue("apiserver-0")

	cfg, err := d.cp().Config(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	clients := startLoad(t, cfg)
	both := controlplane.Keys{Verify: []int{1, 2}, Sign: 1}
	d.Give("publish", both, 1, one, two)
	clients.mustAllSucceed(t)
	d.survive(both, one, two)
	clients.take() // a killed API server does not end the requests that it has
	d.Give("switch", controlplane.Keys{Verify: []int{1, 2}, Sign: 2}, 1, one, two)
	d.Give("retire", controlplane.Keys{Verify: []int{2}, Sign: 2}, 2, two)
	clients.mustAllSucceed(t)

	fresh := d.Issue("apiserver-1")
	for i := range 3 {
		if server := components.APIServerName(i); d.Accepts(server, old) || !d.Accepts(server, fresh) {
			t.Errorf("%s accepts the old key or refuses the new one", server)
		}
	}
	if left := localtest.FilesNamed(t, d.host.Data.Path(), "sa-1."); len(left) > 0 {
		t.Errorf("old keys left: %v", left)
	}
	d.checkIdentities(3)
}

func newDriver(t *testing.T, h *Host, uc *v1alpha1.UserCluster) *driver {
	d := driverOf(t, h, uc)
	t.Cleanup(func() {
		d.Delete()
		if left := localtest.ProcessesOf(t, h.Data.Path()); len(left) > 0 {
			t.Errorf("processes left: %q", left)
		}
		if entries, err := os.ReadDir(filepath.Join(h.Data.Path(), "clusters")); err != nil || len(entries) > 0 {
			t.Errorf("files left: %v, %v", entries, err)
		}
	})
	return d
}

// survive kills what a control plane is made of, and goes on as a controller that was killed too: it adopts what runs
// and starts again what does not, with the keys that it is configured with.
func (d *driver) survive(keys controlplane.Keys, pairs ...keystore.KeyPair) {
	d.T.Helper()
	before := d.PID(components.APIServerName(0))
	for _, name := range []string{
		"etcd", components.LoadBalancerName, components.APIServerName(1), components.ControllerManagerName(0),
		components.SchedulerName(1),
	} {
		d.Kill(name)
	}
	p, _ := d.plane("")
	records := []string{p.APIServerKeys(0).Dir, p.ControllerManagerKeys(1).Dir} // of processes that run
	for _, dir := range records {
		if err := os.Remove(filepath.Join(dir, "configured.json")); err != nil {
			d.T.Fatal(err)
		}
	}
	data, err := datadir.Open(d.Data.Path(), d.Data.Network(), true)
	if err != nil {
		d.T.Fatal(err)
	}
	d.Data, d.host = data, New(data, localtest.Programs(d.T, ""), nil)
	target := controlplane.Target{Keys: keys, ControllerManagerSign: 1}
	state := d.Until("recovery", target, pairs, localtest.Ready)
	for _, s := range state.Servers {
		if !s.Running.Equal(keys) || !s.Configured.Equal(keys) {
			d.T.Errorf("%s was given %v and runs with %v", s.Name, s.Configured, s.Running)
		}
	}
	for _, dir := range records {
		if _, err := os.Stat(filepath.Join(dir, "configured.json")); err != nil {
			d.T.Errorf("what a process runs with was not written again: %v", err)
		}
	}
	if after := d.PID(components.APIServerName(0)); after != before {
		d.T.Errorf("apiserver-0 was not adopted: its pid was %d and is %d", before, after)
	}
}

func TestControlPlaneOnABridge(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("bridges need root")
	}
	h := testHost(t, "", false)
	d := newDriver(t, h, localtest.UserCluster("bridged", 1))
	key := localtest.Key(t, 1)
	target := controlplane.Target{Keys: controlplane.Keys{Verify: []int{1}, Sign: 1}, ControllerManagerSign: 1}
	state := d.Until("creation", target, []keystore.KeyPair{key}, localtest.Ready)
	slice, err := d.Client("").DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	site, _, err := h.Data.Site(datadir.SiteName(d.UC))
	if err != nil {
		t.Fatal(err)
	}
	want := site.LoadBalancer().String()
	if got := slice.Endpoints[0].Addresses[0]; got != want || state.Endpoint != "https://"+want+":6443" {
		t.Errorf("endpoint of Service kubernetes is %s, that of the cluster %s", got, state.Endpoint)
	}
	if _, err := net.InterfaceByName(site.Bridge()); err != nil {
		t.Error(err)
	}
	d.checkPodSecurity()
	if state.Home == "" || state.Home != h.Data.ID() {
		t.Errorf("its home is %q, that of the host %q", state.Home, h.Data.ID())
	}
	d.Delete()
	if _, err := net.InterfaceByName(site.Bridge()); err == nil {
		t.Errorf("bridge %s is left", site.Bridge())
	}
}
