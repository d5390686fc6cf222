package e2e

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
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
	// retired are the kids of private keys that may be nowhere in the end.
	retired []string
}

// newSelfManaged makes a cluster.
func newSelfManaged(t *testing.T, controlPlanes, workers int) *selfManaged {
	t.Helper()
	c := kubeadmtest.New(t, "keyturn-agent", "keyturn-controller", "keyturn-probe", "keyturn-signer")
	k := &selfManaged{Cluster: c, t: t, kubeconfig: filepath.Join(t.TempDir(), "kubeconfig")}
	done := k.stage("making the cluster")
	roles := map[string]kubeadm.Role{}
	var names []string
	for i := range controlPlanes + workers {
		name, role := "cp-"+string(rune('1'+i)), kubeadm.ControlPlane
		if i >= controlPlanes {
			name, role = "worker-"+string(rune('1'+i-controlPlanes)), kubeadm.Worker
		} else {
			k.controlPlanes = append(k.controlPlanes, name)
		}
		names, roles[name] = append(names, name), role
		c.Must(c.Start(t.Context(), name, role))
	}
	c.Must(c.Init(t.Context(), names[0]))
	for _, name := range names[1:] {
		c.Must(c.Join(t.Context(), name, roles[name]))
	}
	done()
	k.connect()
	return k
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
	k.Must(k.admin.Create(k.t.Context(), namespace))
	helm := exec.Command("../../bin/tools/helm", "install", "keyturn", chart, "--namespace", v1alpha1.SystemNamespace,
		"--kubeconfig", k.kubeconfig, "--set", "ownCluster="+v1alpha1.SystemNamespace+"/self")
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

// expectNoRefusals shows what the probe saw. Uses that nobody answered are no refusals.
func (k *selfManaged) expectNoRefusals() {
	k.t.Helper()
	var reports []probe.Report
	k.Eventually("the reports of the probe", func(ctx context.Context) (err error) {
		reports, err = probe.Collect(ctx, k.client.CoreV1().ConfigMaps("keyturn-probe"))
		return err
	})
	summary := probe.Summarize(reports)
	var table strings.Builder
	k.Must(summary.Print(&table))
	k.t.Logf("what the pods saw:\n%s", table.String())
	if unused := summary.Unused(); summary.Failed() || len(unused) > 0 {
		k.t.Errorf("tokens were refused, or not used: %v", unused)
	}
	for _, uses := range summary.Tokens {
		if uses.Refused > 0 {
			k.t.Errorf("%d tokens of kind %s were refused", uses.Refused, uses.Kind)
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
	ctx, cancel := context.WithTimeout(k.t.Context(), rotateTimeout)
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
func (k *selfManaged) signingKey() (kid string) {
	k.t.Helper()
	for _, node := range k.controlPlanes {
		raw, err := k.ReadFile(node, "/etc/kubernetes/pki/sa.key")
		k.Must(err)
		kids := privateKeys(raw)
		if len(kids) != 1 || kid != "" && kids[0] != kid {
			k.t.Fatalf("sa.key of node %s has the private keys %v, and of others %q", node, kids, kid)
		}
		kid = kids[0]
	}
	return kid
}

// retire notes that the key that signs now is to be nowhere later.
func (k *selfManaged) retire() { k.retired = append(k.retired, k.signingKey()) }

// keyFiles are the files with private keys that kubeadm and Keyturn keep on a node.
func (k *selfManaged) keyFiles(node string) map[string][]byte {
	k.t.Helper()
	out, err := k.Run(k.t.Context(), node, "/bin/sh", "-c", "grep -rla 'PRIVATE KEY' /etc/kubernetes /var/lib/keyturn || true")
	k.Must(err)
	files := map[string][]byte{}
	for path := range strings.FieldsSeq(string(out)) {
		files[path], err = k.Run(k.t.Context(), node, "cat", path)
		k.Must(err)
	}
	if _, ok := files["/etc/kubernetes/pki/sa.key"]; !ok {
		k.t.Errorf("the search of node %s finds no sa.key", node)
	}
	return files
}

// privateKeys are the kids of the private keys in PEM that could sign tokens.
func privateKeys(content []byte) (kids []string) {
	for rest := content; ; {
		block, after := pem.Decode(rest)
		if block == nil {
			return kids
		}
		rest = after
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if signer, err := token.ParsePrivateKey(pem.EncodeToMemory(block)); err == nil {
			if kid, err := jwks.KeyID(signer.Public()); err == nil {
				kids = append(kids, kid)
			}
		}
	}
}
