package kubeadm

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/agent/manifest"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/keystore/keystoretest"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/internal/signer/signercmd"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/signer/ledger"
	"github.com/keyturn/keyturn/token"
)

// host is a control-plane node: its files, the real agent, and a kube-apiserver that reads what it starts with.
type host struct {
	t    *testing.T
	name string
	agent.Agent
	// manifest is the one that kube-apiserver runs with; served and accepted are what it has of it.
	manifest string
	served   controlplane.Served
	manager  string
	// lag is how many looks ago kube-controller-manager was started again, while its mirror pod shows the mark of
	// before. At the first of them the agent does not answer, and at the third the mirror pod is gone.
	lag int
	// woken is how often its kubelet was woken.
	woken int
	// down is for how many more looks it does not answer after a restart, and theirs means that others restarted it.
	// broken has it never come up with other keys.
	down     int
	theirs   bool
	broken   bool
	restarts int
	// mute has its agent never run, and off its API server neither.
	mute, off bool
	// unlabelled means that its node lacks the label of the control plane, so that it has no agent.
	unlabelled bool
	// leaving means that its machine is being deleted, and listed that pods reach its API server.
	leaving, listed bool
	// address is its address; empty means one that no other host has.
	address string
	// original is the manifest of kube-apiserver as kubeadm made it. unmarked means that kube-controller-manager was
	// started by others since, with the sa.key of then.
	original string
	unmarked bool
	// deaf has the kubelet miss the next change of the manifest.
	deaf bool
	// upgrade is the manifest of kube-apiserver and the mark of kube-controller-manager that ran when kubeadm wrote
	// others, as long as the kubelet has not run those.
	upgrade struct{ server, manager string }
	// slow has the kubelet run no manifest that changes, and unpullable get no image of the signer.
	slow, unpullable bool
	// text is the log of kube-apiserver.
	text string
	stop func()
}

