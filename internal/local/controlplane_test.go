package local

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// testHost is a Host without bridges, at addresses that nobody else uses.
func testHost(t *testing.T) *Host {
	t.Helper()
	bin, err := kubetest.BinDir()
	if err != nil {
		t.Fatal(err)
	}
	h, err := New(Options{DataDir: filepath.Join(t.TempDir(), "data"), KubeBinDir: bin, Network: freeNetwork(t), Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func freeNetwork(t *testing.T) netip.Prefix {
	t.Helper()
	for i := range 100 {
		octet := 100 + (os.Getpid()+i)%100
		network := netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", octet))
		if usedByHost(t, network) {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.%d.0.254:6443", octet))
		if err != nil {
			continue
		}
		t.Cleanup(func() { l.Close() }) // taken as long as the test runs
		return network
	}
	t.Fatal("no free network")
	return netip.Prefix{}
}

// usedByHost reports whether an interface has an address in the network.
func usedByHost(t *testing.T, network netip.Prefix) bool {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Overlaps(network)
	})
}

func testCluster(name string, replicas int32) *v1alpha1.UserCluster {
	return &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name, UID: types.UID("uid-of-" + name)},
		Spec: v1alpha1.UserClusterSpec{
			Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
				KubernetesVersion: kubetest.Version,
				Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
				ControlPlane:      v1alpha1.ControlPlane{Replicas: replicas},
			}},
		},
	}
}

func testKey(t *testing.T, version int) keystore.KeyPair {
	t.Helper()
	k, err := keystore.Generate(rand.Reader, version, "ES256")
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// driver does what a controller does: converge, observe, again.
type driver struct {
	t    *testing.T
	host *Host
	uc   *v1alpha1.UserCluster
	// prover asks the API servers.
	prover *controlplane.Prover
}

// cp opens the control plane, each time again as a controller does.
func (d *driver) cp() *ControlPlane { return d.host.ControlPlane(d.uc) }

// patience is how long a test waits for what must come: long enough for a machine that is busy with other things.
const patience = 5 * time.Minute

// until repeats Converge until the observed state satisfies done.
func (d *driver) until(
	what string, target controlplane.Target, keys []keystore.KeyPair, done func(controlplane.State) bool,
) controlplane.State {
	d.t.Helper()
	var state controlplane.State
	begin := time.Now()
	for time.Since(begin) < patience {
		if err := d.cp().Converge(d.t.Context(), target, keys); err != nil {
			d.t.Fatalf("%s: %v", what, err)
		}
		var err error
		if state, err = d.cp().Observe(d.t.Context()); err != nil {
			d.t.Fatalf("%s: %v", what, err)
		}
		if done(state) {
			d.t.Logf("%s: %.1f s", what, time.Since(begin).Seconds())
			return state
		}
		time.Sleep(100 * time.Millisecond)
	}
	d.t.Fatalf("%s: not within %s; last state: %+v", what, patience, state)
	return state
}

// give takes the API servers out one by one and gives them keys.
func (d *driver) give(what string, want controlplane.Keys, sign int, keys ...keystore.KeyPair) {
	d.t.Helper()
	for i := range int(d.uc.Spec.Infrastructure.Local.ControlPlane.Replicas) {
		target := controlplane.Target{Keys: want, Next: apiServerName(i), ControllerManagerSign: sign}
		d.until(what+" at "+target.Next, target, keys, func(s controlplane.State) bool {
			d.wantPhases(s)
			return ready(s) && s.Servers[i].Running.Equal(want)
		})
	}
}

// wantPhases fails the test if what an intended restart waits for is more than a phase, of which there are few.
func (d *driver) wantPhases(s controlplane.State) {
	d.t.Helper()
	waiting := map[string]string{}
	for _, x := range s.Servers {
		waiting[x.Name] = x.Waiting
	}
	for _, m := range s.ControllerManagers {
		waiting[m.Name] = m.Waiting
	}
	for name, w := range waiting {
		switch w {
		case "", phaseStopping, phaseStarting, phaseUnused, "has ended as it was told to":
		default:
			if !strings.HasPrefix(w, "not ready (") { // a busy machine may take long
				d.t.Errorf("%s: %s", name, w)
			}
		}
	}
}

func ready(s controlplane.State) bool {
	if len(s.Servers) == 0 || s.Waiting != "" {
		return false
	}
	for _, x := range s.Servers {
		if !x.Ready {
			return false
		}
	}
	for _, m := range s.ControllerManagers {
		if !m.Ready || m.Running != m.Configured {
			return false
		}
	}
	return true
}

func (d *driver) delete() {
	d.t.Helper()
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(50 * time.Millisecond) {
		gone, err := d.cp().Delete(context.Background())
		if err != nil {
			d.t.Errorf("deleting: %v", err)
			return
		}
		if gone {
			return
		}
	}
	d.t.Error("control plane was not deleted within a minute")
}

// processesOf finds the processes whose command line names a directory.
func processesOf(t *testing.T, dir string) (found []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range lines {
		if raw, err := os.ReadFile(f); err == nil && bytes.Contains(raw, []byte(dir)) {
			found = append(found, strings.ReplaceAll(string(raw), "\x00", " "))
		}
	}
	return found
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
		_, err := client.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
		return err
	})
	t.Cleanup(func() { stop(); l.done.Wait() })
	return l
}

