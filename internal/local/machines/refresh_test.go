package machines

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/localtest"
	"github.com/keyturn/keyturn/internal/local/machine"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/rollout"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// refreshTest is a cluster whose nodes keep their pods in a rotation to key version 2.
type refreshTest struct {
	*nodeTest
	// old is key version 1, and kids are the key IDs by version.
	old  keystore.KeyPair
	kids map[int32]string
	// switched is when the API server had proven to sign with the next key.
	switched time.Time
	rnd      *rand.Rand
}

// vaultFile is where pods have their third-party token.
const vaultFile = "/var/run/vault/token"

// newRefreshTest brings up a node, which keeps running in a rotation as how says.
func newRefreshTest(t *testing.T, how v1alpha1.NodeRefresh, replicas int32) *refreshTest {
	n := newNodeTest(t)
	r := &refreshTest{nodeTest: n, old: n.key, kids: map[int32]string{}, rnd: rand.New(rand.NewPCG(1, 2))}
	r.UC.Spec.KSASigningKey.NodeRefresh = how
	r.UC.Spec.KSASigningKey.TokenReloadSeconds = 5
	r.pool.Replicas, r.pool.MaxSurge = replicas, 1
	r.UC.Spec.Infrastructure.Local.NodePools = []v1alpha1.NodePool{r.pool}
	r.converge("the nodes", 1, localtest.Patience, nil)
	return r
}

// faulty is a Refresher whose caller dies every now and then, before what it calls for is done or after.
type faulty struct {
	nodes.Refresher
	rnd *rand.Rand
}

var errDied = errors.New("died")

func (f faulty) die(do func() error) error {
	switch f.rnd.IntN(4) {
	case 0:
		return errDied
	case 1:
		return errors.Join(do(), errDied)
	}
	return do()
}

func (f faulty) Remember(ctx context.Context, m nodes.Machine) error {
	return f.die(func() error { return f.Refresher.Remember(ctx, m) })
}

func (f faulty) RestartKubelet(ctx context.Context, name string) error {
	return f.die(func() error { return f.Refresher.RestartKubelet(ctx, name) })
}

// converge has a controller that keeps dying converge until all nodes are of a key version. It tells see what it
// observes.
func (r *refreshTest) converge(what string, keyVersion int, limit time.Duration, see func(nodes.State)) {
	r.Helper()
	last := ""
	begin := time.Now()
	r.within(limit, what, func() error {
		adapter := (&rollout.Rollouts{}).Open(rollout.Cluster{
			Name: r.UC.Name, UID: r.UC.UID, Pools: r.UC.Spec.Infrastructure.Local.NodePools,
			NodeRefresh: r.UC.Spec.KSASigningKey.NodeRefresh,
			TokenReload: time.Duration(r.UC.Spec.KSASigningKey.TokenReloadSeconds) * time.Second,
			Machines:    r.machines, Refresher: faulty{r.machines, r.rnd},
			Client: func(context.Context) (kubernetes.Interface, error) { return r.client, nil },
		})
		keys := nodes.Keys{Next: keyVersion, KeyID: r.kids[int32(keyVersion)], Old: keyVersion - 1, ProvenAt: r.switched}
		if err := adapter.Converge(r.Context(), keys); err != nil && !errors.Is(err, errDied) {
			r.Fatal(err)
		}
		st, err := adapter.Observe(r.Context(), keys)
		if err != nil {
			r.Fatal(err)
		}
		if st.Waiting != last {
			r.Logf("[%5.1fs] %s", time.Since(begin).Seconds(), st.Waiting)
			last = st.Waiting
		}
		if see != nil {
			see(st)
		}
		for _, n := range st.Nodes {
			if !n.Ready || n.KeyVersion != keyVersion {
				return fmt.Errorf("node %+v", n)
			}
		}
		// From here on a controller converges the nodes no more.
		if len(st.Nodes) != int(r.pool.Replicas) || keyVersion == 1 && st.Waiting != "" {
			return fmt.Errorf("state %+v", st)
		}
		return nil
	})
}