// cluster is a control plane of hosts, as a plane and as agents.
type testCluster struct {
	driver
	hosts []*host
	memo  *memory
	clock time.Time
	asked bool
	// unsigned means that the controller has no image of the signer.
	unsigned bool
	// turn is the turn of its agents.
	turn int64
	// silent has no agent answer whose API server is away.
	silent bool
	// led is what no component leads, in words.
	led string
	// lagging means that tokens may be refused, since a node came back with a retired key.
	lagging bool
	// own means that Keyturn runs in the cluster: an API server without the newest key refuses its token.
	own bool
	// upload is what kubeadm has uploaded for nodes that join; nil: nothing. dropped is when it was deleted.
	// droppedFor is at which stage all API servers were then.
	upload     *upload
	dropped    time.Time
	droppedFor int
	uploading  sync.Mutex
	// meet is waited for by every order that changes keys; nil: none waits.
	meet func(context.Context) error
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func newTestCluster(t *testing.T, names ...string) *testCluster {
	t.Helper()
	w := &testCluster{memo: &memory{nodes: map[string]nodeMemory{}}, clock: time.Unix(1000, 0)}
	w.driver = driver{t: t, store: &keystoretest.Memory{}, uc: &v1alpha1.UserCluster{}, open: w.adapter}
	w.driver.prove = func(_ *Cluster, server string, keys []keystore.KeyPair) (controlplane.Proof, error) {
		return w.prove(t.Context(), Server{Node: server}, controlplane.Question{Keys: keys})
	}
	w.uc.Namespace, w.uc.Name, w.uc.UID = "keys", "prod", "uid-1"
	w.uc.Spec.Infrastructure.Kubeadm = &v1alpha1.KubeadmInfrastructure{ShutdownSendRetryAfter: true}
	w.uc.Spec.KSASigningKey.Version = 1
	first := must(token.GenerateKey(rand.Reader, jwks.ES384))
	for _, name := range names {
		w.join(name, must(token.MarshalPrivateKey(first)), must(jwks.MarshalPublicKey(first.Public())))
	}
	return w
}

// join adds a node with these files, as kubeadm leaves it.
func (w *testCluster) join(name string, private, public []byte) *host {
	dir := must(os.MkdirTemp("", "kt")) // not in t.TempDir: the path of a socket is short
	w.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	h := &host{t: w.t, name: name, stop: func() {}, Agent: agent.Agent{
		PKI: dir + "/pki", Manifests: dir + "/manifests", StateDir: dir + "/keyturn",
		PodUID: "pod-" + name, Key: must(agent.NewPrivateKey()),
	}}
	w.t.Cleanup(func() { h.stop() })
	for _, path := range []string{h.PKI, h.Manifests, h.StateDir} {
		must(0, os.Mkdir(path, 0o755))
	}
	h.write(h.PKI+"/sa.pub", public)
	h.write(h.PKI+"/sa.key", private)
	text := string(must(os.ReadFile("../../agent/manifest/testdata/kubeadm-1.36.yaml")))
	h.original = strings.ReplaceAll(text, "/etc/kubernetes/pki", h.PKI)
	h.write(h.Manifests+"/kube-apiserver.yaml", []byte(h.original))
	h.write(h.Manifests+"/kube-controller-manager.yaml", []byte(managerManifest))
	w.hosts = append(w.hosts, h)
	h.kubelet()
	h.down, h.restarts = 0, 0
	return h
}

const managerManifest = `apiVersion: v1
kind: Pod
metadata:
  name: kube-controller-manager
spec:
  containers:
  - command:
    - kube-controller-manager
    name: kube-controller-manager
`

func (h *host) write(path string, content []byte) { must(0, os.WriteFile(path, content, 0o600)) }

func (h *host) read(path string) string { return string(must(os.ReadFile(path))) }

// kubelet starts what changed: kube-apiserver, its signer, and kube-controller-manager.
func (h *host) kubelet() {
	h.runSigner()
	if text := h.read(h.Manifests + "/kube-apiserver.yaml"); text != h.manifest && !h.slow {
		h.manifest = text
		if h.deaf {
			h.deaf = false
			return
		}
		h.down, h.restarts, h.upgrade.server = 5, h.restarts+1, ""
		h.served.External = strings.Contains(text, "--service-account-signing-endpoint")
		if !h.served.External {
			h.served.Keys, h.served.SigningKeyID = h.files()
		}
	}
	if h.served.External {
		h.served.Keys, h.served.SigningKeyID = h.signer()
	}
	switch mark := h.managerMark(); {
	case mark == h.manager:
		h.lag = 0
	case h.lag < 4:
		h.lag++
	default:
		h.manager, h.upgrade.manager = mark, ""
	}
}

// managerMark is the mark in the manifest of kube-controller-manager.
func (h *host) managerMark() string {
	m := must(manifest.ParseOf(manifest.Manager, []byte(h.read(h.Manifests+"/kube-controller-manager.yaml"))))
	mark, _ := m.Annotation(manifest.RestartAnnotation)
	return mark
}

// runSigner runs the signer while its manifest is there.
func (h *host) runSigner() {
	text, err := os.ReadFile(h.Manifests + "/keyturn-signer.yaml")
	switch running := h.served.IssuedAt != (time.Time{}); {
	case err != nil && running:
		h.stop()
		h.stop, h.served.IssuedAt = func() {}, time.Time{}
	case err == nil && !running && !h.unpullable:
		var pod corev1.Pod
		must(0, yaml.UnmarshalStrict(text, &pod))
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			signercmd.Run(ctx, append(pod.Spec.Containers[0].Args, "--supervise=false"), nil, &bytes.Buffer{})
		})
		h.stop = func() { cancel(); wg.Wait() }
		for tick := time.Tick(10 * time.Millisecond); ; <-tick {
			if conn, err := net.Dial("unix", h.StateDir+"/signer/socket"); err == nil {
				must(0, conn.Close())
				break
			}
		}
		h.served.IssuedAt = time.Unix(1, 0)
	}
}

