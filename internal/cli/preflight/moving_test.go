package preflight

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/podtokens"
)

// TestMoving has pods that lose something, or everything, when they leave their node.
func TestMoving(t *testing.T) {
	i := &inspection{
		hosts: map[string]bool{"n1": true, "n2": true, "": true}, now: time.Now(),
		held: map[types.NamespacedName]bool{},
		localClaims: map[types.NamespacedName]bool{{Namespace: "blue", Name: "data"}: true,
			{Namespace: "blue", Name: "web-v"}: true},
		cluster: podtokens.Cluster{},
	}
	const affinity = "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: "
	for _, test := range []struct{ spec, want string }{
		{"nodeSelector: {kubernetes.io/hostname: n1}", "BoundToNode (nodeSelector kubernetes.io/hostname: n1)"},
		{"nodeSelector: {kubernetes.io/hostname: gone}", "BoundToNode (nodeSelector kubernetes.io/hostname: gone)"},
		{"nodeSelector: {topology.example.com/node: n2}", "BoundToNode (nodeSelector topology.example.com/node: n2)"},
		{"nodeSelector: {kubernetes.io/os: linux}", ""},
		{affinity + "[{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n1, n2]}]}]}}}",
			"BoundToNode (node affinity)"},
		{affinity + "[{matchFields: [{key: metadata.name, operator: In, values: [n1]}]}]}}}", "BoundToNode (node affinity)"},
		{affinity + "[{matchExpressions: [{key: kubernetes.io/hostname, operator: NotIn, values: [n1]}]}]}}}", ""},
		{affinity + "[{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [n1]}]}, {matchExpressions: " +
			"[{key: a, operator: Exists}]}]}}}", ""},
		{affinity + "[{matchExpressions: [{key: zone, operator: In, values: [a]}]}]}}}", ""},
		{"volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]", "BoundToNode (local volume v)"},
		{"volumes: [{name: v, persistentVolumeClaim: {claimName: other}}]", ""},
		{"volumes: [{name: v, ephemeral: {volumeClaimTemplate: {spec: {}}}}]", "BoundToNode (local volume v)"},
		{"volumes: [{name: v, emptyDir: {}}, {name: a, emptyDir: {}}]", "DataOnNode (a, v)"},
		{"volumes: [{name: v, emptyDir: {medium: Memory}}]", ""},
	} {
		pod := &corev1.Pod{}
		if err := yaml.UnmarshalStrict([]byte("{metadata: {namespace: blue, name: web, ownerReferences: [{kind: ReplicaSet, "+
			"controller: true, apiVersion: apps/v1, name: a, uid: a}]}, spec: {"+test.spec+"}}"), pod); err != nil {
			t.Fatal(err)
		}
		if got := i.findingsOf(pod); got != test.want {
			t.Errorf("%s: %q, want %q", test.spec, got, test.want)
		}
		pod.OwnerReferences[0].Kind = "DaemonSet"
		if got := i.findingsOf(pod); got != "" {
			t.Errorf("%s, of a DaemonSet: %q", test.spec, got)
		}
		i.keeps = true
		pod.OwnerReferences[0].Kind = "ReplicaSet"
		if got := i.findingsOf(pod); got != "" {
			t.Errorf("%s, on a node that stays: %q", test.spec, got)
		}
		i.keeps = false
	}
	ending := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: "blue", Name: "web", OwnerReferences: []metav1.OwnerReference{{Kind: "DaemonSet", Controller: new(bool)}},
		DeletionTimestamp: &metav1.Time{Time: i.now.Add(-time.Hour)}, Finalizers: []string{"example.com/hold"},
	}}
	*ending.OwnerReferences[0].Controller = true
	want := "StuckPod (has been terminating for 60m: whoever set its finalizers example.com/hold must remove them)"
	if got := i.findingsOf(ending); got != want {
		t.Errorf("a pod that does not end: %q, want %q", got, want)
	}
}

