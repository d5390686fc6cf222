package agentpod_test

import (
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent/agentpod"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// TestAccepted makes the objects, and a pod of them, at a real API server.
func TestAccepted(t *testing.T) {
	client, err := kubernetes.NewForConfig(kubetest.Start(t, kubetest.Options{}))
	must(t, err)
	o := agentpod.Kubeadm("keyturn-agent", "registry.example.com/keyturn-agent:v1", v1alpha1.DefaultCertificatesDir)
	namespaces, sets := client.CoreV1().Namespaces(), client.AppsV1().DaemonSets(o.Namespace)
	_, err = namespaces.Create(t.Context(), o.NamespaceObject(), metav1.CreateOptions{})
	must(t, err)
	strict := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	set, err := sets.Create(t.Context(), o.DaemonSet(), strict)
	must(t, err)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: set.Spec.Template.Spec}
	pod, err = client.CoreV1().Pods(o.Namespace).Create(t.Context(), pod, strict)
	must(t, err)
	checkPod(t, pod)

	// In a namespace of any other level, it is refused.
	_, err = namespaces.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: "baseline", Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"},
	}}, metav1.CreateOptions{})
	must(t, err)
	refused := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "agent"}, Spec: set.Spec.Template.Spec}
	if _, err := client.CoreV1().Pods("baseline").Create(t.Context(), refused, strict); err == nil ||
		!strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("pod security lets it pass: %v", err)
	}
}

// checkPod wants the pod to have no credential and no more of its node than three directories.
func checkPod(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	s := pod.Spec
	// A control-plane node counts by the key of its label: the value may be any.
	terms := s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(s.NodeSelector) > 0 || len(terms) != 1 || len(terms[0].MatchExpressions) != 1 ||
		terms[0].MatchExpressions[0].Operator != corev1.NodeSelectorOpExists {
		t.Errorf("it runs on nodes with %v and %+v", s.NodeSelector, terms)
	}
	if s.HostPID || s.HostIPC || s.AutomountServiceAccountToken == nil || *s.AutomountServiceAccountToken {
		t.Error("it has a namespace of its host or a token")
	}
	var paths []string
	for _, v := range s.Volumes {
		switch {
		case v.HostPath != nil:
			paths = append(paths, v.HostPath.Path)
		case v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumMemory:
			t.Errorf("volume %s is neither of the host nor in memory", v.Name)
		}
	}
	if want := []string{
		"/etc/kubernetes/pki", "/etc/kubernetes/manifests", "/var/lib/keyturn",
	}; !slices.Equal(paths, want) {
		t.Errorf("it sees %q of its host", paths)
	}
	for _, c := range slices.Concat(s.InitContainers, s.Containers) {
		security := c.SecurityContext
		if *security.Privileged || *security.AllowPrivilegeEscalation || !*security.ReadOnlyRootFilesystem ||
			!slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) || len(c.Ports) > 0 {
			t.Errorf("container %s: %+v", c.Name, security)
		}
	}
	if add := s.Containers[0].SecurityContext.Capabilities.Add; !slices.Equal(add,
		[]corev1.Capability{"CHOWN", "DAC_READ_SEARCH"}) {
		t.Errorf("capabilities %v", add)
	}
	if init := s.InitContainers[0]; len(init.VolumeMounts) != 1 || init.SecurityContext.Capabilities.Add != nil ||
		init.TerminationMessagePolicy != corev1.TerminationMessageReadFile {
		t.Errorf("init container: %+v", init)
	}
}

// TestSignerAccepted has the API server accept the pod of the signer, as the kubelet makes its mirror.
func TestSignerAccepted(t *testing.T) {
	client, err := kubernetes.NewForConfig(kubetest.Start(t, kubetest.Options{}))
	must(t, err)
	text, err := os.ReadFile("../testdata/signer.golden")
	must(t, err)
	pod := &corev1.Pod{}
	must(t, yaml.UnmarshalStrict(text, pod))
	pod.Spec.Priority = nil // the API server computes it from the class
	_, err = client.CoreV1().Namespaces().Create(t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pod.Namespace}}, metav1.CreateOptions{})
	must(t, err)
	_, err = client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod,
		metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	must(t, err)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
