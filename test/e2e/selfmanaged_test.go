package e2e

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
	"github.com/keyturn/keyturn/internal/local/kubeadm/kubeadmtest"
	"github.com/keyturn/keyturn/internal/probe"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// selfManaged is a cluster that kubeadm made, in which Keyturn rotates the keys of the cluster itself.
type selfManaged struct {
	*kubeadmtest.Cluster
	t             *testing.T
	controlPlanes []string
	client        kubernetes.Interface
	admin         client.Client
	// kubeconfig is the path of the administrator's.
	kubeconfig string
	// patience is how long a rotation may take.
	patience time.Duration
	// retired are private keys that may be nowhere in the end.
	retired []crypto.Signer
	// before is what the pods of the probe had seen when the part began, and requester requests tokens meanwhile.
	before    probe.Summary
	requester *requester
}

// newSelfManaged makes a cluster, or starts the one that is kept.
func newSelfManaged(t *testing.T, options kubeadm.Options, controlPlanes, workers int) *selfManaged {
	t.Helper()
	c := kubeadmtest.New(t, options, "keyturn-agent", "keyturn-controller", "keyturn-probe", "keyturn-signer")
	k := &selfManaged{
		Cluster: c, t: t, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), patience: rotateTimeout,
	}
	done := k.stage("making the cluster")
	var names []string
	for i := range controlPlanes {
		names = append(names, "cp-"+string(rune('1'+i)))
		c.Must(c.Start(t.Context(), names[i], kubeadm.ControlPlane))
	}
	k.controlPlanes = slices.Clone(names)
	for i := range workers {
		name := "worker-" + string(rune('1'+i))
		names = append(names, name)
		c.Must(c.Start(t.Context(), name, kubeadm.Worker))
	}
	if _, err := c.Kubeconfig(); errors.Is(err, fs.ErrNotExist) {
		c.Must(c.Init(t.Context(), names[0]))
	}
	fresh := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		_, err := c.ReadFile(name, "/etc/kubernetes/kubelet.conf")
		return err == nil
	})
	isWorker := func(name string) bool { return !slices.Contains(k.controlPlanes, name) }
	c.Must(c.JoinAll(t.Context(), slices.DeleteFunc(slices.Clone(fresh), isWorker),
		slices.DeleteFunc(fresh, func(name string) bool { return !isWorker(name) })))
	k.connect()
	k.awaitNodes(len(names))
	done()
	return k
}

// awaitNodes waits until as many nodes are ready, each of which has renewed its lease since the test began.
func (k *selfManaged) awaitNodes(want int) {
	k.t.Helper()
	began := time.Now()
	k.Eventually("all nodes to be ready", func(ctx context.Context) error {
		leases, err := k.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		nodes, err := k.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		var renewed, ready int
		for _, l := range leases.Items {
			if l.Spec.RenewTime != nil && l.Spec.RenewTime.After(began) {
				renewed++
			}
		}
		for _, n := range nodes.Items {
			if slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
			}) {
				ready++
			}
		}
		if min(renewed, ready) < want {
			return fmt.Errorf("of %d nodes %d are ready, and %d have renewed their leases", want, ready, renewed)
		}
		return nil
	})
}

// part runs a part of the test, which has a name of its own for -run, and shows what the pods of the probe saw of it.
// What comes after a part that failed would only fail for the same reason.
func (k *selfManaged) part(name string, do func()) {
	whole := k.t
	passed := whole.Run(name, func(t *testing.T) {
		k.t, k.Cluster = t, k.Cluster.In(t)
		k.before = k.summary()
		done := k.stage(name)
		stop := k.follow()
		defer stop()
		stopRequesting := k.startRequesting()
		do()
		done()
		stopRequesting()
		k.expectNoRefusals()
	})
	if k.t, k.Cluster = whole, k.Cluster.In(whole); !passed {
		k.t.FailNow()
	}
}

// follow logs each step of a rotation and what it waits for.
func (k *selfManaged) follow() (stop func()) {
	ctx, cancel := context.WithCancel(k.t.Context())
	var done sync.WaitGroup
	began, last := time.Now(), ""
	done.Go(func() {
		for tick := time.NewTicker(time.Second); ctx.Err() == nil; <-tick.C {
			uc, err := k.cluster(ctx)
			if err != nil {
				continue
			}
			key := uc.Status.KSASigningKey
			waiting, _, _ := strings.Cut(key.WaitingFor, ":") // what follows is why, in many ways
			if line := fmt.Sprintf("%s, waiting for %q", key.Step, waiting); line != last {
				k.t.Logf("%4.0f s: %s", time.Since(began).Seconds(), line)
				last = line
			}
		}
	})
	return func() { cancel(); done.Wait() }
}