// files are the keys in sa.pub, and the kid of sa.key.
func (h *host) files() (jwks.Set, string) {
	var keys []jwks.Key
	for block := range strings.SplitAfterSeq(h.read(h.PKI+"/sa.pub"), "-----END PUBLIC KEY-----\n") {
		if strings.TrimSpace(block) != "" {
			keys = append(keys, must(jwks.NewKey(must(jwks.ParsePublicKey([]byte(block))))))
		}
	}
	private := must(token.ParsePrivateKey([]byte(h.read(h.PKI + "/sa.key"))))
	return must(jwks.NewSet(keys...)), must(jwks.KeyID(private.Public()))
}

// signer are the keys that the signer has.
func (h *host) signer() (jwks.Set, string) {
	set, _, err := keydir.Read(h.StateDir + "/keys")
	must(0, err)
	defer set.Wipe()
	var keys []jwks.Key
	signs := ""
	for _, k := range set.Keys {
		key := must(jwks.NewKey(k.Public))
		if keys = append(keys, key); k.Version == set.SigningVersion {
			signs = key.KeyID
		}
	}
	return must(jwks.NewSet(keys...)), signs
}

func (w *testCluster) host(name string) *host {
	i := slices.IndexFunc(w.hosts, func(h *host) bool { return h.name == name })
	return w.hosts[i]
}

func (w *testCluster) find(context.Context) (f Found, err error) {
	for _, h := range w.hosts {
		if !h.off {
			h.kubelet()
		}
		running, err := manifest.Parse([]byte(h.manifest))
		s := Server{
			Node: h.name, Address: cmp.Or(h.address, h.name), Port: securePort, Leaving: h.leaving, Listed: h.listed,
			Unlabelled: h.unlabelled,
		}
		if h.unlabelled {
			s.Waiting = unlabelled(h.name)
		}
		if err == nil {
			s.Mark, _ = running.Annotation(manifest.RestartAnnotation)
			for _, value := range running.Flag("service-account-signing-key-file") {
				s.SignFile = strings.Replace(value, h.PKI, v1alpha1.DefaultCertificatesDir, 1)
			}
			for _, value := range running.Flag("service-account-key-file") {
				s.VerifyFiles = append(s.VerifyFiles, strings.Replace(value, h.PKI, v1alpha1.DefaultCertificatesDir, 1))
			}
		}
		if h.served.External {
			s.SignerSocket = signerSocket
		}
		f.Servers = append(f.Servers, s)
		if h.lag != 3 {
			f.Managers = append(f.Managers, Manager{h.name, h.manager})
		}
	}
	if len(w.hosts) == 1 && w.hosts[0].down > 0 {
		w.hosts[0].down--
		return Found{}, errors.New("connection refused")
	}
	return f, nil
}

func (w *testCluster) served(_ context.Context, s Server) (controlplane.Served, error) {
	h := w.host(s.Node)
	if h.down > 0 || h.off || h.broken && h.restarts > 0 {
		h.down = max(0, h.down-1)
		return controlplane.Served{}, errors.New("connection refused")
	}
	if w.own {
		keys := w.keys()
		if _, ok := h.served.Keys.Lookup(keys[len(keys)-1].KeyID); !ok {
			return controlplane.Served{}, errors.New("Unauthorized")
		}
	}
	served := h.served
	served.IssuedAt = time.Unix(1000, 0)
	return served, nil
}

func (w *testCluster) prove(_ context.Context, s Server, q controlplane.Question) (p controlplane.Proof, err error) {
	h := w.host(s.Node)
	p.SigningKeyID = h.served.SigningKeyID
	for _, k := range q.Keys {
		if _, ok := h.served.Keys.Lookup(k.KeyID); ok {
			p.Accepts = append(p.Accepts, k.Version)
		} else {
			p.Refuses = append(p.Refuses, k.Version)
		}
		if k.KeyID == p.SigningKeyID {
			p.Signs = k.Version
		}
	}
	for _, k := range h.served.Keys.Keys() {
		if !slices.ContainsFunc(q.Keys, func(asked keystore.KeyPair) bool { return asked.KeyID == k.KeyID }) {
			p.Foreign = append(p.Foreign, k.KeyID)
		}
	}
	return p, nil
}

