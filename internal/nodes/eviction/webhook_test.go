package eviction

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/kubetest"
)

// ofEvictions is the rule of a webhook for evictions.
var ofEvictions = admissionv1.RuleWithOperations{
	Operations: []admissionv1.OperationType{admissionv1.Create},
	Rule: admissionv1.Rule{
		APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods/eviction"},
	},
}

// makePods makes pods that no scheduler binds to a node.
func makePods(t *testing.T, client kubernetes.Interface, n int) (pods []*corev1.Pod) {
	t.Helper()
	_, err := client.CoreV1().ServiceAccounts("default").Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	for i := range n {
		pod, err := client.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("pod-%d", i)},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: "none"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		pods = append(pods, pod)
	}
	return pods
}

// try asks for the eviction of a pod that does not exist, which goes through webhooks too.
func try(client kubernetes.Interface) func(context.Context) error {
	return func(ctx context.Context) error {
		return client.CoreV1().Pods("default").EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "none"}})
	}
}

// counter counts requests.
type counter struct {
	next         http.RoundTripper
	mu           sync.Mutex
	open, atOnce int
}

func (c *counter) RoundTrip(r *http.Request) (*http.Response, error) {
	c.add(1)
	defer c.add(-1)
	return c.next.RoundTrip(r)
}

func (c *counter) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open += n
	c.atOnce = max(c.atOnce, c.open)
}

func newClient(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// TestHangingWebhook has a webhook for evictions never answer. It holds several pods at once and not one after the
// other, and the webhook is named.
func TestHangingWebhook(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	client := newClient(t, config)
	pods := makePods(t, client, askers+2)
	attempt := try(client)
	kubetest.Hang(t, client, admissionv1.Ignore, ofEvictions, func(ctx context.Context) { _ = attempt(ctx) })
	c := &counter{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { c.next = next; return c })
	counted, named := newClient(t, config), false
	for !named { // a machine that is busy may not read in time which webhooks there are
		err := Each(t.Context(), counted, pods, noon, func(pod *corev1.Pod, r Refusal, is bool) {
			named = named || strings.Contains(r.Words, "webhook "+kubetest.WebhookName)
			if !is || r.Hopeless || !strings.Contains(r.Words, "which is no refusal") {
				t.Errorf("pod %s: refused: %t, by %+v", pod.Name, is, r)
			}
		})
		if err != nil || t.Failed() {
			t.Fatal(err)
		}
	}
	if c.atOnce < 2 || c.atOnce > askers {
		t.Errorf("%d pods were asked at once, want several, and at most %d", c.atOnce, askers)
	}
}

// TestDeadWebhook has nobody answer for a webhook: with Fail each pod is refused by name of the webhook, and with
// Ignore each goes.
func TestDeadWebhook(t *testing.T) {
	for _, policy := range []admissionv1.FailurePolicyType{admissionv1.Fail, admissionv1.Ignore} {
		t.Run(string(policy), func(t *testing.T) {
			client := newClient(t, kubetest.Start(t, kubetest.Options{}))
			pods := makePods(t, client, 3)
			attempt := try(client)
			kubetest.Register(t, client, policy, ofEvictions, "https://127.0.0.1:1", nil)
			if policy == admissionv1.Fail {
				err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 5*time.Minute, true,
					func(ctx context.Context) (bool, error) { return !apierrors.IsNotFound(attempt(ctx)), nil })
				if err != nil {
					t.Fatalf("the webhook is never called: %v", err)
				}
			}
			gone := 0
			err := Each(t.Context(), client, pods, noon, func(pod *corev1.Pod, r Refusal, refused bool) {
				switch {
				case !refused:
					gone++
				case !strings.Contains(r.Words, kubetest.WebhookName):
					t.Errorf("pod %s is refused by %+v", pod.Name, r)
				}
			})
			if want := map[admissionv1.FailurePolicyType]int{admissionv1.Ignore: 3}[policy]; err != nil || gone != want {
				t.Errorf("%d pods go (%v), want %d", gone, err, want)
			}
		})
	}
}

// TestEachWithAnEndedRound reports the pods that could not be asked.
func TestEachWithAnEndedRound(t *testing.T) {
	client := newClient(t, &rest.Config{Host: "https://127.0.0.1:1"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := Each(ctx, client, []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "pod"}}}, noon,
		func(pod *corev1.Pod, r Refusal, refused bool) { t.Errorf("pod %s: %+v, %t", pod.Name, r, refused) })
	if err == nil {
		t.Error("no error, although nobody was asked")
	}
}
