package e2e

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/probe"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// kubernetesVersion is the Kubernetes version of all user clusters, like "v1.36.4".
func kubernetesVersion() string {
	return cmp.Or(os.Getenv("KEYTURN_E2E_KUBERNETES"), "v1.36.4")
}

// head is the beginning of each config file.
func head() string {
	return `apiVersion: v1
kind: UserCluster
name: e2e
gkeOnPremVersion: ` + strings.TrimPrefix(kubernetesVersion(), "v") + `-gke.0
enableControlplaneV2: true
network:
  serviceCIDR: 10.96.0.0/20
  podCIDR: 192.168.0.0/16
`
}

// highlyAvailable has three API servers and two nodes.
func highlyAvailable(source v1alpha1.KeySource) string {
	return head() + `masterNode:
  replicas: 3
nodePools:
- name: pool-1
  replicas: 2
  labels:
    example.com/purpose: e2e
ksaSigningKey:
  source: ` + string(source) + `
  algorithm: RS256
`
}

// single has one API server and no nodes.
func single(source v1alpha1.KeySource) string {
	return head() + `masterNode:
  replicas: 1
ksaSigningKey:
  source: ` + string(source) + `
  algorithm: ES256
`
}

// legacySecrets is how many legacy tokens made by hand a rotation has to re-sign.
const legacySecrets = 30

// One API server and no nodes: the shortest way through all five steps, with an issuer whose documents are published
// in a directory, and a fleet.
func TestRotateSingle(t *testing.T) {
	t.Parallel()
	for _, source := range []v1alpha1.KeySource{v1alpha1.KeySourceExternal, v1alpha1.KeySourceFiles} {
		t.Run(string(source), func(t *testing.T) { rotateSingle(t, source) })
	}
}

func rotateSingle(t *testing.T, source v1alpha1.KeySource) {
	t.Parallel()
	p := newPlace(t)
	const issuer = "https://oidc.keyturn.test/e2e"
	published := p.published()
	p.createCluster(single(source) + fmt.Sprintf("  issuer: %s\n  publish: [%q]\n  publishMaxAge: 1s\n",
		issuer, "file://"+published+"?create_dir=true&prefix=e2e/") + p.gkeConnect())
	p.expectStatus(1)
	p.expectPublished(t, 1, 2)
	old, oldForPool := p.mint(t, ""), p.mint(t, pool)
	if err := p.exchange(t, oldForPool); err != nil {
		t.Errorf("trading a token: %v", err)
	}
	p.makeLegacy(t)
	ends := []func(){
		p.startVerifying(t, "go-oidc with the cluster's documents", issuer, p.clusterDocuments(t)),
		p.startVerifying(t, "go-oidc with the published documents", issuer, serveDirectory(t, published)),
	}

	p.must(p.credentials("rotate", "--skip-prompt", "--wait", "--timeout", rotateTimeout.String())...)
	p.expectStatus(2)
	p.expectLegacy(t, 2)
	p.expectRefused(t, old)
	p.expectFleetRefuses(t, oldForPool)
	p.expectPublished(t, 2, 2)
	for _, end := range ends {
		end()
	}
	p.expectSecrecy(t)

	p.must("delete", "cluster", "--config", p.config(), "--kubeconfig", p.kubeconfig(), "--skip-prompt")
	for _, path := range []string{jwks.DiscoveryPath, jwks.Path} {
		if _, err := os.Stat(filepath.Join(published, "e2e", path)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still published (%v)", path, err)
		}
	}
	p.must("delete", "admin", "--data-dir", p.dataDir(), "--kubeconfig", p.kubeconfig(), "--network", p.network, "--skip-prompt")
	p.nothingLeft(t)
}

