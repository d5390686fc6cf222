package agentpod_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/agent/agentpod"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
	"github.com/keyturn/keyturn/internal/local/kubeadm/kubeadmtest"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// TestRealNode has the agent change the keys of a control-plane node that kubeadm made, whose kube-apiserver is a
// static pod, and whose only API server is the one through which the orders come. It measures how long that is away;
// TestKubeadm has a controller send the same orders.
func TestRealNode(t *testing.T) {
	if os.Getenv("KEYTURN_TEST_LONG") == "" {
		t.Skip("it takes minutes: set KEYTURN_TEST_LONG=1 to run it")
	}
	n := newNode(t)
	n.adopt()
	n.refuseOtherStart()

	second, err := keystore.Generate(rand.Reader, 2, "ES256")
	n.Must(err)
	n.keys = append(n.keys, second)
	publish := rotation.Keys{Verify: []int{1, 2}, Sign: 1}
	n.converge(publish, true)
	n.prove(publish)
	t.Logf("kube-apiserver came back %.1f s after an order, as kubeadm makes it", n.away.Seconds())
	if report := n.order(agent.Order{Do: agent.Observe}); report.Found.Change != agent.Pending {
		t.Errorf("the change is %q before it is settled", report.Found.Change)
	}
	n.settle(publish)

	change := rotation.Keys{Verify: []int{1, 2}, Sign: 2}
	n.converge(change, true)
	n.prove(change)
	t.Logf("kube-apiserver came back %.1f s after an order with --shutdown-send-retry-after=true", n.away.Seconds())
	n.settle(change)

	external := rotation.Keys{Verify: []int{1, 2}, Sign: 2, External: true}
	n.converge(external, false)
	n.prove(external)
	t.Logf("kube-apiserver came back %.1f s after it was converted to a signer", n.away.Seconds())
	n.settle(external)
	n.retire()
	n.release()
}

// node is the only control-plane node of a cluster, with an agent on it.
type node struct {
	*kubeadmtest.Cluster
	t       *testing.T
	options agentpod.Options
	config  *rest.Config
	client  kubernetes.Interface
	prover  controlplane.Prover
	pod     *corev1.Pod
	keys    []keystore.KeyPair
	// ordered is when the last order was answered that restarts kube-apiserver, and away how long that took.
	ordered time.Time
	away    time.Duration
}

const cluster = "5d1f4a9e-0000-4000-8000-000000000001"

func newNode(t *testing.T) *node {
	t.Helper()
	c := kubeadmtest.New(t, kubeadm.Options{}, "keyturn-agent", "keyturn-signer")
	c.Must(c.Start(t.Context(), "cp-1", kubeadm.ControlPlane))
	c.Must(c.Init(t.Context(), "cp-1"))
	config, err := c.Config()
	c.Must(err)
	n := &node{
		Cluster: c, t: t, config: config, client: c.Client(),
		options: agentpod.Kubeadm("keyturn-agent", kubeadmtest.Image("keyturn-agent"), v1alpha1.DefaultCertificatesDir),
	}
	_, err = n.client.CoreV1().Namespaces().Create(t.Context(), n.options.NamespaceObject(), metav1.CreateOptions{})
	n.Must(err)
	sets := n.client.AppsV1().DaemonSets(n.options.Namespace)
	_, err = sets.Create(t.Context(), n.options.DaemonSet(), metav1.CreateOptions{})
	n.Must(err)
	n.await("")
	return n
}