func (w *testCluster) leaders(context.Context, time.Time) (string, error) { return w.led, nil }

func (w *testCluster) lastLog(_ context.Context, node string) (string, error) {
	if text := w.host(node).text; text != "" {
		return text, nil
	}
	return "", errors.New("the kubelet does not answer")
}

func (w *testCluster) wake(_ context.Context, node string, _ time.Time) error {
	w.host(node).woken++
	return nil
}

func (w *testCluster) ledger(_ context.Context, node string) (r ledger.Report, err error) {
	var stdout, stderr bytes.Buffer
	file := w.host(node).StateDir + "/signer/ledger"
	if code := signercmd.Ledger([]string{"--ledger-file=" + file}, &stdout, &stderr); code != 0 {
		return r, errors.New(stderr.String())
	}
	return r, json.Unmarshal(stdout.Bytes(), &r)
}

func (w *testCluster) list(context.Context) (roster, error) {
	r := roster{
		asked: w.asked, ready: map[string]pod{}, signers: map[string]string{}, turn: w.turn,
		dropped: w.dropped, droppedFor: w.droppedFor,
	}
	for _, h := range w.hosts {
		if _, err := os.Stat(h.Manifests + "/keyturn-signer.yaml"); err == nil && h.unpullable {
			r.signers[h.name] = "pod agents/keyturn-signer-" + h.name + ": ImagePullBackOff: no such image"
		}
		away := h.down > 0 && (w.silent || len(w.hosts) == 1)
		if w.asked && !away && h.lag != 1 && !h.mute && !h.off && !h.unlabelled {
			r.ready[h.name] = pod{h.name, h.Instance()}
		}
	}
	return r, nil
}

func (w *testCluster) take(_ context.Context, was, next int64) error {
	if w.turn != was {
		return errTaken
	}
	w.turn = next
	return nil
}

func (w *testCluster) ensure(context.Context) error { w.asked = true; return nil }

func (w *testCluster) dismiss(_ context.Context, seen roster) error {
	if w.turn != seen.turn {
		return errTaken
	}
	w.asked = false
	return nil
}

func (w *testCluster) remove(context.Context) (bool, error) {
	gone := !w.asked
	w.asked = false
	return gone, nil
}

func (w *testCluster) apply(ctx context.Context, p pod, o agent.Order) (agent.Report, error) {
	if w.meet != nil && o.Do == agent.Converge {
		if err := w.meet(ctx); err != nil {
			return agent.Report{}, err
		}
	}
	return w.host(p.name).Apply(ctx, o), nil
}

// adapter opens the cluster as a controller does in each round.
func (w *testCluster) adapter() *Cluster {
	images := Images{Agent: "agent", Signer: "signer:v1", Namespace: "agents"}
	if w.unsigned {
		images.Signer = ""
	}
	return &Cluster{
		uc: w.uc, store: w.store, memory: w.memo, images: images,
		open: func(context.Context) (plane, agents, error) { return w, w, nil },
		now:  func() time.Time { return w.clock },
	}
}

// check holds what must be true at any instant.
func (w *testCluster) check() {
	w.t.Helper()
	out := 0
	for _, h := range w.hosts {
		if h.off {
			continue
		}
		if h.down > 0 && !h.theirs {
			out++
		}
		h.checkUpgrade()
		if h.theirs = h.theirs && (h.down > 0 || h.manifest == ""); h.down > 0 {
			continue
		}
		for _, other := range w.hosts {
			if _, ok := other.served.Keys.Lookup(h.served.SigningKeyID); !ok && other.down == 0 && !other.off && !w.lagging {
				w.t.Errorf("the API server on %s refuses the tokens of the one on %s", other.name, h.name)
			}
		}
	}
	if out > 1 && !w.lagging {
		w.t.Errorf("%d API servers are out", out)
	}
}