// TestHolders has pods that hold a token and stay, or are evicted with what is in their emptyDir volumes, which pods
// without a token are not.
func TestHolders(t *testing.T) {
	const (
		bound = "{name: v, projected: {sources: [{serviceAccountToken: {path: token}}]}}"
		data  = "{name: d, emptyDir: {}}"
		env   = "{name: T, valueFrom: {secretKeyRef: {name: s, key: token}}}"
	)
	for _, test := range []struct{ volumes, env, kept, evicted string }{
		{volumes: bound},
		{volumes: bound + ", " + data, evicted: "DataOnNode (d)"},
		{volumes: bound + ", {name: m, emptyDir: {medium: Memory}}"},
		{volumes: data},
		{volumes: "{name: v, secret: {secretName: s}}", kept: "MountedToken (s)"},
		{volumes: "{name: v, secret: {secretName: s}}, " + data, kept: "MountedToken (s)", evicted: "DataOnNode (d)"},
		{volumes: "{name: v, secret: {secretName: other}}, " + data},
		{volumes: "{name: v, secret: {secretName: s}}", env: env, kept: "CopiedToken (s)"},
		{env: env, volumes: data, kept: "CopiedToken (s)", evicted: "DataOnNode (d)"},
	} {
		pod := &corev1.Pod{}
		if err := yaml.UnmarshalStrict([]byte("{metadata: {namespace: blue, name: web, ownerReferences: [{kind: ReplicaSet, "+
			"controller: true, apiVersion: apps/v1, name: a, uid: a}]}, spec: {containers: [{name: main, env: ["+test.env+"], "+
			"volumeMounts: [{name: v, mountPath: /v}]}], volumes: ["+test.volumes+"]}}"), pod); err != nil {
			t.Fatal(err)
		}
		for _, evicts := range []bool{true, false} {
			want := map[bool]string{true: test.evicted, false: test.kept}[evicts]
			i := &inspection{
				evicts: evicts, keeps: !evicts, held: map[types.NamespacedName]bool{},
				legacy: map[types.NamespacedName]bool{
					{Namespace: "blue", Name: "s"}: true, {Namespace: "red", Name: "other"}: true,
				},
			}
			if got := i.findingsOf(pod); got != want {
				t.Errorf("%+v, evicts %t: %q, want %q", test, evicts, got, want)
			}
		}
	}
}

// findingsOf is what is found of one pod.
func (i *inspection) findingsOf(p *corev1.Pod) string {
	i.report = Report{}
	i.pod(p)
	i.judgeHolders()
	var all []string
	for _, f := range i.report.Findings {
		all = append(all, string(f.Kind)+strings.TrimPrefix(f.String(), f.Object.String()))
	}
	return strings.Join(all, "; ")
}

// TestInspectObstacles has each object but pods that stops a rotation, beside one that does not, in a real API server.
func TestInspectObstacles(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	createHooks(t, client)
	createBudget(t, client, "uncounted", policyv1.PodDisruptionBudgetStatus{Conditions: []metav1.Condition{{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: "found no controller ref for pod \"lone\"", LastTransitionTime: metav1.Now(),
	}}})
	createBudget(t, client, "tight", policyv1.PodDisruptionBudgetStatus{ExpectedPods: 2, CurrentHealthy: 2,
		DesiredHealthy: 2})
	createBudget(t, client, "roomy", policyv1.PodDisruptionBudgetStatus{ExpectedPods: 2, CurrentHealthy: 2,
		DesiredHealthy: 1, DisruptionsAllowed: 1})
	createBudget(t, client, "empty", policyv1.PodDisruptionBudgetStatus{})
	createLocalVolume(t, client)

	report, err := Inspect(t.Context(), config, v1alpha1.NodeRefreshReplace)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range report.Findings {
		got = append(got, string(f.Effect)+" "+string(f.Kind)+" "+f.Object.Kind+" "+f.String())
	}
	want := []string{
		"Stops DeadWebhook MutatingWebhookConfiguration dead (webhook gone.example.com: its Service default/gone does not " +
			"exist)",
		"Stops DeadWebhook MutatingWebhookConfiguration dead (webhook reviews.example.com: its Service default/idle has " +
			"no ready endpoint)",
		"Stops UncountedBudget PodDisruptionBudget default/uncounted (found no controller ref for pod \"lone\")",
		"Stops BlockingBudget PodDisruptionBudget default/tight (2 pods are healthy, 2 have to be)",
		"Breaks BoundToNode Pod default/db (local volume data)",
		"Warns UnansweredWebhook MutatingWebhookConfiguration dead (webhook ignored.example.com: its Service default/gone " +
			"does not exist)",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("findings (-want +got):\n%s", diff)
	}
}