// await waits for a pod of the agent that runs and is not the one with a UID.
func (n *node) await(not string) {
	n.t.Helper()
	n.Eventually("the agent to run", func(ctx context.Context) error {
		list, err := n.client.CoreV1().Pods(n.options.Namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		i := slices.IndexFunc(list.Items, func(p corev1.Pod) bool {
			return string(p.UID) != not && p.DeletionTimestamp == nil && p.Status.Phase == corev1.PodRunning
		})
		if i < 0 {
			return fmt.Errorf("%d pods, none of which runs", len(list.Items))
		}
		n.pod = &list.Items[i]
		return nil
	})
}

// instance is the start of the pod that its status names.
func (n *node) instance() agent.Instance {
	n.t.Helper()
	statuses := n.pod.Status.InitContainerStatuses
	if len(statuses) != 1 || statuses[0].State.Terminated == nil {
		n.t.Fatalf("the init container is %+v", statuses)
	}
	return agent.Instance{PodUID: string(n.pod.UID), PublicKey: agent.PublicKey(statuses[0].State.Terminated.Message)}
}

// order has the agent carry out an order, for this start of its pod unless it names another one.
func (n *node) order(o agent.Order) agent.Report {
	n.t.Helper()
	if o.For == (agent.Instance{}) {
		o.For = n.instance()
	}
	o.Cluster = cluster
	for _, k := range n.keys {
		public, err := jwks.MarshalPublicKey(k.Signer.Public())
		n.Must(err)
		private, err := token.MarshalPrivateKey(k.Signer)
		n.Must(err)
		sealed, err := agent.Seal(private, o.For, cluster, k.Version)
		n.Must(err)
		o.Versions = append(o.Versions, agent.Version{Version: k.Version, Public: string(public), Private: sealed})
	}
	var report agent.Report
	n.Eventually(o.Do, func(ctx context.Context) (err error) {
		report, err = n.exec(ctx, o)
		return err
	})
	return report
}

func (n *node) exec(ctx context.Context, o agent.Order) (agent.Report, error) {
	text, err := json.Marshal(o)
	n.Must(err)
	url := n.client.CoreV1().RESTClient().Post().Namespace(n.pod.Namespace).Resource("pods").Name(n.pod.Name).
		SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: agentpod.Container, Command: n.options.Apply(), Stdin: true, Stdout: true, Stderr: true,
	}, scheme.ParameterCodec).URL()
	executor, err := remotecommand.NewWebSocketExecutor(n.config, "GET", url.String())
	n.Must(err)
	var stdout, stderr bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{
		Stdin: bytes.NewReader(text), Stdout: &stdout, Stderr: &stderr,
	})
	if err != nil {
		return agent.Report{}, fmt.Errorf("%w: %s", err, stderr.String())
	}
	var report agent.Report
	return report, json.Unmarshal(stdout.Bytes(), &report)
}

func (n *node) done(r agent.Report) {
	n.t.Helper()
	if r.Answer != agent.Done {
		n.t.Fatalf("the agent answers %s: %s (%v)", r.Answer, r.Message, r.Did)
	}
}

// adopt has the agent tell what is there and send the private key, which changes nothing.
func (n *node) adopt() {
	n.t.Helper()
	file, err := n.ReadFile("cp-1", "/etc/kubernetes/pki/sa.key")
	n.Must(err)
	signer, err := token.ParsePrivateKey(file)
	n.Must(err)
	kid, err := jwks.KeyID(signer.Public())
	n.Must(err)
	report := n.order(agent.Order{Do: agent.Observe})
	n.done(report)
	found := report.Found
	if found.Private != kid || !slices.Equal(found.Public, []string{kid}) || found.Owner != "" || found.Signer != nil ||
		found.Server.Problem != "" || found.Server.External {
		n.t.Errorf("found is %+v", found)
	}
	own, err := agent.NewPrivateKey()
	n.Must(err)
	report = n.order(agent.Order{Do: agent.Send, Recipient: own.Public()})
	n.done(report)
	if sent, err := own.OpenSent(report.Sealed, cluster); err != nil || !bytes.Equal(sent, file) || len(report.Did) > 0 {
		n.t.Errorf("the key that was sent is not sa.key: %v, and the agent did %v", err, report.Did)
	}
	n.keys = []keystore.KeyPair{{Version: 1, Algorithm: "RS256", KeyID: kid, Signer: signer}}
}

// refuseOtherStart sends an order for a start of the pod that ended to the one that followed it.
func (n *node) refuseOtherStart() {
	n.t.Helper()
	before := n.instance()
	n.Must(n.client.CoreV1().Pods(n.pod.Namespace).Delete(n.t.Context(), n.pod.Name, metav1.DeleteOptions{}))
	n.await(before.PodUID)
	for what, old := range map[string]agent.Instance{
		"that pod": before, "another start of this pod": {PodUID: string(n.pod.UID), PublicKey: before.PublicKey},
	} {
		report := n.order(agent.Order{
			Do: agent.Converge, For: old, Keys: rotation.Keys{Verify: []int{1}, Sign: 1}, Restart: "late",
		})
		if report.Answer != agent.CannotOpen || len(report.Did) > 0 {
			n.t.Errorf("an order for %s is answered with %s, and the agent did %v", what, report.Answer, report.Did)
		}
	}
	sealed := agent.Order{Do: agent.Converge, Keys: rotation.Keys{Verify: []int{1}, Sign: 1}, For: n.instance()}
	private, err := token.MarshalPrivateKey(n.keys[0].Signer)
	n.Must(err)
	public, err := jwks.MarshalPublicKey(n.keys[0].Signer.Public())
	n.Must(err)
	other, err := agent.Seal(private, before, cluster, 1)
	n.Must(err)
	sealed.Versions = []agent.Version{{Version: 1, Public: string(public), Private: other}}
	keys := n.keys
	n.keys = nil
	report := n.order(sealed)
	n.keys = keys
	if report.Answer != agent.CannotOpen || len(report.Did) > 0 {
		n.t.Errorf("a key for another pod is answered with %s, and the agent did %v", report.Answer, report.Did)
	}
}