// settle does rounds until nothing is left to do.
func (w *testCluster) settle() {
	w.t.Helper()
	for range 400 {
		d := w.round()
		if w.check(); d.Settled && !w.asked {
			w.forward()
			return
		}
	}
	w.t.Fatalf("it does not settle:\n%s", strings.Join(w.log, "\n"))
}

// forward wants no step of the rotation to come back.
func (w *testCluster) forward() {
	w.t.Helper()
	steps := []string{"Generate", "Publish", "Switch", "Refresh", "Retire"}
	last := -1
	for _, line := range w.log {
		step, _, _ := strings.Cut(line, " ")
		at := slices.Index(steps, step)
		if at >= 0 && at < last {
			w.t.Errorf("a step comes back:\n%s", strings.Join(w.log, "\n"))
			return
		}
		last = max(last, at)
	}
	w.log = nil
}

// have wants all API servers to have one key version, and the files to be in step.
func (w *testCluster) have(version int, external bool) {
	w.t.Helper()
	keys := w.keys()
	if len(keys) != 1 || keys[0].Version != version {
		w.t.Fatalf("stored are %v", keys)
	}
	for _, h := range w.hosts {
		set, signs := h.files()
		if h.served.SigningKeyID != keys[0].KeyID || h.served.Keys.Len() != 1 || h.served.External != external ||
			signs != keys[0].KeyID || set.Len() != 1 {
			w.t.Errorf("node %s has %+v, and files %v %s", h.name, h.served, set, signs)
		}
		if mark := agent.MarkedKid(h.manager); version > 1 && mark != keys[0].KeyID && !h.unmarked {
			w.t.Errorf("kube-controller-manager of node %s has the mark %q", h.name, mark)
		}
	}
}

// TestOrdersAtOnce has the orders of a change that restarts nothing wait for each other.
func TestOrdersAtOnce(t *testing.T) {
	w := newTestCluster(t, "a", "b", "c")
	w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	w.until("agents", func() bool { return w.asked })
	alone := errors.New("the others have not come")
	var mu sync.Mutex
	came, all := 0, make(chan struct{})
	w.meet = func(ctx context.Context) error {
		mu.Lock()
		if came++; came == len(w.hosts) {
			close(all)
		}
		mu.Unlock()
		ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
		defer cancel()
		select {
		case <-all:
			return nil
		case <-ctx.Done():
			return alone
		}
	}
	d := w.round()
	if d.Step != rotation.StepPublish || !d.Action.Target.Live || strings.Contains(d.Waiting, alone.Error()) {
		t.Errorf("%d orders came in step %s: %s", came, d.Step, d.Waiting)
	}
	w.settle()
	w.have(2, true)
}

// TestUnled has no component lead. Keys are changed all the while where that restarts no API server.
func TestUnled(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.settle()
	w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	w.settle()
	w.led, w.uc.Spec.KSASigningKey.Version = "kube-scheduler to hold its lease", 2
	w.settle()
	w.have(2, true)
	w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceFiles
	w.restarts()
	var d rotation.Decision
	for range 80 {
		d = w.round()
	}
	if d.Waiting != w.led || d.Settled {
		t.Errorf("after the restarts: %+v", d)
	}
	w.led = ""
	w.settle()
	w.have(2, false)
}

// TestAgentsLinger keeps agents for Retire, and removes them from a Refresh that takes long.
func TestAgentsLinger(t *testing.T) {
	w := newTestCluster(t, "a")
	w.settle()
	w.uc.Spec.KSASigningKey.Version, w.slow = 2, true
	rounds := func() {
		for range 60 {
			w.round()
		}
	}
	rounds()
	if !w.asked || w.hosts[0].served.SigningKeyID != w.keys()[1].KeyID {
		t.Fatal("there are no agents in Refresh")
	}
	w.clock = w.clock.Add(lingering)
	if rounds(); w.asked {
		t.Error("the agents stay")
	}
	w.slow = false
	w.settle()
	w.have(2, false)
}