// Three API servers and two nodes, with pods that use every kind of token all the time, while the controller,
// keyturn-local, API servers, their signers, kube-controller-manager, etcd, kubelets and the fleet are killed at random
// moments: rotated with keys from files, given signers, rotated with them, and given files again. If KEYTURN_TEST_LONG
// is set, it is rotated with files in each way to refresh nodes but Wait, which takes as long as the kubelets' tokens
// live: see TestRotateByWaiting. Otherwise it is rotated with files only with new nodes.
func TestRotateUnderFaults(t *testing.T) {
	files := highlyAvailable(v1alpha1.KeySourceFiles)
	p := newCluster(t, files)
	version := 1
	rotate := func(killed []victim) {
		version++
		p.rotateUnderFaults(t, version, killed, mostKills)
	}
	rotate(victims)
	if long() {
		p.update(t, files+refreshBy(v1alpha1.NodeRefreshInPlace))
		rotate(victimsBut("kube-apiserver"))
	}

	before := p.pids("kube-apiserver")
	p.update(t, highlyAvailable(v1alpha1.KeySourceExternal))
	if after := p.pids("kube-apiserver"); len(after) != 3 || len(p.pids("keyturn-signer")) == 0 || slices.ContainsFunc(after, func(pid int) bool { return slices.Contains(before, pid) }) {
		t.Errorf("API servers had the pids %v before they got signers, and have %v", before, after)
	}
	rotate(victims)

	p.update(t, files+refreshBy(v1alpha1.NodeRefreshEvict))
	if left := p.pids("keyturn-signer"); len(left) > 0 {
		t.Errorf("signers are left: %v", left)
	}
	if long() {
		rotate(victims)
	}
	p.expectNoRefusals(t)
	p.end(t)
}

// refreshBy ends a config file. The pods of the probe that stay read a token from its file for each use.
func refreshBy(how v1alpha1.NodeRefresh) string {
	return "  nodeRefresh: " + string(how) + "\n  tokenReload: 1s\n"
}

// Ten rotations in a row with signers, all but the first without new nodes: everything but API servers is killed at
// random moments, no API server is ever restarted, and pods that stay get tokens of each new key. Without
// KEYTURN_TEST_LONG, there are three. The last one evicts pods: what InPlace leaves with a dead token lives again.
func TestRotateTenTimes(t *testing.T) {
	// From which key version on nodes are refreshed otherwise.
	last, refreshes := 4, map[int]v1alpha1.NodeRefresh{3: v1alpha1.NodeRefreshInPlace, 4: v1alpha1.NodeRefreshEvict}
	if long() {
		last, refreshes = 11, map[int]v1alpha1.NodeRefresh{
			3: v1alpha1.NodeRefreshEvict, 4: v1alpha1.NodeRefreshInPlace, 11: v1alpha1.NodeRefreshEvict,
		}
	}
	config := highlyAvailable(v1alpha1.KeySourceExternal)
	p := newCluster(t, config)
	servers := p.pids("kube-apiserver")
	others := victimsBut("kube-apiserver")
	for version := 2; version <= last; version++ {
		if how, changes := refreshes[version]; changes {
			p.update(t, config+refreshBy(how))
		}
		p.rotateUnderFaults(t, version, others, mostKillsTen)
		if now := p.pids("kube-apiserver"); !slices.Equal(now, servers) {
			t.Fatalf("API servers had the pids %v, and have %v after the rotation to key version %d", servers, now, version)
		}
	}
	p.expectNoRefusals(t)
	p.end(t)
}

// newCluster is a place with a user cluster that is registered with the fleet, has legacy tokens, and pods that use
// tokens all the time. Each change changes the manifests of these pods.
func newCluster(t *testing.T, config string, changes ...func(manifests []byte) []byte) *place {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("nodes need root")
	}
	p := newPlace(t)
	p.createCluster(config + p.gkeConnect())
	p.expectStatus(1)
	p.startProbe(t, changes)
	p.makeLegacy(t)
	return p
}