// converge restarts kube-apiserver with keys.
func (n *node) converge(k rotation.Keys, retryAfter bool) {
	n.t.Helper()
	o := agent.Order{Do: agent.Converge, Keys: k, RetryAfter: retryAfter, Restart: agent.RestartMark(k, 1)}
	if k.External {
		o.SignerImage, o.SignerNamespace = kubeadmtest.Image("keyturn-signer"), n.options.Namespace
	}
	var report agent.Report
	n.Eventually("the order to be carried out", func(context.Context) error {
		if report = n.order(o); report.Answer == agent.Waiting {
			return errors.New(report.Message)
		}
		return nil
	})
	n.ordered = time.Now()
	n.done(report)
	n.t.Logf("the agent did %v", report.Did)
}

// settle settles what converge changed.
func (n *node) settle(k rotation.Keys) {
	n.t.Helper()
	n.done(n.order(agent.Order{Do: agent.Settle, Keys: k, Restart: agent.RestartMark(k, 1)}))
}

// prove waits until kube-apiserver has shown that it has keys.
func (n *node) prove(k rotation.Keys) {
	n.t.Helper()
	what := fmt.Sprintf("the API server to accept %v and sign with %d", k.Verify, k.Sign)
	n.Eventually(what, func(ctx context.Context) error {
		proof, err := n.prover.Prove(ctx, controlplane.Question{Config: n.config, Keys: n.keys, External: k.External})
		if err == nil && (proof.Signs != k.Sign || !slices.Equal(proof.Accepts, k.Verify)) {
			err = fmt.Errorf("proven is %+v", proof)
		}
		if err != nil {
			return err
		}
		// The process that is about to end has the same keys.
		served, err := n.prover.Served(ctx, cluster, n.config)
		if err == nil && served.External != k.External {
			err = errors.New("it has them from elsewhere")
		}
		return err
	})
	n.away = time.Since(n.ordered)
}

// retire drops key version 1 while kube-apiserver runs, since its signer has the keys.
func (n *node) retire() {
	n.t.Helper()
	keys := rotation.Keys{Verify: []int{2}, Sign: 2, External: true}
	n.done(n.order(agent.Order{
		Do: agent.Converge, Keys: keys,
		SignerImage: kubeadmtest.Image("keyturn-signer"), SignerNamespace: n.options.Namespace,
	}))
	n.prove(keys)
	report := n.order(agent.Order{Do: agent.Settle, Keys: keys, Retired: []string{n.keys[0].KeyID}})
	n.done(report)
	if len(report.Found.Leftovers) > 0 {
		n.t.Errorf("private keys are left: %+v", report.Found.Leftovers)
	}
}

// release leaves kube-apiserver with its files, and nothing of Keyturn.
func (n *node) release() {
	n.t.Helper()
	if report := n.order(agent.Order{Do: agent.Release}); report.Answer != agent.Failed {
		n.t.Errorf("with a signer, Release is answered with %s", report.Answer)
	}
	n.keys = n.keys[1:]
	files := rotation.Keys{Verify: []int{2}, Sign: 2}
	n.converge(files, false)
	n.prove(files)
	n.settle(files)
	var report agent.Report
	n.Eventually("the release", func(context.Context) error {
		if report = n.order(agent.Order{Do: agent.Release}); report.Answer == agent.Waiting {
			return errors.New(report.Message)
		}
		return nil
	})
	n.done(report)
	f := report.Found
	if f.Owner != "" || f.Change != "" || f.Signer != nil || f.Server.External || f.Private != n.keys[0].KeyID {
		n.t.Errorf("after the release there is %+v", f)
	}
	if _, err := n.Run(n.t.Context(), "cp-1", "/bin/sh", "-c", "! find /var/lib/keyturn -type f | grep ."); err != nil {
		n.t.Errorf("files of Keyturn are left: %v", err)
	}
}