func createBudget(t *testing.T, client kubernetes.Interface, name string, status policyv1.PodDisruptionBudgetStatus) {
	t.Helper()
	budgets := client.PolicyV1().PodDisruptionBudgets("default")
	b, err := budgets.Create(t.Context(), &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: name}},
		metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b.Status = status
	if _, err := budgets.UpdateStatus(t.Context(), b, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// createLocalVolume makes a pod with a volume that is on one node.
func createLocalVolume(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	volume := persistentVolume("data")
	volume.Spec.CSI = nil
	volume.Spec.Local = &corev1.LocalVolumeSource{Path: "/var/lib/x"}
	volume.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	terms := []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
		{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"n1"}},
	}}}
	volume.Spec.NodeAffinity = &corev1.VolumeNodeAffinity{
		Required: &corev1.NodeSelector{NodeSelectorTerms: terms},
	}
	if _, err := client.CoreV1().PersistentVolumes().Create(t.Context(), volume, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	yes := true
	db := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "db", OwnerReferences: []metav1.OwnerReference{{
			APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "1", Controller: &yes,
		}}},
		Spec: corev1.PodSpec{
			NodeName: "n1", Containers: []corev1.Container{{Name: "main", Image: "none"}},
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"},
			}}},
		},
	}
	if _, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}); err != nil {
		t.Log(err) // it may be there
	}
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), db, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// createHooks makes webhooks with and without somebody to answer, for what a rotation does and for other things. They
// select namespaces that do not exist, so that none is ever called.
func createHooks(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	for _, name := range []string{"idle", "busy"} {
		service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}
		if _, err := client.CoreV1().Services("default").Create(t.Context(), service, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		ready := name == "busy"
		endpoints := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"},
				Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		}
		if _, err := client.DiscoveryV1().EndpointSlices("default").Create(t.Context(), endpoints,
			metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	hooks := &admissionv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "dead"}}
	for _, h := range []struct {
		name, service, group, resource string
		ignore                         bool
	}{
		{name: "gone.example.com", service: "gone", resource: "secrets"},
		{name: "reviews.example.com", service: "idle", group: "*", resource: "*/*"},
		{name: "served.example.com", service: "busy", resource: "secrets"},
		{name: "other.example.com", service: "gone", resource: "configmaps"},
		{name: "ignored.example.com", service: "gone", resource: "pods/eviction", ignore: true},
		{name: "somewhere.example.com", resource: "secrets"},
	} {
		hooks.Webhooks = append(hooks.Webhooks, mutatingHook(h.name, h.service, h.group, h.resource, h.ignore))
	}
	if _, err := client.AdmissionregistrationV1().MutatingWebhookConfigurations().Create(t.Context(), hooks,
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func mutatingHook(name, service, group, resource string, ignore bool) admissionv1.MutatingWebhook {
	none, policy, url := admissionv1.SideEffectClassNone, admissionv1.Fail, "https://127.0.0.1:1/"
	if ignore {
		policy = admissionv1.Ignore
	}
	client := admissionv1.WebhookClientConfig{URL: &url}
	if service != "" {
		client = admissionv1.WebhookClientConfig{Service: &admissionv1.ServiceReference{Namespace: "default", Name: service}}
	}
	return admissionv1.MutatingWebhook{
		Name: name, AdmissionReviewVersions: []string{"v1"}, SideEffects: &none, FailurePolicy: &policy, ClientConfig: client,
		NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"none": "such"}},
		ObjectSelector:    &metav1.LabelSelector{MatchLabels: map[string]string{"none": "such"}},
		Rules: []admissionv1.RuleWithOperations{{
			Operations: []admissionv1.OperationType{admissionv1.OperationAll},
			Rule:       admissionv1.Rule{APIGroups: []string{group}, APIVersions: []string{"*"}, Resources: []string{resource}},
		}},
	}
}

// TestOfAlgorithm has clusters whose keys leave RSA, with and without verifiers outside.
func TestOfAlgorithm(t *testing.T) {
	for _, test := range []struct {
		from, to v1alpha1.Algorithm
		publish  []string
		fleet    bool
		want     []string
	}{
		{from: v1alpha1.RS256, to: v1alpha1.ES256, publish: []string{"s3://b"}, fleet: true,
			want: []string{"projects/p/locations/global/memberships/blue (RS256 -> ES256)", "s3://b (RS256 -> ES256)"}},
		{from: "", to: v1alpha1.ES256, publish: []string{"s3://b"}, want: []string{"s3://b (RS256 -> ES256)"}},
		{from: v1alpha1.RS256, to: v1alpha1.ES256},
		{from: v1alpha1.RS256, to: v1alpha1.RS256, publish: []string{"s3://b"}},
		{from: v1alpha1.ES256, to: v1alpha1.ES256, publish: []string{"s3://b"}},
		{from: v1alpha1.ES256, to: v1alpha1.RS256, publish: []string{"s3://b"}},
	} {
		uc := &v1alpha1.UserCluster{ObjectMeta: metav1.ObjectMeta{Name: "blue"}}
		uc.Spec.KSASigningKey.Algorithm, uc.Spec.KSASigningKey.Publish = test.to, test.publish
		if test.fleet {
			uc.Spec.GKEConnect = &v1alpha1.GKEConnect{ProjectID: "p", Location: "global"}
		}
		if test.from != "" {
			uc.Status.KSASigningKey.Keys = []v1alpha1.KeyVersionStatus{{Version: 1, Algorithm: v1alpha1.ES256},
				{Version: 2, Algorithm: test.from}}
		}
		var got []string
		for _, f := range OfAlgorithm(uc) {
			got = append(got, f.String())
			if f.Effect != Breaks || !strings.Contains(f.Text, "Entra") || !strings.Contains(f.Text, "ANOTHER ROTATION") {
				t.Errorf("%+v", f)
			}
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%s to %s: %q, want %q", test.from, test.to, got, test.want)
		}
	}
}

// TestMeanings wants each kind of finding to be explained, once.
func TestMeanings(t *testing.T) {
	seen := map[Kind]bool{}
	for _, m := range meanings {
		if seen[m.kind] || m.text == "" || !slices.Contains([]Effect{Stops, Breaks, Warns}, m.effect) {
			t.Errorf("%+v", m)
		}
		seen[m.kind] = true
	}
}
