package kubetest

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
)

// WebhookName is the name of the webhooks of tests, in the ValidatingWebhookConfiguration webhook-of-a-test.
const WebhookName = "hook.keyturn.test"

// Hang registers a webhook that never answers requests of a rule, waits until the API server calls it for the request
// of try, and gives try a context that ends soon.
func Hang(
	tb testing.TB, client kubernetes.Interface, policy admissionv1.FailurePolicyType, rule admissionv1.RuleWithOperations,
	try func(context.Context),
) {
	tb.Helper()
	var called atomic.Bool
	ended := make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		called.Store(true)
		select {
		case <-ended:
		case <-r.Context().Done():
		}
	}))
	tb.Cleanup(server.Close)
	tb.Cleanup(func() { close(ended) })
	Register(tb, client, policy, rule, server.URL, server.Certificate().Raw)
	err := wait.PollUntilContextTimeout(tb.Context(), 50*time.Millisecond, 5*time.Minute, true,
		func(ctx context.Context) (bool, error) {
			ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			try(ctx)
			return called.Load(), nil
		})
	if err != nil {
		tb.Fatalf("the webhook is never called: %v", err)
	}
}

// Register registers a webhook at a URL for requests of a rule. The API server waits half a minute for it, and starts
// to call it some time later.
func Register(
	tb testing.TB, client kubernetes.Interface, policy admissionv1.FailurePolicyType, rule admissionv1.RuleWithOperations,
	url string, certificate []byte,
) {
	tb.Helper()
	hook := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "webhook-of-a-test"},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: WebhookName, AdmissionReviewVersions: []string{"v1"}, SideEffects: new(admissionv1.SideEffectClassNone),
			TimeoutSeconds: new(int32(30)), FailurePolicy: &policy, Rules: []admissionv1.RuleWithOperations{rule},
			ClientConfig: admissionv1.WebhookClientConfig{
				URL: &url, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}),
			},
		}},
	}
	hooks := client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	if _, err := hooks.Create(tb.Context(), hook, metav1.CreateOptions{}); err != nil {
		tb.Fatal(err)
	}
}