// mustAllSucceed fails the test if a request failed since the last look, other than for the given reason. It waits until there
// were enough of them to tell.
func (l *load) mustAllSucceed(t *testing.T, but ...string) {
	t.Helper()
	const enough = 100
	for begin := time.Now(); l.count() < enough; time.Sleep(20 * time.Millisecond) {
		if time.Since(begin) > patience {
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

func (d *driver) client(server string) *kubernetes.Clientset {
	d.t.Helper()
	cfg, err := d.cp().Config(d.t.Context(), server)
	if err != nil {
		d.t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		d.t.Fatal(err)
	}
	return client
}

// issue lets an API server sign a token.
func (d *driver) issue(server string) string {
	d.t.Helper()
	seconds := int64(3600)
	// The ServiceAccount is there once a kube-controller-manager made it.
	var last error
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(100 * time.Millisecond) {
		r, err := d.client(server).CoreV1().ServiceAccounts("default").CreateToken(d.t.Context(), "default",
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
		if err == nil {
			return r.Status.Token
		}
		last = err
	}
	d.t.Fatalf("issuing a token at %s: %v", server, last)
	return ""
}

// accepts asks one API server about a token.
func (d *driver) accepts(server, token string) bool {
	d.t.Helper()
	r, err := d.client(server).AuthenticationV1().TokenReviews().Create(d.t.Context(),
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		d.t.Fatalf("reviewing a token at %s: %v", server, err)
	}
	return r.Status.Authenticated
}

func (d *driver) kill(process string) {
	d.t.Helper()
	site, _, err := d.host.Site(SiteName(d.uc))
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.host.Runner(site).Signal(process, syscall.SIGKILL); err != nil {
		d.t.Fatal(err)
	}
}

func TestKeysChangeServerByServer(t *testing.T) {
	d := newDriver(t, testHost(t), testCluster("alpha", 3))
	one, two := testKey(t, 1), testKey(t, 2)
	first := controlplane.Keys{Verify: []int{1}, Sign: 1}
	d.until("creation", controlplane.Target{Keys: first, ControllerManagerSign: 1}, []keystore.KeyPair{one}, ready)
	old := d.issue("apiserver-0")

	cfg, err := d.cp().Config(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	clients := startLoad(t, cfg)
	both := controlplane.Keys{Verify: []int{1, 2}, Sign: 1}
	d.give("publish", both, 1, one, two)
	clients.mustAllSucceed(t)
	d.survive(both, one, two)
	clients.take() // a killed API server does not end the requests that it has
	d.give("switch", controlplane.Keys{Verify: []int{1, 2}, Sign: 2}, 1, one, two)
	d.give("retire", controlplane.Keys{Verify: []int{2}, Sign: 2}, 2, two)
	clients.mustAllSucceed(t)

	fresh := d.issue("apiserver-1")
	for i := range 3 {
		if server := apiServerName(i); d.accepts(server, old) || !d.accepts(server, fresh) {
			t.Errorf("%s accepts the old key or refuses the new one", server)
		}
	}
	if left := filesNamed(t, d.host.DataDir(), "sa-1."); len(left) > 0 {
		t.Errorf("old keys left: %v", left)
	}
	d.checkIdentities(3)
}

func newDriver(t *testing.T, h *Host, uc *v1alpha1.UserCluster) *driver {
	d := &driver{t: t, host: h, uc: uc, prover: &controlplane.Prover{}}
	t.Cleanup(func() {
		d.delete()
		if left := processesOf(t, h.DataDir()); len(left) > 0 {
			t.Errorf("processes left: %q", left)
		}
		if entries, err := os.ReadDir(filepath.Join(h.DataDir(), "clusters")); err != nil || len(entries) > 0 {
			t.Errorf("files left: %v, %v", entries, err)
		}
	})
	return d
}

// survive kills what a control plane is made of, and goes on as a controller that was killed too: it adopts what runs and starts
// again what does not, with the keys that it is configured with.
func (d *driver) survive(keys controlplane.Keys, pairs ...keystore.KeyPair) {
	d.t.Helper()
	before := d.pid(apiServerName(0))
	for _, name := range []string{"etcd", loadBalancerName, apiServerName(1), managerName(0), schedulerName(1)} {
		d.kill(name)
	}
	p, _ := d.plane("")
	records := []string{p.apiServerKeys(0).Dir, p.managerKeys(1).Dir} // of processes that run
	for _, dir := range records {
		if err := os.Remove(filepath.Join(dir, "configured.json")); err != nil {
			d.t.Fatal(err)
		}
	}
	h, err := New(Options{DataDir: d.host.dataDir, KubeBinDir: d.host.binDir, Network: d.host.network, Loopback: true})
	if err != nil {
		d.t.Fatal(err)
	}
	d.host = h
	target := controlplane.Target{Keys: keys, ControllerManagerSign: 1}
	state := d.until("recovery", target, pairs, ready)
	for _, s := range state.Servers {
		if !s.Running.Equal(keys) || !s.Configured.Equal(keys) {
			d.t.Errorf("%s was given %v and runs with %v", s.Name, s.Configured, s.Running)
		}
	}
	for _, dir := range records {
		if _, err := os.Stat(filepath.Join(dir, "configured.json")); err != nil {
			d.t.Errorf("what a process runs with was not written again: %v", err)
		}
	}
	if after := d.pid(apiServerName(0)); after != before {
		d.t.Errorf("apiserver-0 was not adopted: its pid was %d and is %d", before, after)
	}
}

func (d *driver) pid(process string) int {
	d.t.Helper()
	site, _, err := d.host.Site(SiteName(d.uc))
	if err != nil {
		d.t.Fatal(err)
	}
	st, err := d.host.Runner(site).Observe(process)
	if err != nil {
		d.t.Fatal(err)
	}
	return st.PID
}

func TestControlPlaneOnABridge(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("bridges need root")
	}
	h := testHost(t)
	h.loopback = false
	d := newDriver(t, h, testCluster("bridged", 1))
	key := testKey(t, 1)
	target := controlplane.Target{Keys: controlplane.Keys{Verify: []int{1}, Sign: 1}, ControllerManagerSign: 1}
	state := d.until("creation", target, []keystore.KeyPair{key}, ready)
	slice, err := d.client("").DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	site, _, err := h.Site(SiteName(d.uc))
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
	if state.Home == "" || state.Home != h.ID() {
		t.Errorf("its home is %q, that of the host %q", state.Home, h.ID())
	}
	d.delete()
	if _, err := net.InterfaceByName(site.Bridge()); err == nil {
		t.Errorf("bridge %s is left", site.Bridge())
	}
}

func filesNamed(t *testing.T, dir, prefix string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(e.Name(), prefix) {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
