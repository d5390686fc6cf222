package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/capi"
	"github.com/keyturn/keyturn/internal/local/capi/capitest"
	"github.com/keyturn/keyturn/internal/local/kubeadm/kubeadmtest"
	"github.com/keyturn/keyturn/internal/local/process"
	"github.com/keyturn/keyturn/internal/probe"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// capiPatience is how long a rotation may last in which every machine is replaced, on a busy machine.
const capiPatience = 30 * time.Minute

// capiCluster is a cluster that Cluster API made, whose UserCluster is beside its Cluster.
type capiCluster struct {
	*capitest.Bed
	t       *testing.T
	cluster capi.Cluster
	// admin reaches the management cluster, and knows the kinds of Keyturn.
	admin client.Client
	// workload reaches the cluster itself.
	workload       kubernetes.Interface
	workloadClient client.Client
	// method is how its API servers get keys.
	method     v1alpha1.ClusterAPIMethod
	controller capiController
}

// TestClusterAPI rotates the key of a cluster of Cluster API once, with signers. TestClusterAPIScale and others do
// more.
func TestClusterAPI(t *testing.T) {
	t.Parallel()
	k := newCAPICluster(t, capiClusterOf(1))
	k.adopt()
	k.useSigners()
	k.rotate(nothing)
	k.expectEvents("Publish", "Switch", "Refresh", "Retire", v1alpha1.ReasonRotationCompleted)
	k.expectNoRefusals()
}

// capiClusterOf is a cluster with so many control-plane machines, and one worker.
func capiClusterOf(controlPlanes int) capi.Cluster {
	return capi.Cluster{
		Namespace: "default", Name: "prod", Version: kubetest.Version, ControlPlanes: controlPlanes, Workers: 1,
	}
}

// expectEvents wants the events of rotations on the Cluster too.
func (k *capiCluster) expectEvents(reasons ...string) {
	k.t.Helper()
	k.Eventually("events of the Cluster", func(ctx context.Context) error {
		list := &eventsv1.EventList{}
		err := k.admin.List(ctx, list, client.InNamespace(k.cluster.Namespace))
		for _, reason := range reasons {
			if err == nil && !slices.ContainsFunc(list.Items, func(e eventsv1.Event) bool {
				return e.Regarding.Kind == "Cluster" && e.Regarding.Name == k.cluster.Name && e.Reason == reason
			}) {
				err = fmt.Errorf("there is none with the reason %s", reason)
			}
		}
		return err
	})
}

// newCAPICluster makes a management cluster with the API of Keyturn, and a cluster.
func newCAPICluster(t *testing.T, c capi.Cluster) *capiCluster {
	t.Helper()
	b := capitest.New(t, "keyturn-agent", "keyturn-signer", "keyturn-probe")
	k := &capiCluster{Bed: b, t: t, cluster: c, method: v1alpha1.MethodInPlace}
	done := k.stage("making the cluster")
	k.Must(install.Apply(t.Context(), b.Config))
	scheme, err := controller.NewScheme()
	k.Must(err)
	k.admin, err = client.New(b.Config, client.Options{Scheme: scheme})
	k.Must(err)
	b.Make(c)
	k.workload = b.Workload(c)
	k.workloadClient, err = client.New(k.workloadConfig(), client.Options{})
	k.Must(err)
	k.Eventually("all nodes", func(ctx context.Context) error {
		list, err := k.workload.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err == nil && (len(list.Items) != c.ControlPlanes+c.Workers || slices.ContainsFunc(list.Items, isNotReady)) {
			err = fmt.Errorf("there are %d, perhaps not all ready", len(list.Items))
		}
		return err
	})
	done()
	return k
}

