package controlplane_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/webhooks"
)

// TestProofThatAWebhookHolds has a webhook that never answers catch what a proof asks. The proof ends by its own
// deadline, names the webhook, and tells that this is no refusal of a key.
func TestProofThatAWebhookHolds(t *testing.T) {
	for _, test := range []struct {
		name   string
		policy admissionv1.FailurePolicyType
		rule   admissionv1.Rule
	}{
		{"TokenReview", admissionv1.Fail, admissionv1.Rule{
			APIGroups: []string{"authentication.k8s.io"}, APIVersions: []string{"v1"}, Resources: []string{"tokenreviews"},
		}},
		{"TokenRequest", admissionv1.Ignore, admissionv1.Rule{
			APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"serviceaccounts/token"},
		}},
		{"everything", admissionv1.Fail, admissionv1.Rule{
			APIGroups: []string{"*"}, APIVersions: []string{"*"}, Resources: []string{"*/*"},
		}},
	} {
		t.Run(test.name, func(t *testing.T) { proofThatAWebhookHolds(t, test.policy, test.rule) })
	}
}

func proofThatAWebhookHolds(t *testing.T, policy admissionv1.FailurePolicyType, rule admissionv1.Rule) {
	one := generate(t, 1, "ES256")
	cfg := kubetest.Start(t, kubetest.Options{APIServerArgs: keyFiles(t, one, one)})
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ask(t, cfg, one) // makes the account
	all := admissionv1.RuleWithOperations{Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: rule}
	kubetest.Hang(t, client, policy, all, func(ctx context.Context) {
		_, _ = client.AuthenticationV1().TokenReviews().Create(ctx,
			&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "x"}}, metav1.CreateOptions{})
		_, _ = client.CoreV1().ServiceAccounts(controlplane.Canary.Namespace).CreateToken(ctx, controlplane.Canary.Name,
			&authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	})
	question := controlplane.Question{Config: cfg, Keys: []keystore.KeyPair{one}}
	for named := false; !named; { // a machine that is busy may not read in time which webhooks there are
		_, err := new(controlplane.Prover).Prove(t.Context(), question)
		if err == nil || !strings.Contains(err.Error(), "which is no refusal") {
			t.Fatalf("the proof ends with %v", err)
		}
		_, ok := errors.AsType[*webhooks.Error](err)
		named = ok && strings.Contains(err.Error(), kubetest.WebhookName)
	}
}