// switchKeys has the API server sign with a new key, and accept both.
func (r *refreshTest) switchKeys(old, next keystore.KeyPair) {
	r.Helper()
	for _, k := range []keystore.KeyPair{old, next} {
		id, err := jwks.KeyID(k.Signer.Public())
		if err != nil {
			r.Fatal(err)
		}
		r.kids[int32(k.Version)] = id
	}
	r.Give("key version 2", controlplane.Keys{Verify: []int{1, 2}, Sign: 2}, 2, old, next)
	r.switched = time.Now().Truncate(time.Second) // as the iat of a token that it issues now
}

// server makes a pod that never ends, with a token for the API server and one for somebody else.
func (r *refreshTest) server(name, node string, change func(*corev1.PodSpec)) *corev1.Pod {
	r.Helper()
	seconds := int64(600)
	grace := int64(0)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName: node, TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "caller", Image: callerImage, ImagePullPolicy: corev1.PullNever, Args: []string{"serve"},
				VolumeMounts: []corev1.VolumeMount{{Name: "vault", MountPath: filepath.Dir(vaultFile)}},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 5, ProbeHandler: corev1.ProbeHandler{
					TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(8080)},
				}},
			}},
			Volumes: []corev1.Volume{{Name: "vault", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
					Path: "token", Audience: "vault", ExpirationSeconds: &seconds,
				}}},
			}}}},
		},
	}
	if change != nil {
		change(&pod.Spec)
	}
	r.eventually("creation of pod "+name, func() (err error) {
		_, err = r.client.CoreV1().Pods("default").Create(r.Context(), pod, metav1.CreateOptions{})
		return err
	})
	r.awaitPod(name, corev1.PodRunning)
	pod, err := r.client.CoreV1().Pods("default").Get(r.Context(), name, metav1.GetOptions{})
	if err != nil {
		r.Fatal(err)
	}
	return pod
}

// inPod is what the container of a pod sees: its process, and the kids of its tokens by file.
func (r *refreshTest) inPod(pod *corev1.Pod) (pid int, kids map[string]string) {
	r.Helper()
	for _, p := range r.processesIn(pod.Spec.NodeName, "/caller") {
		environment, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p))
		if strings.Contains("\x00"+string(environment), "\x00HOSTNAME="+pod.Name+"\x00") {
			pid = p
		}
	}
	if pid == 0 {
		r.Fatalf("no container of pod %s", pod.Name)
	}
	kids = map[string]string{}
	for _, file := range []string{"/var/run/secrets/kubernetes.io/serviceaccount/token", vaultFile} {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", pid, file))
		if err != nil {
			r.Fatal(err)
		}
		if kids[file], err = token.KeyID(string(raw)); err != nil {
			r.Fatal(err)
		}
	}
	return pid, kids
}

// has reports whether both tokens that a pod sees are of a key version.
func (r *refreshTest) has(pod *corev1.Pod, version int32) bool {
	r.Helper()
	_, kids := r.inPod(pod)
	for _, kid := range kids {
		if kid != r.kids[version] {
			return false
		}
	}
	return true
}

// wantKept finds that a pod has new tokens, and that nothing else happened to it.
func (r *refreshTest) wantKept(before *corev1.Pod, pid int) {
	r.Helper()
	now, err := r.client.CoreV1().Pods("default").Get(r.Context(), before.Name, metav1.GetOptions{})
	if err != nil {
		r.Fatal(err)
	}
	status := now.Status.ContainerStatuses[0]
	if now.UID != before.UID || status.RestartCount != 0 ||
		status.ContainerID != before.Status.ContainerStatuses[0].ContainerID {
		r.Errorf("pod %s did not stay: %+v", before.Name, status)
	}
	got, kids := r.inPod(before)
	if got != pid {
		r.Errorf("pod %s was process %d, is %d", before.Name, pid, got)
	}
	if !r.has(before, 2) {
		r.Errorf("pod %s has tokens of %v, want %s", before.Name, kids, r.kids[2])
	}
}