// rotateUnderFaults rotates to the version while processes are killed, and checks what must be true after it. What a
// test does meanwhile replaces all pods.
func (p *place) rotateUnderFaults(t *testing.T, version int, victims []victim, most int, meanwhile ...func()) {
	t.Helper()
	old, oldKey, before, pods := p.createToken(t), p.keyTexts(t, version-1), p.nodeNames(t), p.probePods(t)
	oldForPool := p.mint(t, pool)
	spec := p.cluster("e2e").Spec
	if spec.KeySource() == v1alpha1.KeySourceExternal {
		p.expectTokensTold(t, version-1, "Requested")
	}
	named := p.named(t)
	verified := p.startVerifying(t, "go-oidc", v1alpha1.DefaultIssuer, p.clusterDocuments(t))
	end := p.startKiller(uint64(version), victims, most)
	p.must(p.credentials("rotate", "--skip-prompt")...)
	p.expectExclusion(t, version)
	for _, do := range meanwhile {
		do()
	}
	p.must(p.credentials("status", "--wait", "--timeout", p.patience.String())...)
	t.Logf("killed during the rotation to key version %d: %s", version, strings.Join(end(), ", "))
	p.waitReady(t)

	p.expectStatus(version)
	p.expectLegacy(t, version)
	p.expectRefused(t, old)
	p.expectFleetRefuses(t, oldForPool)
	p.expectPublished(t, version, 1)
	verified()
	switch how := spec.NodeRefresh(); {
	case how.KeepsPods() && len(meanwhile) == 0:
		p.expectSamePods(t, before, pods, version)
		p.expectNamed(t, named)
	case how.KeepsNodes():
		p.expectSameNodes(t, before, version)
		p.expectNewPods(t, pods)
		p.expectMoved(t, version)
	default:
		p.expectNewNodes(t, before, version)
		p.expectMoved(t, version)
	}
	if spec.KeySource() == v1alpha1.KeySourceExternal {
		p.expectLedgers(t, p.held(t, old, oldForPool))
		p.expectTokensTold(t, version, "Bound", "ThirdParty", "Legacy")
	}
	if found := p.filesWith(t, oldKey); len(found) > 0 {
		t.Errorf("key version %d is still in %v", version-1, found)
	}
}

// update changes the cluster to what the config says.
func (p *place) update(t *testing.T, config string) {
	t.Helper()
	if err := os.WriteFile(p.config(), []byte(config+p.gkeConnect()), 0o600); err != nil {
		t.Fatal(err)
	}
	p.must("update", "cluster", "--config", p.config(), "--kubeconfig", p.kubeconfig())
}

// end deletes everything, and checks that nothing is left and no secret was shown.
func (p *place) end(t *testing.T) {
	t.Helper()
	p.expectSecrecy(t)
	p.must("delete", "cluster", "--config", p.config(), "--kubeconfig", p.kubeconfig(), "--skip-prompt")
	p.must("delete", "admin", "--data-dir", p.dataDir(), "--kubeconfig", p.kubeconfig(), "--network", p.network, "--skip-prompt")
	p.nothingLeft(t)
}

// expectStatus checks the text that `status` prints when the rotation to the version is complete.
func (p *place) expectStatus(version int) {
	p.t.Helper()
	want := fmt.Sprintf("State of KSASigningKeyRotation with KSASigningKeyVersion %[1]d is -\n"+
		"status: True,\nreason: KSASigningKeyRotationCompleted,\n"+
		"message:{\"tokenVersion\":%[1]d,\"privateKeyVersion\":%[1]d,\"publicKeyVersions\":[%[1]d]}\n", version)
	if got := p.must(p.credentials("status")...); got != want {
		p.t.Fatalf("status is\n%s\nwant\n%s", got, want)
	}
}

// expectExclusion checks that nothing else can start while the rotation to the version runs.
func (p *place) expectExclusion(t *testing.T, version int) {
	t.Helper()
	for _, attempt := range [][]string{p.credentials("rotate", "--skip-prompt"), p.resized(t)} {
		out, talk, code := p.gkectl(attempt...)
		if code == 0 || !strings.Contains(talk, "cluster is not ready") {
			t.Errorf("gkectl %s during a rotation ended with %d:\n%s%s", strings.Join(attempt[:2], " "), code, out, talk)
		}
	}
	key := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: v1alpha1.SystemNamespace, Name: fmt.Sprintf("e2e-ksa-signing-key-%d", version-1),
	}}
	p.eventually("being refused to delete a key", func(ctx context.Context) error {
		err := p.admin().Delete(ctx, key)
		if err == nil {
			t.Fatal("the old key could be deleted by hand during a rotation")
		}
		if !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
			return err
		}
		return nil
	})
}