// TestSilentAgent has the agent of a node not answer when the last change of its API server is ready. The agents stay,
// and the old key is stored, until it has settled the change and deleted its copies of that key.
func TestSilentAgent(t *testing.T) {
	w := newTestCluster(t, "a", "b", "c")
	w.settle()
	c := w.host("c")
	c.write(c.PKI+"/sa.key.bak", []byte(c.read(c.PKI+"/sa.key")))
	w.uc.Spec.KSASigningKey.Version = 2
	w.until("the last restart", func() bool {
		w.round()
		return c.restarts == 3
	})
	c.mute = true
	var d rotation.Decision
	for range 40 {
		d = w.round()
		w.check()
	}
	if !w.asked || d.Done || len(w.keys()) != 2 || !strings.Contains(d.Waiting, "keyturn-agent on node c to take orders") {
		t.Errorf("agents are there: %t; keys: %v; it waits for %s", w.asked, w.keys(), d.Waiting)
	}
	c.mute = false
	w.settle()
	w.have(2, false)
	for _, file := range []string{c.PKI + "/sa.key.bak", c.StateDir + "/agent/undo.json"} {
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s is left", file)
		}
	}
}

// TestManagerAway has the mirror pod of kube-controller-manager be gone for a moment while that starts again. It was
// asked to sign with the new key all the while.
func TestManagerAway(t *testing.T) {
	w := newTestCluster(t, "a")
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	h := w.hosts[0]
	for range enough {
		if w.round(); h.lag == 2 {
			break
		}
	}
	h.mute = true // neither its agent nor its mirror pod tells
	state := must(w.adapter().Observe(t.Context()))
	if h.lag != 3 {
		t.Fatal("the mirror pod is there")
	}
	m := state.ControllerManagers
	if len(m) != 1 || m[0].Configured != 2 || m[0].Running != 0 {
		t.Errorf("kube-controller-manager is %+v", m)
	}
	h.mute = false
	w.settle()
	w.have(2, false)
}

func (w *testCluster) restarts() (all []int) {
	for _, h := range w.hosts {
		all = append(all, h.restarts)
		h.restarts = 0
	}
	return all
}

// TestLife adopts a cluster, rotates its key with files, converts it, rotates it with signers, and releases it.
func TestLife(t *testing.T) {
	for _, test := range []struct {
		names  []string
		silent bool
	}{{[]string{"a"}, false}, {[]string{"a", "b", "c"}, false}, {[]string{"a", "b", "c"}, true}} {
		t.Run(fmt.Sprintf("%d servers, silent %t", len(test.names), test.silent), func(t *testing.T) {
			w := newTestCluster(t, test.names...)
			w.silent = test.silent
			before := w.hosts[0].manifest
			w.settle()
			w.have(1, false)
			if r := w.restarts(); slices.Max(r) != 0 {
				t.Errorf("adoption restarted API servers: %v", r)
			}

			w.uc.Spec.KSASigningKey.Version = 2
			w.settle()
			w.have(2, false)
			if r := w.restarts(); slices.Min(r) != 3 || slices.Max(r) != 3 {
				t.Errorf("a rotation with files restarted API servers: %v", r)
			}

			w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
			w.settle()
			w.have(2, true)
			w.restarts()
			w.uc.Spec.KSASigningKey.Version = 3
			w.settle()
			w.have(3, true)
			if r := w.restarts(); slices.Max(r) != 0 {
				t.Errorf("a rotation with signers restarted API servers: %v", r)
			}
			for _, h := range w.hosts {
				if h.woken == 0 {
					t.Errorf("the kubelet of node %s was left to start kube-controller-manager in its own time", h.name)
				}
			}

			w.release()
			w.have(3, false)
			for _, h := range w.hosts {
				left := must(os.ReadDir(h.StateDir + "/agent"))
				if _, err := os.Stat(h.Manifests + "/keyturn-signer.yaml"); err == nil || len(left) > 0 {
					t.Errorf("node %s is not released: %v", h.name, left)
				}
			}
			if got := withoutAnnotation(w.hosts[0]); got != before {
				t.Errorf("the manifest is another one:\n%s\nbefore:\n%s", got, before)
			}
		})
	}
}