func isNotReady(n corev1.Node) bool {
	return !slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// stage logs how long something takes.
func (k *capiCluster) stage(what string) (done func()) {
	k.t.Helper()
	began := time.Now()
	return func() {
		k.t.Helper()
		k.t.Logf("%s: %.0f s", what, time.Since(began).Seconds())
	}
}

// startController runs the controller as the user that it is in a cluster, with the roles and the policy of the chart.
func (k *capiCluster) startController() {
	k.t.Helper()
	out, err := exec.CommandContext(k.t.Context(), "../../bin/tools/helm", "template", "keyturn", chart,
		"--namespace", v1alpha1.SystemNamespace, "--kube-version", kubetest.Version,
		"--show-only", "templates/clusterapi.yaml", "--show-only", "templates/clusterapi-policy.yaml",
		"--set", "clusterAPI.namespaces={"+k.cluster.Namespace+"},clusterAPI.replaceNodes=true").Output()
	if err != nil {
		k.t.Fatalf("rendering the roles, which needs `make bin/tools/helm`: %v", err)
	}
	k.apply(k.admin, out)
	const name = "keyturn-controller"
	k.controller = capiController{k.t.TempDir(), process.Spec{
		Name: name, Path: filepath.Join(kubeadmtest.Build(k.t, name), name), Args: []string{
			"--kubeconfig=" + kubetest.WriteKubeconfig(k.t, kubetest.AsController(k.Config)),
			"--metrics-bind-address=0", "--health-probe-bind-address=0", "--cluster-api-namespace=" + k.cluster.Namespace,
			"--agent-image=" + kubeadmtest.Image("keyturn-agent"), "--signer-image=" + kubeadmtest.Image("keyturn-signer"),
		},
	}}
	k.t.Cleanup(func() { k.controller.stop(k) })
	k.Must(k.controller.start())
}

// apply creates objects.
func (k *capiCluster) apply(c client.Client, documents []byte) {
	k.t.Helper()
	objects, err := install.Decode(documents)
	k.Must(err)
	for _, o := range objects {
		k.Eventually("creating "+o.GetKind()+" "+o.GetName(), func(ctx context.Context) error {
			return client.IgnoreAlreadyExists(c.Create(ctx, o.DeepCopy()))
		})
	}
}

// startProbe starts pods that use every kind of token, at each API server, all the time.
func (k *capiCluster) startProbe() {
	k.t.Helper()
	var manifests bytes.Buffer
	k.Must(probe.Manifests(&manifests, probe.DefaultDeployment()))
	k.apply(k.workloadClient, manifests.Bytes())
	k.Eventually("the probe", func(ctx context.Context) error {
		d, err := k.workload.AppsV1().Deployments("keyturn-probe").Get(ctx, "keyturn-probe", metav1.GetOptions{})
		if err == nil && d.Status.AvailableReplicas != *d.Spec.Replicas {
			err = fmt.Errorf("%d pods are available", d.Status.AvailableReplicas)
		}
		return err
	})
}

// workloadConfig reaches the cluster as its administrator.
func (k *capiCluster) workloadConfig() *rest.Config {
	k.t.Helper()
	secret := &corev1.Secret{}
	k.Must(k.Client.Get(k.t.Context(), client.ObjectKey{Namespace: k.cluster.Namespace, Name: k.cluster.Name + "-kubeconfig"}, secret))
	config, err := clientcmd.RESTConfigFromKubeConfig(secret.Data["value"])
	k.Must(err)
	return config
}

// adopt starts the controller and the probe, and adopts the cluster.
func (k *capiCluster) adopt() {
	k.t.Helper()
	k.startController()
	k.startProbe()
	k.create()
}

// create makes the UserCluster. Its key is the one that Cluster API made.
func (k *capiCluster) create() {
	k.t.Helper()
	done := k.stage("adopting")
	before := k.material()
	file := filepath.Join(k.t.TempDir(), "prod.yaml")
	k.Must(os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: UserCluster
name: %[1]s
infrastructure: {clusterAPI: {namespace: %[2]s, cluster: %[1]s, method: %[3]s}}
`, k.cluster.Name, k.cluster.Namespace, k.method), 0o600))
	env := cli.System()
	var said bytes.Buffer
	env.Out, env.Err = &said, &said
	args := []string{"adopt", "--config", file, "--kubeconfig", kubetest.WriteKubeconfig(k.t, k.Config), "--skip-prompt"}
	if code := cli.Run(k.t.Context(), env, args); code != 0 {
		k.t.Fatalf("gkectl adopt ended with %d:\n%s", code, said.String())
	}
	k.await(1)
	done()
	if after := k.material(); after.ResourceVersion != before.ResourceVersion {
		k.t.Error("adopting has changed the Secret of Cluster API")
	}
}

// material is the Secret with which control-plane machines start.
func (k *capiCluster) material() (secret *corev1.Secret) {
	k.t.Helper()
	k.Eventually("Secret "+k.cluster.Name+"-sa", func(ctx context.Context) error {
		secret = &corev1.Secret{}
		return k.Client.Get(ctx, client.ObjectKey{Namespace: k.cluster.Namespace, Name: k.cluster.Name + "-sa"}, secret)
	})
	return secret
}

// useSigners has the API servers get their keys from signers.
func (k *capiCluster) useSigners() {
	k.t.Helper()
	done := k.stage("converting to signers")
	k.patch(`{"spec":{"ksaSigningKey":{"source":"external"}}}`)
	k.await(k.version())
	done()
}

// version is the key version that the UserCluster wants.
func (k *capiCluster) version() (version int32) {
	k.t.Helper()
	k.Eventually("the UserCluster", func(ctx context.Context) error {
		uc, err := k.userCluster(ctx)
		version = uc.Spec.KSASigningKey.Version
		return err
	})
	return version
}

// rotate rotates to the next key version, and has something done meanwhile. In the end no machine starts with any
// other.
func (k *capiCluster) rotate(during func()) {
	k.t.Helper()
	version := k.version() + 1
	done := k.stage(fmt.Sprintf("rotating to key version %d", version))
	k.patch(fmt.Sprintf(`{"spec":{"ksaSigningKey":{"version":%d}}}`, version))
	during()
	keys := k.await(version).Status.KSASigningKey.Keys
	done()
	private, err := token.ParsePrivateKey(k.material().Data[corev1.TLSPrivateKeyKey])
	k.Must(err)
	kid, err := jwks.KeyID(private.Public())
	k.Must(err)
	if len(keys) != 1 || kid != keys[0].KeyID {
		k.t.Errorf("machines start with key %s, and the keys are %+v", kid, keys)
	}
}

func (k *capiCluster) userCluster(ctx context.Context) (*v1alpha1.UserCluster, error) {
	uc := &v1alpha1.UserCluster{}
	return uc, k.admin.Get(ctx, client.ObjectKey{Namespace: k.cluster.Namespace, Name: k.cluster.Name}, uc)
}

// patch changes the UserCluster, as soon as it may be changed.
func (k *capiCluster) patch(merge string) {
	k.t.Helper()
	k.Eventually("patching the UserCluster", func(ctx context.Context) error {
		uc, err := k.userCluster(ctx)
		if err == nil {
			err = k.admin.Patch(ctx, uc, client.RawPatch(types.MergePatchType, []byte(merge)))
		}
		return err
	})
}

// until waits for as long as a rotation may last.
func (k *capiCluster) until(what string, check func(context.Context) error) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), capiPatience)
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
			k.t.Fatalf("waiting for %s: %v", what, err)
		case <-tick.C:
		}
	}
}

// await waits until the cluster is settled with a key version, and what was changed is done.
func (k *capiCluster) await(version int32) (uc *v1alpha1.UserCluster) {
	k.t.Helper()
	k.until(fmt.Sprintf("key version %d to be all there is", version), func(ctx context.Context) (err error) {
		if uc, err = k.userCluster(ctx); err != nil {
			return err
		}
		key := uc.Status.KSASigningKey
		for _, wanted := range []string{v1alpha1.ConditionReady, v1alpha1.ConditionKSASigningKeyRotation} {
			if !slices.ContainsFunc(uc.Status.Conditions, func(c metav1.Condition) bool {
				return c.Type == wanted && c.Status == metav1.ConditionTrue && c.ObservedGeneration == uc.Generation
			}) {
				return fmt.Errorf("%s is not True: %+v; %s: %s", wanted, uc.Status.Conditions, key.Step, key.WaitingFor)
			}
		}
		if key.TokenVersion != version || !slices.Equal(key.PublicKeyVersions, []int32{version}) {
			return fmt.Errorf("the keys are %+v", key)
		}
		return nil
	})
	return uc
}

// expectNoRefusals shows what the probe saw. Uses that nobody answered are no refusals.
func (k *capiCluster) expectNoRefusals() {
	k.t.Helper()
	var reports []probe.Report
	k.Eventually("the reports of the probe", func(ctx context.Context) (err error) {
		reports, err = probe.Collect(ctx, k.workload.CoreV1().ConfigMaps("keyturn-probe"))
		return err
	})
	summary := probe.Summarize(reports)
	var table strings.Builder
	k.Must(summary.Print(&table))
	k.t.Logf("what the pods saw:\n%s", table.String())
	if summary.Failed() {
		k.t.Error("tokens were refused")
	}
}