// connect makes the clients of the administrator.
func (k *selfManaged) connect() {
	k.t.Helper()
	raw, err := k.Kubeconfig()
	k.Must(err)
	k.Must(os.WriteFile(k.kubeconfig, raw, 0o600))
	config, err := k.Config()
	k.Must(err)
	config.QPS = -1
	scheme, err := controller.NewScheme()
	k.Must(err)
	k.client = kubernetes.NewForConfigOrDie(config)
	k.admin, err = client.New(config, client.Options{Scheme: scheme})
	k.Must(err)
}

// stage logs how long something takes.
func (k *selfManaged) stage(what string) (done func()) {
	k.t.Helper()
	began := time.Now()
	return func() {
		k.t.Helper()
		k.t.Logf("%s: %.0f s", what, time.Since(began).Seconds())
	}
}

// install installs the chart, as its documentation has it.
func (k *selfManaged) install() {
	k.t.Helper()
	done := k.stage("installing Keyturn")
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: v1alpha1.SystemNamespace, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "restricted"},
	}}
	k.Must(client.IgnoreAlreadyExists(k.admin.Create(k.t.Context(), namespace)))
	helm := exec.Command("../../bin/tools/helm", "upgrade", "--install", "keyturn", chart,
		"--namespace", v1alpha1.SystemNamespace, "--kubeconfig", k.kubeconfig, "--set", "ownCluster="+v1alpha1.SystemNamespace+"/self")
	if out, err := helm.CombinedOutput(); err != nil {
		k.t.Fatalf("helm install: %v\n%s\nhint: run `make bin/tools/helm`", err, out)
	}
	k.awaitDeployment(v1alpha1.SystemNamespace, "keyturn-controller")
	done()
}

func (k *selfManaged) awaitDeployment(namespace, name string) {
	k.t.Helper()
	k.Eventually("Deployment "+name, func(ctx context.Context) error {
		var d appsv1.Deployment
		err := k.admin.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &d)
		if err == nil && (d.Spec.Replicas == nil || d.Status.AvailableReplicas != *d.Spec.Replicas) {
			err = errors.New("pods are missing")
		}
		return err
	})
}

// startProbe starts pods that use every kind of token, at each API server, all the time.
func (k *selfManaged) startProbe() {
	k.t.Helper()
	var manifests bytes.Buffer
	k.Must(probe.Manifests(&manifests, probe.DefaultDeployment()))
	k.apply(manifests.Bytes())
	k.awaitDeployment("keyturn-probe", "keyturn-probe")
}

// apply creates objects.
func (k *selfManaged) apply(documents []byte) {
	k.t.Helper()
	objects, err := install.Decode(documents)
	k.Must(err)
	for _, o := range objects {
		k.Eventually("creating "+o.GetKind()+" "+o.GetName(), func(ctx context.Context) error {
			return client.IgnoreAlreadyExists(k.admin.Create(ctx, o.DeepCopy()))
		})
	}
}

// summary is what the pods of the probe have seen so far.
func (k *selfManaged) summary() (s probe.Summary) {
	k.t.Helper()
	k.Eventually("the reports of the probe", func(ctx context.Context) error {
		reports, err := probe.Collect(ctx, k.client.CoreV1().ConfigMaps("keyturn-probe"))
		s = probe.Summarize(reports)
		return err
	})
	return s
}

// forgiveRefusals has all refusals so far not count, and shows them.
func (k *selfManaged) forgiveRefusals() {
	k.t.Helper()
	k.requester.forgive(k.t)
	began := time.Now()
	k.Eventually("every pod of the probe to report what it has seen", func(context.Context) error {
		k.before = k.summary()
		for _, p := range k.before.InUse {
			if p.UpdatedAt.Before(began) {
				return fmt.Errorf("pod %s has not", p.Pod)
			}
		}
		return nil
	})
	for _, uses := range k.before.Tokens {
		k.t.Logf("%d %s tokens were refused up to now", uses.Refused, uses.Kind)
	}
}