// resized is an update of the cluster that would change its node pool.
func (p *place) resized(t *testing.T) []string {
	t.Helper()
	config, err := os.ReadFile(p.config())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(p.dir, "resized.yaml")
	if err := os.WriteFile(path, bytes.Replace(config, []byte("replicas: 2"), []byte("replicas: 3"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"update", "cluster", "--config", path, "--kubeconfig", p.kubeconfig()}
}

// waitReady waits until all that was killed is back.
func (p *place) waitReady(t *testing.T) {
	t.Helper()
	out, err := p.kubectl(t, p.kubeconfig(), "wait", "-n", v1alpha1.SystemNamespace, "usercluster/e2e", "--for=condition=Ready", "--timeout=3m")
	if err != nil {
		t.Fatalf("waiting for the cluster to be ready: %v\n%s", err, out)
	}
}

func (p *place) kubectl(t *testing.T, kubeconfig string, args ...string) ([]byte, error) {
	t.Helper()
	path := filepath.Join(p.bin, "kube", kubernetesVersion(), "kubectl")
	return exec.Command(path, append([]string{"--kubeconfig", kubeconfig}, args...)...).CombinedOutput()
}

// mint returns a fresh bound token of a ServiceAccount for an audience; empty for the API server's own.
func (p *place) mint(t *testing.T, audience string) string {
	t.Helper()
	var minted string
	p.eventually("requesting a token", func(ctx context.Context) (err error) {
		minted, err = requestToken(ctx, p.user("e2e"), audience)
		return err
	})
	return minted
}

func requestToken(ctx context.Context, c kubernetes.Interface, audience string) (string, error) {
	hour := int64(3600)
	spec := authenticationv1.TokenRequestSpec{ExpirationSeconds: &hour}
	if audience != "" {
		spec.Audiences = []string{audience}
	}
	answer, err := c.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return answer.Status.Token, nil
}

// makeLegacy makes legacy tokens by hand, with data and labels of their own, and waits until they are filled.
func (p *place) makeLegacy(t *testing.T) {
	t.Helper()
	c := p.user("e2e")
	for i := range legacySecrets {
		secret := &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "default", Name: fmt.Sprintf("by-hand-%d", i),
				Labels:      map[string]string{"made": "by-hand"},
				Annotations: map[string]string{corev1.ServiceAccountNameKey: "default"},
			},
			Type: corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"note": []byte("kept")},
		}
		if _, err := c.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p.eventually("filling legacy tokens", func(ctx context.Context) error {
		_, err := legacyTokens(ctx, c)
		return err
	})
}

// legacyTokens returns the Secrets made by hand, once all hold a token.
func legacyTokens(ctx context.Context, c kubernetes.Interface) ([]corev1.Secret, error) {
	list, err := c.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{LabelSelector: "made=by-hand"})
	if err != nil {
		return nil, err
	}
	for _, s := range list.Items {
		if len(s.Data[corev1.ServiceAccountTokenKey]) == 0 {
			return nil, fmt.Errorf("secret %s has no token yet", s.Name)
		}
	}
	return list.Items, nil
}

// expectLegacy checks that no Secret was lost or changed but for its token, which is of the version's key.
func (p *place) expectLegacy(t *testing.T, version int) {
	t.Helper()
	kid := p.keyID(t, version)
	var secrets []corev1.Secret
	p.eventually("listing legacy tokens", func(ctx context.Context) (err error) {
		secrets, err = legacyTokens(ctx, p.user("e2e"))
		return err
	})
	if len(secrets) != legacySecrets {
		t.Errorf("%d legacy Secrets are left of %d", len(secrets), legacySecrets)
	}
	for _, s := range secrets {
		got, err := token.KeyID(string(s.Data[corev1.ServiceAccountTokenKey]))
		if err != nil || got != kid {
			t.Errorf("Secret %s: token has kid %q (%v), want %q", s.Name, got, err, kid)
		}
		if string(s.Data["note"]) != "kept" {
			t.Errorf("Secret %s lost its other data", s.Name)
		}
	}
}

// expectRefused checks that each API server refuses the token.
func (p *place) expectRefused(t *testing.T, old string) {
	t.Helper()
	for _, s := range p.cluster("e2e").Status.APIServers {
		cfg := p.restConfig(p.userKubeconfig("e2e"))
		cfg.Host = s.Endpoint
		c, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			t.Fatal(err)
		}
		p.eventually("asking "+s.Name, func(ctx context.Context) error {
			answer, err := c.AuthenticationV1().TokenReviews().Create(ctx,
				&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: old}}, metav1.CreateOptions{})
			if err == nil && answer.Status.Authenticated {
				t.Errorf("API server %s accepts a token of the old key", s.Name)
			}
			return err
		})
	}
}

