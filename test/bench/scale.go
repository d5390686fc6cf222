package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/test/bench/simulated"
)

// rotatedAtOnce is how many clusters are rotated together, and how many are silent meanwhile.
const rotatedAtOnce = 100

// pollInterval is how often the clusters are counted that have come so far.
const pollInterval = 500 * time.Millisecond

// settleTimeout is how long all clusters together may take to settle.
const settleTimeout = 30 * time.Minute

// Scale is one controller with many clusters, whose control planes are simulated: local ones, or those of Cluster API,
// for which Many and BesideSilent are not measured.
type Scale struct {
	Clusters int `json:"clusters"`
	// Created is how many seconds it took until all were settled.
	Created float64 `json:"createdSeconds"`
	// Window is how many seconds the settled clusters were watched, of which the rest is the average.
	Window float64 `json:"windowSeconds"`
	CPU    float64 `json:"cpuCores"`
	Memory float64 `json:"memoryMiB"`
	// Rounds is how many rounds a cluster had in that time. It is less than the time has intervals, as the clusters were
	// made, and proven, right before.
	Rounds float64 `json:"rounds"`
	// AdminRequests are those to the admin cluster a second, and AdminRequestsPerRound and UserRequests those to it and to
	// one user cluster in a round; zero if there was none.
	AdminRequests         float64 `json:"adminRequestsPerSecond"`
	AdminRequestsPerRound float64 `json:"adminRequestsPerRound"`
	UserRequests          float64 `json:"userRequestsPerRound"`
	// One is how many seconds the rotation of one cluster takes, Many the last of rotatedAtOnce, and BesideSilent that of
	// one while rotatedAtOnce others are silent.
	One          float64 `json:"oneSeconds"`
	Many         float64 `json:"manySeconds"`
	BesideSilent float64 `json:"besideSilentSeconds"`
}

// scaleBench is what one measurement works with.
type scaleBench struct {
	*place
	// count is how many clusters there are, in a namespace, and describe is the infrastructure and key of one.
	count     int
	namespace string
	describe  func(i int) v1alpha1.UserClusterSpec
	// silence has the control plane of one answer nothing.
	silence    func(i int)
	admin      client.Client
	controller process
	metrics    string
	adminHost  string
}

// measureScale measures one controller with many clusters. The API server that holds them is real.
func measureScale(ctx context.Context, p *place, r *Results) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	config, stop, err := kubetest.Launch(kubetest.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	b, err := p.newScale(ctx, config)
	if err != nil {
		return err
	}
	host, err := simulated.Serve(ctx, filepath.Join(p.dir, "simulated"))
	if err != nil {
		return err
	}
	b.count, b.namespace, b.describe = p.clusters, v1alpha1.SystemNamespace, describeLocal
	b.silence = func(i int) { host.Silence(scaleName(i)) }
	end, err := b.startController(ctx, config,
		"--local-endpoint="+host.Endpoint(), "--local-credentials="+host.Credentials())
	if err != nil {
		return err
	}
	defer end()
	s, err := b.measureSettled(ctx)
	if err != nil {
		return err
	}
	if err := b.rotateAll(ctx, s); err != nil {
		return err
	}
	r.Scale = s
	return nil
}

// newScale makes an admin cluster of an API server.
func (p *place) newScale(ctx context.Context, config *rest.Config) (*scaleBench, error) {
	scheme, err := controller.NewScheme()
	if err != nil {
		return nil, err
	}
	admin, err := client.New(config, client.Options{Scheme: scheme})
	if err != nil {
		return nil, err
	}
	at, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	return &scaleBench{place: p, admin: admin, adminHost: at.Host}, install.Apply(ctx, config)
}

// startController starts a controller for the clusters of the admin cluster, and returns what ends it.
func (b *scaleBench) startController(ctx context.Context, config *rest.Config, flags ...string) (end func(), err error) {
	kubeconfig, err := b.controllerKubeconfig(config)
	if err != nil {
		return nil, err
	}
	if b.metrics, err = freeAddress(); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(b.bin, "keyturn-controller"), append(flags, "--kubeconfig="+kubeconfig,
		"--leader-elect=false", "--metrics-bind-address="+b.metrics, "--health-probe-bind-address=0")...)
	log, err := os.Create(filepath.Join(b.dir, "controller.log"))
	if err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	b.controller = process{pid: cmd.Process.Pid}
	return func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = log.Close()
	}, nil
}

// measureSettled creates the clusters and watches them when they are settled.
func (b *scaleBench) measureSettled(ctx context.Context) (s *Scale, err error) {
	s = &Scale{Clusters: b.count}
	if s.Created, err = b.createAll(ctx); err != nil {
		return nil, err
	}
	return s, b.watchSettled(ctx, s)
}

// describeLocal describes a local cluster, whose control plane is simulated.
func describeLocal(int) v1alpha1.UserClusterSpec {
	return v1alpha1.UserClusterSpec{
		Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
			KubernetesVersion: "v" + kubernetesVersion,
			Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
			ControlPlane:      v1alpha1.ControlPlane{Replicas: apiServers},
		}},
		KSASigningKey: v1alpha1.KSASigningKey{
			Version: 1, Source: v1alpha1.KeySourceExternal, Algorithm: v1alpha1.ES256,
		},
	}
}

