package kubeadm

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// showMirror has a node show its static pod with one container, with this status.
func showMirror(t *testing.T, client kubernetes.Interface, namespace, name, node string, s corev1.PodStatus) {
	t.Helper()
	pods := client.CoreV1().Pods(namespace)
	p := must(pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name + "-" + node, Labels: map[string]string{nameLabel: name, componentLabel: name},
			Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "0123"},
		},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: name, Image: "image"}}},
	}, metav1.CreateOptions{}))
	p.Status = s
	must(pods.UpdateStatus(t.Context(), p, metav1.UpdateOptions{}))
}

// TestLastLog reads the log of a kube-apiserver: of the process before, or of the one of now if there was none before.
func TestLastLog(t *testing.T) {
	r := newReach("uid", kubetest.Start(t, kubetest.Options{}), &controlplane.Prover{})
	defer r.close()
	client := must(r.client())
	again := false
	kubelet := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		text := "of now"
		if q.URL.Query().Get("previous") == "true" {
			if text = "of before\n"; !again {
				http.Error(w, "previous terminated container not found", http.StatusBadRequest)
				return
			}
		}
		_, _ = io.WriteString(w, text)
	}))
	defer kubelet.Close()
	_, port, err := net.SplitHostPort(kubelet.Listener.Addr().String())
	must(0, err)
	must(client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "a"}, Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{
				KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(must(strconv.Atoi(port)))},
			},
		},
	}, metav1.CreateOptions{}))
	showMirror(t, client, metav1.NamespaceSystem, apiServer, "a", corev1.PodStatus{})
	for _, want := range []string{"of now", "of before\n"} {
		if got, err := r.lastLog(t.Context(), "a"); got != want || err != nil {
			t.Errorf("the log is %q, want %q: %v", got, want, err)
		}
		again = true
	}
	if got, err := r.lastLog(t.Context(), "nobody"); got != "" || err == nil {
		t.Errorf("the log of a node that is not there is %q", got)
	}
}

func TestLastLines(t *testing.T) {
	for text, want := range map[string]string{
		"":                         "",
		"\n \n":                    "",
		"a\nb\n\nc\nd\n":           "b | c | d",
		"a\x1b[2J\r\nb\u202e\n":    "a [2J | b",
		strings.Repeat("x", 1<<16): strings.Repeat("x", 300) + "…",
	} {
		if got := lastLines(text); got != want {
			t.Errorf("of %.20q these are %q", text, got)
		}
	}
}

// TestSignersThatDoNotRun tells by their mirror pods why signers do not run, and by whose flag they have their image.
func TestSignersThatDoNotRun(t *testing.T) {
	r := newReach("uid", kubetest.Start(t, kubetest.Options{}), &controlplane.Prover{})
	defer r.close()
	client := must(r.client())
	p := &pods{reach: r, images: Images{Agent: "agent:v1", Namespace: "agents"}, cluster: "uid", certificatesDir: "/pki"}
	must(0, p.ensure(t.Context()))
	status := func(s corev1.ContainerState) corev1.PodStatus {
		return corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: signerContainer, State: s}}}
	}
	waits := func(reason, message string) corev1.PodStatus {
		return status(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}})
	}
	for node, s := range map[string]corev1.PodStatus{
		"a": waits("ImagePullBackOff", "Back-off\x1b[31m pulling "+strings.Repeat("x", 1000)),
		"b": waits("CrashLoopBackOff", "back-off 10s"),
		"c": status(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}),
		"d": {Phase: corev1.PodFailed, Reason: "OutOfcpu", Message: "Node didn't have enough resource"},
		"e": {},
	} {
		showMirror(t, client, "agents", signerPod, node, s)
	}
	got := must(p.list(t.Context())).signers
	for node, want := range map[string]string{
		"a": "ImagePullBackOff: Back-off [31m pulling " + strings.Repeat("x", 260) +
			"…; start keyturn-controller with --signer-image and an image that the node can pull",
		"b": "CrashLoopBackOff: back-off 10s", "d": "OutOfcpu: Node didn't have enough resource",
		"e": "the pod does not run yet",
	} {
		if want = "pod agents/keyturn-signer-" + node + ": " + want; got[node] != want {
			t.Errorf("on node %s it is %q, want %q", node, got[node], want)
		}
	}
	if got["c"] != "" {
		t.Errorf("the signer that runs: %s", got["c"])
	}
}