// nodeNames are the nodes, by name.
func (r *refreshTest) nodeNames() []string {
	r.Helper()
	list, err := r.machines.List(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	var names []string
	for _, m := range list {
		names = append(names, m.Name)
	}
	return names
}

// remembered is what machine.json says.
func (r *refreshTest) remembered(name string) machine.State {
	r.Helper()
	state, exists, err := r.machines.set.Look(name)
	if err != nil || !exists {
		r.Fatalf("machine %s: %v", name, err)
	}
	return state
}

// watch notes when nodes and pods become ready and not. What it returns ends it and logs them.
func (r *refreshTest) watch() (stop func()) {
	r.Helper()
	ctx, cancel := context.WithCancel(r.Context())
	begin := time.Now()
	var wg sync.WaitGroup
	note := func(w watch.Interface, err error, ready func(watch.Event) (name string, ready corev1.ConditionStatus)) {
		if err != nil {
			r.Fatal(err)
		}
		wg.Go(func() {
			last := map[string]corev1.ConditionStatus{}
			for {
				select {
				case <-ctx.Done():
					w.Stop()
					return
				case e, ok := <-w.ResultChan():
					if !ok {
						return
					}
					name, is := ready(e)
					if before, known := last[name]; known && before != is {
						r.Logf("[%5.1fs] %s: ready is %s", time.Since(begin).Seconds(), name, is)
					}
					last[name] = is
				}
			}
		})
	}
	ns, err := r.client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	note(ns, err, func(e watch.Event) (string, corev1.ConditionStatus) {
		n, _ := e.Object.(*corev1.Node)
		if n == nil {
			return "", ""
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return "node " + n.Name, c.Status
			}
		}
		return "node " + n.Name, ""
	})
	pods, err := r.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	note(pods, err, func(e watch.Event) (string, corev1.ConditionStatus) {
		p, _ := e.Object.(*corev1.Pod)
		if p == nil {
			return "", ""
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady {
				return "pod " + p.Name, c.Status
			}
		}
		return "pod " + p.Name, ""
	})
	return func() { cancel(); wg.Wait() }
}