// controllerKubeconfig lets the controller have its own roles and no others.
func (p *place) controllerKubeconfig(config *rest.Config) (string, error) {
	path := filepath.Join(p.dir, "controller.kubeconfig")
	data, err := kubetest.Kubeconfig(kubetest.AsController(config))
	if err != nil {
		return "", err
	}
	return path, os.WriteFile(path, data, 0o600)
}

// freeAddress is one on loopback where nobody listens.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

func scaleName(i int) string { return fmt.Sprintf("simulated-%d", i) }

// createAll creates all clusters and waits until they are settled.
func (b *scaleBench) createAll(ctx context.Context) (seconds float64, err error) {
	b.say("creating %d clusters with simulated control planes", b.count)
	start := time.Now()
	for i := range b.count {
		uc := &v1alpha1.UserCluster{
			ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: scaleName(i)}, Spec: b.describe(i),
		}
		if err := b.admin.Create(ctx, uc); err != nil {
			return 0, err
		}
	}
	if err := b.await(ctx, b.count, 1); err != nil {
		return 0, err
	}
	return time.Since(start).Seconds(), nil
}

// await waits until so many clusters have finished the rotation to a version, or a later one.
func (b *scaleBench) await(ctx context.Context, count int, version int32) error {
	settled := 0
	all := func(ctx context.Context) (bool, error) {
		list := &v1alpha1.UserClusterList{}
		if err := b.admin.List(ctx, list); err != nil {
			return false, err
		}
		settled = 0
		for i := range list.Items {
			status := list.Items[i].Status
			ready := meta.IsStatusConditionTrue(status.Conditions, v1alpha1.ConditionReady)
			if ready && status.KSASigningKey.TokenVersion >= version && status.KSASigningKey.Step == "" {
				settled++
			}
		}
		return settled >= count, nil
	}
	err := wait.PollUntilContextTimeout(ctx, pollInterval, settleTimeout, true, all)
	if err != nil {
		return fmt.Errorf("waiting for %d clusters to have key version %d: %d have: %w", count, version, settled, err)
	}
	return nil
}

// watchSettled watches the controller while nothing is to be done.
func (b *scaleBench) watchSettled(ctx context.Context, s *Scale) error {
	b.say("watching %d settled clusters for %s", b.count, b.window)
	before, err := b.look(ctx)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(b.window):
	}
	after, err := b.look(ctx)
	if err != nil {
		return err
	}
	s.Window = after.at.Sub(before.at).Seconds()
	s.CPU = (after.cpu - before.cpu).Seconds() / s.Window
	s.AdminRequests = (after.admin - before.admin) / s.Window
	if rounds := after.rounds - before.rounds; rounds > 0 {
		s.Rounds = rounds / float64(b.count)
		s.UserRequests = (after.users - before.users) / rounds
		s.AdminRequestsPerRound = (after.admin - before.admin) / rounds
	}
	s.Memory, err = b.controller.megabytes("VmRSS")
	return err
}

// looked is what a controller has used so far.
type looked struct {
	at           time.Time
	cpu          time.Duration
	admin, users float64
	rounds       float64
}

// look reads the processor time of the controller, and from its metrics how many rounds and requests it has made.
func (b *scaleBench) look(ctx context.Context) (l looked, err error) {
	if l.cpu, err = b.controller.cpu(); err != nil {
		return l, err
	}
	l.at = time.Now()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.metrics+"/metrics", nil)
	if err != nil {
		return l, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return l, err
	}
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), "} ")
		requests := strings.HasPrefix(name, "rest_client_requests_total{")
		rounds := strings.HasPrefix(name, `controller_runtime_reconcile_total{controller="usercluster"`)
		if !ok || !requests && !rounds {
			continue
		}
		var count float64
		if _, err := fmt.Sscan(value, &count); err != nil {
			return l, fmt.Errorf("reading the metrics: %w", err)
		}
		switch {
		case rounds:
			l.rounds += count
		case strings.Contains(name, `host="`+b.adminHost):
			l.admin += count
		default:
			l.users += count
		}
	}
	return l, nil
}

// rotateAll rotates one cluster, then many, and one more beside many that are silent.
func (b *scaleBench) rotateAll(ctx context.Context, s *Scale) (err error) {
	many := min(rotatedAtOnce, (b.count-2)/2)
	b.say("rotating one cluster, then %d, then one beside %d that are silent", many, many)
	if s.One, err = b.rotate(ctx, 0, 1, 1); err != nil {
		return err
	}
	if s.Many, err = b.rotate(ctx, 1, many, 1+many); err != nil {
		return err
	}
	for i := range many {
		b.silence(1 + many + i)
		if err := b.patch(ctx, 1+many+i, `{"metadata":{"annotations":{"example.com/wake":"silent"}}}`); err != nil {
			return err
		}
	}
	s.BesideSilent, err = b.rotate(ctx, 1+2*many, 1, 2+many)
	return err
}

// rotate rotates some clusters at once, and returns when the last was done; done is how many have version 2 then.
func (b *scaleBench) rotate(ctx context.Context, first, count, done int) (seconds float64, err error) {
	start := time.Now()
	for i := range count {
		if err := b.patch(ctx, first+i, `{"spec":{"ksaSigningKey":{"version":2}}}`); err != nil {
			return 0, err
		}
	}
	err = b.await(ctx, done, 2)
	return time.Since(start).Seconds(), err
}

func (b *scaleBench) patch(ctx context.Context, i int, patch string) error {
	uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: scaleName(i)}}
	return b.admin.Patch(ctx, uc, client.RawPatch(types.MergePatchType, []byte(patch)))
}