// keyTexts returns what tells files with a key version: a line of its private and of its public key.
func (p *place) keyTexts(t *testing.T, version int) []string {
	t.Helper()
	secret := &corev1.Secret{}
	name := client.ObjectKey{Namespace: v1alpha1.SystemNamespace, Name: fmt.Sprintf("e2e-ksa-signing-key-%d", version)}
	p.eventually("reading a key", func(ctx context.Context) error { return p.admin().Get(ctx, name, secret) })
	var texts []string
	for _, data := range secret.Data {
		// The first line of an RSA key says only that it is one; the fourth is random.
		if lines := bytes.Split(data, []byte("\n")); bytes.HasPrefix(data, []byte("-----BEGIN")) {
			texts = append(texts, string(lines[4]))
		}
	}
	if len(texts) < 2 {
		t.Fatalf("Secret %s holds %d PEM blocks, want a private and a public key", name, len(texts))
	}
	return texts
}

func (p *place) nodeNames(t *testing.T) map[string]int {
	t.Helper()
	names := map[string]int{}
	p.eventually("listing nodes", func(ctx context.Context) error {
		list, err := p.user("e2e").CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "example.com/purpose=e2e"})
		if err != nil {
			return err
		}
		for _, n := range list.Items {
			var version int
			if _, err := fmt.Sscan(n.Labels[v1alpha1.LabelKeyVersion], &version); err != nil {
				t.Errorf("node %s: label %s: %v", n.Name, v1alpha1.LabelKeyVersion, err)
			}
			names[n.Name] = version
		}
		return nil
	})
	return names
}

// expectNewNodes checks that all nodes are new ones of the version.
func (p *place) expectNewNodes(t *testing.T, before map[string]int, version int) {
	t.Helper()
	after := p.nodeNames(t)
	if len(after) != 2 {
		t.Errorf("nodes are %v, want 2", after)
	}
	for name := range maps.Keys(after) {
		if _, was := before[name]; was || after[name] != version {
			t.Errorf("node %s is of key version %d (there before: %t), want a new one of version %d", name, after[name], was, version)
		}
	}
}

// keyID is the kid of tokens of a key version.
func (p *place) keyID(t *testing.T, version int) string {
	t.Helper()
	for _, k := range p.cluster("e2e").Status.KSASigningKey.Keys {
		if int(k.Version) == version {
			return k.KeyID
		}
	}
	t.Fatalf("key version %d is not in the status", version)
	return ""
}

// probePods are the pods that use tokens, by name, which no two of a ReplicaSet ever share, and how often the container
// of each was restarted.
func (p *place) probePods(t *testing.T) map[string]int32 {
	t.Helper()
	pods := map[string]int32{}
	p.eventually("listing the pods of the probe", func(ctx context.Context) error {
		list, err := p.user("e2e").CoreV1().Pods(probeNamespace).List(ctx, metav1.ListOptions{LabelSelector: otherPods})
		if err != nil {
			return err
		}
		for _, pod := range list.Items {
			for _, c := range pod.Status.ContainerStatuses {
				pods[pod.Name] = c.RestartCount
			}
		}
		return nil
	})
	return pods
}

// expectSamePods checks that nodes and pods are the same as before, that the nodes have the version now, and that every
// token in a file of each pod, as the pod itself reports, is of its key.
func (p *place) expectSamePods(t *testing.T, nodes map[string]int, pods map[string]int32, version int) {
	t.Helper()
	p.expectSameNodes(t, nodes, version)
	if now := p.probePods(t); !maps.Equal(now, pods) {
		t.Errorf("pods and restarts are %v, want those of before, %v", now, pods)
	}
	kid := p.keyID(t, version)
	p.eventually("reading which tokens the pods have", func(ctx context.Context) error {
		reports, err := probe.Collect(ctx, p.user("e2e").CoreV1().ConfigMaps("keyturn-probe"))
		if err != nil {
			return err
		}
		for _, r := range reports {
			if _, runs := pods[r.Pod]; !runs || r.Workload != "" {
				continue // it ended with its node, or has a copy of an old token
			}
			if len(r.Mounted) < 3 {
				return fmt.Errorf("pod %s tells of tokens %v", r.Pod, r.Mounted)
			}
			for kind, got := range r.Mounted {
				if got != kid {
					return fmt.Errorf("pod %s has a %s token of kid %s, want %s", r.Pod, kind, got, kid)
				}
			}
		}
		return nil
	})
}