// The content of a file is described without the token, also when it is none.
func TestTokenIn(t *testing.T) {
	key := localtest.Key(t, 1)
	now := time.Now().Truncate(time.Second).UTC()
	k := token.Kubernetes{Namespace: "ns", ServiceAccount: token.Ref{Name: "app", UID: "uid"}}
	sign := func(warnAfter time.Duration, life time.Duration) string {
		if warnAfter != 0 {
			k.WarnAfter = token.NewNumericDate(now.Add(warnAfter))
		}
		signed, err := token.Sign(nil, key.Signer, "ES256", "the-kid",
			token.NewBoundClaims("https://issuer", []string{"vault"}, k, now, life))
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	plain, extended := sign(0, 10*time.Minute), sign(time.Hour, 365*24*time.Hour)
	tests := []struct {
		content string
		err     error
		want    nodes.Token
	}{
		{plain, nil, nodes.Token{KeyID: "the-kid", IssuedAt: now, RenewBy: now.Add(10 * time.Minute)}},
		{extended + "\n", nil, nodes.Token{KeyID: "the-kid", IssuedAt: now, RenewBy: now.Add(time.Hour)}},
		{"", fs.ErrNotExist, nodes.Token{Missing: true}},
		{"", errors.New("input/output error"), nodes.Token{Problem: "input/output error"}},
		{"", nil, nodes.Token{Problem: "malformed: not three parts"}},
		{plain[:len(plain)/2], nil, nodes.Token{Problem: "malformed: not three parts"}},
		{"x" + plain, nil, nodes.Token{Problem: "malformed: a part is empty or not base64url without padding"}},
	}
	for i, test := range tests {
		got := tokenIn([]byte(test.content), test.err)
		if diff := cmp.Diff(test.want, got); diff != "" && !strings.HasPrefix(got.Problem, "malformed") {
			t.Errorf("%d (-want +got):\n%s", i, diff)
		}
		if (got.Problem == "") != (test.want.Problem == "") || len(got.Problem) > 100 {
			t.Errorf("%d: problem %q", i, got.Problem)
		}
	}
}

// TestRefreshInPlace gives the pods of two nodes new tokens while they run. The controller dies at random moments, and
// a kubelet right after it was restarted.
func TestRefreshInPlace(t *testing.T) {
	r := newRefreshTest(t, v1alpha1.NodeRefreshInPlace, 2)
	names := r.nodeNames()
	pods, pids := map[string]*corev1.Pod{}, map[string]int{}
	for _, name := range names {
		pods[name] = r.server("on-"+name, name, nil)
		pids[name], _ = r.inPod(pods[name])
	}
	r.server("pinned", names[1], func(spec *corev1.PodSpec) {
		spec.Containers[0].VolumeMounts[0] = corev1.VolumeMount{Name: "vault", MountPath: vaultFile, SubPath: "token"}
	})
	r.switchKeys(r.old, localtest.Key(t, 2))
	for _, name := range names {
		if !r.has(pods[name], 1) {
			t.Fatalf("pod on node %s has new tokens before anything was done", name)
		}
	}
	stop := r.watch()
	renewed := map[string]bool{}
	killed, deleted := false, false
	r.converge("new tokens", 2, localtest.Patience, func(st nodes.State) {
		busy := 0
		for _, name := range names {
			m := r.remembered(name)
			if m.Spec.Refresh == nil || renewed[name] {
				continue
			}
			if !killed && !m.Kubelet.IsZero() {
				r.killIn(name, "/opt/keyturn/kubelet")
				killed = true
			}
			if renewed[name] = r.has(pods[name], 2); renewed[name] {
				t.Logf("node %s: all tokens of its pod are new %.1f s after the refresh began, %.1f s after the kubelet that "+
					"runs was started",
					name, time.Since(m.Spec.Refresh.Since).Seconds(), time.Since(m.Kubelet).Seconds())
				continue
			}
			busy++
		}
		if busy > 1 {
			t.Errorf("%d nodes are being refreshed at once", busy)
		}
		if st.Blocked &&
			strings.Contains(st.Waiting,
				"pod default/pinned on node "+names[1]+" to be deleted, which mounts a token of volume vault by subPath") &&
			!deleted {
			deleted = true
			if err := r.client.CoreV1().Pods("default").Delete(r.Context(), "pinned", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	})
	stop()
	if !killed || !deleted {
		t.Errorf("a kubelet was killed: %t; a pod with a subPath was found: %t", killed, deleted)
	}
	for _, name := range names {
		r.wantKept(pods[name], pids[name])
		if got := r.remembered(name).Spec.KeyVersion; got != 2 {
			t.Errorf("machine.json of %s says key version %d", name, got)
		}
		node, err := r.client.CoreV1().Nodes().Get(r.Context(), name, metav1.GetOptions{})
		if err != nil || node.Labels[v1alpha1.LabelKeyVersion] != "2" {
			t.Errorf("node %s is labelled %v, %v", name, node.Labels, err)
		}
	}
	if !slices.Equal(names, r.nodeNames()) {
		t.Errorf("machines were %v, are %v", names, r.nodeNames())
	}
}

// TestRefreshByWaiting leaves it to the kubelet. A token lives ten minutes at least, so this takes as long.
func TestRefreshByWaiting(t *testing.T) {
	if os.Getenv("KEYTURN_TEST_LONG") == "" {
		t.Skip("it takes ten minutes: set KEYTURN_TEST_LONG=1 to run it")
	}
	r := newRefreshTest(t, v1alpha1.NodeRefreshWait, 1)
	name := r.nodeNames()[0]
	pod := r.server("patient", name, func(spec *corev1.PodSpec) { oneShortToken(spec) })
	pid, _ := r.inPod(pod)
	kubelet := r.processIn(name, "/opt/keyturn/kubelet")
	r.switchKeys(r.old, localtest.Key(t, 2))
	if !r.has(pod, 1) {
		t.Fatal("the pod has new tokens before anything was done")
	}
	stop := r.watch()
	r.converge("new tokens", 2, 10*time.Minute+localtest.Patience, nil)
	stop()
	r.wantKept(pod, pid)
	if now := r.processIn(name, "/opt/keyturn/kubelet"); now != kubelet {
		t.Errorf("the kubelet was process %d, is %d", kubelet, now)
	}
}

// oneShortToken has a pod use a token of ten minutes for the API server too.
func oneShortToken(spec *corev1.PodSpec) {
	const name = "api"
	short := *spec.Volumes[0].Projected.Sources[0].ServiceAccountToken
	short.Audience = ""
	no := false
	spec.AutomountServiceAccountToken = &no
	spec.Volumes = append(spec.Volumes, corev1.Volume{Name: name,
		VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
			Sources: []corev1.VolumeProjection{{ServiceAccountToken: &short}},
		}}})
	spec.Containers[0].VolumeMounts = append(spec.Containers[0].VolumeMounts,
		corev1.VolumeMount{Name: name, MountPath: "/var/run/secrets/kubernetes.io/serviceaccount"})
}