// withoutAnnotation is the manifest but for the annotation that stays.
func withoutAnnotation(h *host) string {
	m := must(manifest.Parse([]byte(h.manifest)))
	return string(must(m.RemoveAnnotation(manifest.RestartAnnotation)).Text())
}

func (w *testCluster) release() {
	w.t.Helper()
	var last error
	for range 200 {
		gone, err := w.adapter().Delete(w.t.Context())
		if last = err; gone && err == nil {
			return
		}
		w.check()
	}
	w.t.Fatalf("it is not released: %v", last)
}

// TestRestoredNode has a node come back with the key that was retired, from a backup or a stale copy of files.
func TestRestoredNode(t *testing.T) {
	w := newTestCluster(t, "a", "b", "c")
	private, public := []byte(w.hosts[0].read(w.hosts[0].PKI+"/sa.key")), []byte(w.hosts[0].read(w.hosts[0].PKI+"/sa.pub"))
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	w.settle()
	w.hosts = w.hosts[:2]
	w.join("d", private, public)
	w.lagging = true
	w.settle()
	w.have(2, false)
}

// TestUndone has an API server that does not come up with its next keys. The rotation stops, and goes on when it is
// asked to.
func TestUndone(t *testing.T) {
	w := newTestCluster(t, "a", "b", "c")
	w.settle()
	a := w.hosts[0]
	a.broken = true
	w.uc.Spec.KSASigningKey.Version = 2
	for a.restarts == 0 {
		w.round()
	}
	w.clock = w.clock.Add(logInterval)
	a.text = "one\nE0101 \"command failed\"\x1b[31m err=\"no such file\"\n"
	w.round()
	a.text = ""
	w.clock = w.clock.Add(logInterval)
	w.round()
	a.text = "of the process that runs again"
	o := agent.Order{Do: agent.Undo, Cluster: string(w.uc.UID), For: a.Instance()}
	if r := a.Apply(t.Context(), o); r.Answer != agent.Done {
		t.Fatalf("%+v", r)
	}
	a.broken = false
	var d rotation.Decision
	for range 20 {
		d = w.round()
	}
	if !d.Blocked || !strings.Contains(d.Waiting, v1alpha1.AnnotationRetryChange) ||
		!strings.HasSuffix(d.Waiting, `its log ended with: one | E0101 "command failed" [31m err="no such file"`) {
		t.Errorf("it goes on: %+v", d)
	}
	if r := w.restarts(); r[1]+r[2] > 0 {
		t.Errorf("other API servers were restarted: %v", r)
	}
	w.uc.Annotations = map[string]string{v1alpha1.AnnotationRetryChange: "1"}
	w.settle()
	w.have(2, false)
}

// TestSignerThatDoesNotCome has a kubelet not get the image of the signer. The status says so, the turn is taken once, and the
// conversion goes on once the image is there, or is given up.
func TestSignerThatDoesNotCome(t *testing.T) {
	for _, ends := range []string{"the image is there", "files again", "released"} {
		w := newTestCluster(t, "a", "b")
		w.settle()
		w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
		w.host("a").unpullable = true
		told := "which it gets from its signer: the signer does not serve these keys yet; pod agents/keyturn-signer-a: " +
			"ImagePullBackOff: no such image"
		w.until("the reason to be told", func() bool { return strings.HasSuffix(w.round().Waiting, told) })
		turn := w.turn
		for range 20 {
			if d := w.round(); !strings.HasSuffix(d.Waiting, told) || d.Settled {
				t.Fatalf("it waits for %s", d.Waiting)
			}
		}
		if r := w.restarts(); w.turn != turn || slices.Max(r) > 0 {
			t.Errorf("turn %d comes after turn %d, and API servers were restarted: %v", w.turn, turn, r)
		}
		switch ends {
		case "released":
			w.release()
		case "files again":
			w.uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceFiles
			w.settle()
		default:
			w.host("a").unpullable = false
			w.settle()
		}
		w.have(1, ends == "the image is there")
	}
}