// expectNoRefusals shows what the probe saw, and what of it since the part began. Uses that nobody answered are no
// refusals.
func (k *selfManaged) expectNoRefusals() {
	k.t.Helper()
	summary := k.summary()
	var table strings.Builder
	k.Must(summary.Print(&table))
	k.t.Logf("what the pods have seen so far:\n%s", table.String())
	if unused := summary.Unused(); len(unused) > 0 {
		k.t.Errorf("tokens were not used: %v", unused)
	}
	for _, uses := range summary.Tokens {
		i := slices.IndexFunc(k.before.Tokens, func(u probe.TokenUses) bool {
			return u.Kind == uses.Kind && u.Workload == uses.Workload
		})
		var earlier probe.TokenUses
		if i >= 0 {
			earlier = k.before.Tokens[i]
		}
		refused, overwritten := uses.Refused-earlier.Refused, uses.Overwritten-earlier.Overwritten
		k.t.Logf("%s tokens since then: %d uses, %d refused, of these %d whose Secret held another one, %d unavailable",
			uses.Kind, uses.Requests-earlier.Requests, refused, overwritten, uses.Unavailable-earlier.Unavailable)
		// A legacy token may be refused from the change of its Secret until its mounted file follows.
		if refused != overwritten {
			k.t.Errorf("%d tokens of kind %s were refused", refused-overwritten, uses.Kind)
		}
	}
}

func (k *selfManaged) cluster(ctx context.Context) (*v1alpha1.UserCluster, error) {
	uc := &v1alpha1.UserCluster{}
	return uc, k.admin.Get(ctx, client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: "self"}, uc)
}

// patch changes the UserCluster, as soon as it may be changed.
func (k *selfManaged) patch(merge string) {
	k.t.Helper()
	k.Eventually("patching the UserCluster", func(ctx context.Context) error {
		uc, err := k.cluster(ctx)
		if err == nil {
			err = k.admin.Patch(ctx, uc, client.RawPatch(types.MergePatchType, []byte(merge)))
		}
		return err
	})
}

// until waits for as long as a rotation may last.
func (k *selfManaged) until(what string, check func(context.Context) error) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), k.patience)
	defer cancel()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		err := check(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			k.keepState()
			k.t.Fatalf("waiting for %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// keepState shows what the controllers have said, and the UserCluster.
func (k *selfManaged) keepState() {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if uc, err := k.cluster(ctx); err == nil {
		k.t.Logf("the UserCluster has %+v", uc.Status)
	}
	pods, err := k.client.CoreV1().Pods(v1alpha1.SystemNamespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		k.t.Log(err)
		return
	}
	for _, pod := range pods.Items {
		lines := int64(40)
		log, err := k.client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{TailLines: &lines}).DoRaw(ctx)
		k.t.Logf("pod %s says (%v):\n%s", pod.Name, err, log)
	}
}

// serverManifest is the static pod manifest of the kube-apiserver on a node.
func (k *selfManaged) serverManifest(node string) string {
	k.t.Helper()
	raw, err := k.ReadFile(node, "/etc/kubernetes/manifests/kube-apiserver.yaml")
	k.Must(err)
	return string(raw)
}

// signingKey is the kid of sa.key, which must be the same on all control-plane nodes.
func (k *selfManaged) signingKey() string {
	k.t.Helper()
	kid, err := jwks.KeyID(k.signer().Public())
	k.Must(err)
	return kid
}

// signer is the key in sa.key, which must be the same on all control-plane nodes.
func (k *selfManaged) signer() (key crypto.Signer) {
	k.t.Helper()
	for _, node := range k.controlPlanes {
		raw, err := k.ReadFile(node, k.PKI("sa.key"))
		k.Must(err)
		next, err := token.ParsePrivateKey(raw)
		k.Must(err)
		if key != nil && !key.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(next.Public()) {
			k.t.Fatalf("sa.key of node %s is not the one of the nodes before it", node)
		}
		key = next
	}
	return key
}

// retire notes that the key that signs now is to be nowhere later.
func (k *selfManaged) retire() { k.retired = append(k.retired, k.signer()) }

// expectSecrecy searches for private keys. The one that signs now is where kube-apiserver and its signer read it, and
// in the Secrets of Keyturn. One that is retired is nowhere. The files of etcd have both, since Keyturn keeps its keys
// in this cluster.
func (k *selfManaged) expectSecrecy() {
	k.t.Helper()
	if len(k.retired) == 0 {
		k.t.Error("no private key was retired")
	}
	done := k.stage("searching for private keys")
	current, err := kubeadmtest.TracesOf(k.signer())
	k.Must(err)
	retired, err := kubeadmtest.TracesOf(k.retired...)
	k.Must(err)
	k.ExpectTraces("retired private key", retired, "/var/lib/etcd/", "/etc/kubernetes/tmp/")
	found := k.ExpectTraces("signing private key", current, "/var/lib/etcd/", "/etc/kubernetes/tmp/", k.PKI("sa.key"),
		"/var/lib/keyturn/keys/", "Secret "+v1alpha1.SystemNamespace+"/")
	if !slices.Contains(found, k.PKI("sa.key")) {
		k.t.Error("the search finds no sa.key")
	}
	done()
}