// expectSameNodes checks that the nodes are the same as before, and have the version now.
func (p *place) expectSameNodes(t *testing.T, before map[string]int, version int) {
	t.Helper()
	after := p.nodeNames(t)
	for name := range maps.Keys(before) {
		if after[name] != version || len(after) != len(before) {
			t.Errorf("nodes are %v, want the same as before, %v, of version %d", after, before, version)
		}
	}
}

// expectNewPods checks that no pod of before is left.
func (p *place) expectNewPods(t *testing.T, before map[string]int32) {
	t.Helper()
	now := p.probePods(t)
	for name := range before {
		if _, there := now[name]; there {
			t.Errorf("pod %s was not evicted", name)
		}
	}
}

// startProbe starts the pods that use every kind of token all the time, and those that come by it in other ways.
func (p *place) startProbe(t *testing.T, changes []func(manifests []byte) []byte) {
	t.Helper()
	var servers []string
	for _, s := range p.cluster("e2e").Status.APIServers {
		servers = append(servers, s.Endpoint)
	}
	args := append([]string{
		"manifests", "--replicas", "2", "--workloads", strings.Join(workloadNames(), ","),
		"--api-servers", strings.Join(servers, ","),
	}, p.identityFlags()...)
	if len(servers) > 1 && !long() {
		args = append(args, "--rate", "5") // half of its default: each use is at each API server
	}
	manifests, err := exec.Command(filepath.Join(p.bin, "keyturn-probe"), args...).Output()
	if err != nil {
		t.Fatalf("printing the probe's manifests: %v", err)
	}
	for _, change := range changes {
		manifests = change(manifests)
	}
	path := filepath.Join(p.dir, "probe.yaml")
	if err := os.WriteFile(path, manifests, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := p.kubectl(t, p.userKubeconfig("e2e"), "apply", "-f", path); err != nil {
		t.Fatalf("kubectl apply: %v\n%s", err, out)
	}
	p.awaitWorkloads(t)
	p.copies(t)
}

// expectNoRefusals reads what all pods counted: no refusal of a bound or third-party token.
func (p *place) expectNoRefusals(t *testing.T) {
	t.Helper()
	var table, report []byte
	p.eventually("summing up the probe", func(context.Context) (err error) {
		probe := filepath.Join(p.bin, "keyturn-probe")
		if report, err = exec.Command(probe, "report", "--kubeconfig", p.userKubeconfig("e2e"), "-o", "json").Output(); err != nil && !json.Valid(report) {
			return err
		}
		table, _ = exec.Command(probe, "report", "--kubeconfig", p.userKubeconfig("e2e")).CombinedOutput()
		return nil
	})
	t.Logf("what the pods saw:\n%s", table)
	if err := exec.Command(filepath.Join(p.bin, "keyturn-probe"), "report", "--kubeconfig", p.userKubeconfig("e2e")).Run(); err != nil {
		t.Errorf("a bound or third-party token, or one of a workload identity, was refused (%v):\n%s", err, p.spells(t))
	}
}

// spells are the times in which tokens were refused, and why.
func (p *place) spells(t *testing.T) string {
	t.Helper()
	var reports []probe.Report
	p.eventually("reading the reports of all pods", func(ctx context.Context) (err error) {
		reports, err = probe.Collect(ctx, p.user("e2e").CoreV1().ConfigMaps("keyturn-probe"))
		return err
	})
	var b strings.Builder
	for _, r := range reports {
		for _, l := range r.Lines {
			for _, s := range l.Spells {
				fmt.Fprintf(&b, "%s at %s, %s: %+v\n", l.Kind, l.Server, r.Pod, s)
			}
		}
	}
	return b.String()
}
