package legacytoken

import (
	"context"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
)

// testDeadTokens has Secrets with old tokens that API servers refuse: one that is being deleted and kept by a
// finalizer, and one whose account is gone. They keep nobody from the proof.
func testDeadTokens(t *testing.T, c *cluster) {
	uid := c.account(t, "a", "robot")
	held := legacySecret(t, c.old, "a", "held", "robot", uid)
	held.Finalizers = []string{"example.com/hold"}
	dead := []*corev1.Secret{
		c.create(t, held),
		c.create(t, legacySecret(t, c.old, "a", "orphan", "gone", "1")),
	}
	alive := c.create(t, legacySecret(t, c.old, "a", "alive", "robot", uid))
	if err := c.client.CoreV1().Secrets("a").Delete(t.Context(), "held", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, s := range dead {
		// The API server learns of accounts from a watch.
		refused := func(context.Context) (bool, error) { return c.review(t, s) == "", nil }
		if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 5*time.Minute, true, refused); err != nil {
			t.Errorf("the API server accepts the token of Secret %s", s.Name)
		}
	}
	if c.review(t, alive) == "" {
		t.Error("the API server refuses every token")
	}
	r := &Refresher{Client: c.client}
	if result := pass(t, r, targetOf(t, c.new)); result.Total != 1 || result.Resigned != 1 || len(result.Blocked) > 0 {
		t.Errorf("first walk: %+v, want one Secret, re-signed", result)
	}
	if result := pass(t, r, targetOf(t, c.new)); !result.Proven() {
		t.Errorf("second walk: %+v, want a proof", result)
	}
	patch := []byte(`{"metadata":{"finalizers":null}}`)
	if _, err := c.client.CoreV1().Secrets("a").Patch(t.Context(), "held", types.MergePatchType, patch,
		metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// testWrittenBack has a tool write the old token back after each walk. It is named after some, and no longer once it
// stops.
func testWrittenBack(t *testing.T, c *cluster) {
	c.fill(t, "a", 3)
	uid := c.account(t, "a", "robot")
	old := c.create(t, legacySecret(t, c.old, "a", "synced", "robot", uid))
	writeBack := func() {
		s, err := c.client.CoreV1().Secrets("a").Get(t.Context(), "synced", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s.Data = old.Data
		if _, err := c.client.CoreV1().Secrets("a").Update(t.Context(), s,
			metav1.UpdateOptions{FieldManager: "gitops"}); err != nil {
			t.Fatal(err)
		}
	}
	r := &Refresher{Client: c.client}
	for walk := range someTimes + 1 {
		result := pass(t, r, targetOf(t, c.new))
		want := ""
		if walk == someTimes {
			want = "WrittenBack a/synced"
		}
		if result.Stale != 0 || problems(result) != want {
			t.Errorf("walk %d: %+v, want %q", walk, result, want)
		}
		if want != "" && (!result.Blocked[0].NeedsAction() ||
			!strings.Contains(result.Blocked[0].String(), `field manager "gitops"`)) {
			t.Errorf("the tool is not named: %s", result.Blocked[0])
		}
		writeBack()
	}
	if result := pass(t, r, targetOf(t, c.new)); result.Resigned != 1 {
		t.Errorf("the last one: %+v", result)
	}
	if result := pass(t, r, targetOf(t, c.new)); !result.Proven() {
		t.Errorf("without the tool: %+v, want a proof", result)
	}
}

// testDeadWebhook has a webhook for Secrets that nobody answers. Each is tried once in a walk, and the webhook is
// named; after some passes somebody must act.
func testDeadWebhook(t *testing.T, c *cluster) {
	c.fill(t, "a", 3)
	remove := c.deadWebhook(t)
	r := &Refresher{Client: c.client}
	for range someTimes + 1 {
		result := pass(t, r, targetOf(t, c.new))
		if result.Stale != 3 || len(result.Blocked) != 3 || result.Blocked[0].Reason != Unanswered ||
			!strings.Contains(result.Blocked[0].String(), `failed calling webhook "dead.keyturn.test"`) {
			t.Fatalf("%+v, want three Secrets and the webhook", result)
		}
		if lasts := r.history.troubled > someTimes; result.Blocked[0].NeedsAction() != lasts {
			t.Errorf("after %d passes: %+v", r.history.troubled, result.Blocked[0])
		}
	}
	remove()
	for range someTimes {
		if result := pass(t, r, targetOf(t, c.new)); result.Proven() {
			return
		}
	}
	t.Error("there is no proof without the webhook")
}

// deadWebhook makes a webhook for Secrets of namespace a at a port where nobody listens, and waits until writes fail.
func (c *cluster) deadWebhook(t *testing.T) (remove func()) {
	t.Helper()
	url, none, fail := "https://127.0.0.1:1/", admissionv1.SideEffectClassNone, admissionv1.Fail
	hooks := c.client.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	hook := &admissionv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: "dead"},
		Webhooks: []admissionv1.ValidatingWebhook{{
			Name: "dead.keyturn.test", AdmissionReviewVersions: []string{"v1"}, SideEffects: &none, FailurePolicy: &fail,
			ClientConfig: admissionv1.WebhookClientConfig{URL: &url},
			Rules: []admissionv1.RuleWithOperations{{
				Operations: []admissionv1.OperationType{admissionv1.Update},
				Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}},
			}},
		}},
	}
	if _, err := hooks.Create(t.Context(), hook, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	fails := func(context.Context) (bool, error) {
		patch := []byte(`{"metadata":{"labels":{"probe":"x"}}}`)
		_, err := c.client.CoreV1().Secrets("a").Patch(t.Context(), "token-00000", types.MergePatchType, patch,
			metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
		return err != nil, nil
	}
	await := func(what string, condition wait.ConditionWithContextFunc) {
		t.Helper()
		if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 5*time.Minute, true, condition); err != nil {
			t.Fatal(what)
		}
	}
	await("the webhook is never called", fails)
	return func() {
		if err := hooks.Delete(t.Context(), "dead", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		await("the webhook is called for ever", func(ctx context.Context) (bool, error) {
			failed, _ := fails(ctx)
			return !failed, nil
		})
	}
}