// TestIgnored has a kubelet that misses the change of a manifest: it is written once more, after two minutes.
func TestIgnored(t *testing.T) {
	w := newTestCluster(t, "a")
	w.settle()
	w.hosts[0].deaf = true
	w.uc.Spec.KSASigningKey.Version = 2
	for range 20 {
		w.round()
	}
	if r := w.restarts(); r[0] > 0 {
		t.Fatal("the kubelet did not miss it")
	}
	w.clock = w.clock.Add(ignoredFor + time.Second)
	w.settle()
	w.have(2, false)
}

// moreKeyFiles gives the API server of a node a second file with keys, which no agent changes.
func (h *host) moreKeyFiles() {
	file, flag := h.Manifests+"/kube-apiserver.yaml", "    - --service-account-key-file="+h.PKI
	h.write(file, []byte(strings.Replace(h.read(file), flag, flag+"/old.pub\n"+flag, 1)))
	h.restart()
}

// TestUnwritable has an API server read its keys from where the agent does not write. It is not adopted, it is not
// rotated if it was adopted before, and it is released.
func TestUnwritable(t *testing.T) {
	for _, adopted := range []bool{false, true} {
		w := newTestCluster(t, "a", "b")
		if adopted {
			w.settle()
			w.uc.Spec.KSASigningKey.Version = 2
		}
		stored := len(w.keys())
		w.host("b").moreKeyFiles()
		w.until("API servers to be back", func() bool {
			w.round()
			return w.host("b").manifest != "" && w.host("b").down == 0
		})
		w.restarts()
		for range 20 {
			d := w.round()
			if !d.Blocked || !strings.Contains(d.Waiting, "old.pub, /etc/kubernetes/pki/sa.pub: Keyturn changes only") {
				t.Fatalf("with adopted %t, it waits for %s", adopted, d.Waiting)
			}
		}
		if w.release(); len(w.keys()) != stored || slices.Max(w.restarts()) > 0 || w.asked {
			t.Errorf("with adopted %t, keys %v are stored, agents are there: %t", adopted, w.keys(), w.asked)
		}
	}
}

// TestReleaseHalfDone releases a cluster of which the agent has given one node the keys of Publish, and cannot give
// them to the other one.
func TestReleaseHalfDone(t *testing.T) {
	w := newTestCluster(t, "a", "b")
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	w.until("one node to be changed", func() bool { return w.host("a").restarts == 1 })
	w.host("b").moreKeyFiles()
	w.release()
	if keys, _ := w.host("b").files(); keys.Len() != 1 || w.host("b").restarts != 1 {
		t.Errorf("node b has %v, and was started %d times", keys, w.host("b").restarts)
	}
}

// TestLeave ends the agents of a cluster that is not released.
func TestLeave(t *testing.T) {
	w := newTestCluster(t, "a")
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	w.until("agents", func() bool { return w.asked })
	if err := w.adapter().Leave(t.Context()); err != nil || w.asked {
		t.Errorf("agents are there: %t, %v", w.asked, err)
	}
}

// TestUnreadableKeys names what the agent cannot read.
func TestUnreadableKeys(t *testing.T) {
	w := newTestCluster(t, "a")
	w.settle()
	w.uc.Spec.KSASigningKey.Version = 2
	w.until("agents", func() bool { return w.asked })
	a := w.hosts[0]
	before := a.read(a.PKI + "/sa.pub")
	a.write(a.PKI+"/sa.pub", []byte(before+"x"))
	w.until("the file to be named", func() bool {
		return strings.Contains(w.round().Waiting, "reading sa.pub: something in it is not PEM")
	})
	a.write(a.PKI+"/sa.pub", []byte(before))
	w.settle()
	w.have(2, false)
}
