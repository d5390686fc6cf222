package webhooks

import (
	"context"
	"errors"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// TestCatches follows the rules of k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules.
func TestCatches(t *testing.T) {
	secret := Request{admissionv1.Update, "", "secrets", ""}
	review := Request{admissionv1.Create, "authentication.k8s.io", "tokenreviews", ""}
	eviction := Request{admissionv1.Create, "", "pods", "eviction"}
	for _, test := range []struct {
		operation       admissionv1.OperationType
		group, resource string
		of              Request
		want            bool
	}{
		{admissionv1.Update, "", "secrets", secret, true},
		{admissionv1.Create, "", "secrets", secret, false},
		{"*", "*", "*", secret, true},
		{"*", "*", "*/*", secret, true},
		{"*", "*", "secrets/*", secret, true},
		{"*", "*", "secrets/status", secret, false},
		{"*", "apps", "*", secret, false},
		{"*", "*", "*/*", review, true},
		{"*", "", "*/*", review, false},
		{"*", "*", "*", eviction, false},
		{"*", "*", "*/*", eviction, true},
		{"*", "*", "*/eviction", eviction, true},
		{"*", "*", "pods", eviction, false},
		{"*", "*", "pods/eviction", eviction, true},
	} {
		h := Hook{Rules: []admissionv1.RuleWithOperations{{
			Operations: []admissionv1.OperationType{test.operation},
			Rule:       admissionv1.Rule{APIGroups: []string{test.group}, Resources: []string{test.resource}},
		}}}
		if got := h.Catches(test.of); got != test.want {
			t.Errorf("%s %q %s catches %s: %t", test.operation, test.group, test.resource, test.of, got)
		}
		if got := len(Catching([]Hook{h}, test.of)) == 1; got != test.want {
			t.Errorf("Catching: %t, want %t", got, test.want)
		}
	}
}

// TestExplain tells failed calls of webhooks from other errors.
func TestExplain(t *testing.T) {
	call := apierrors.NewInternalError(errors.New(`failed calling webhook "dead.example.com": no endpoints available`))
	_, named := errors.AsType[*Error](Explain(t.Context(), nil, call))
	if err := Explain(t.Context(), nil, call); !named || !strings.Contains(err.Error(), "dead.example.com") ||
		!apierrors.IsInternalError(err) {
		t.Errorf("a failed call: %v", err)
	}
	for _, err := range []error{nil, context.Canceled, apierrors.NewInternalError(errors.New("disk full"))} {
		if got := Explain(t.Context(), nil, err); got != err { //nolint:errorlint // the very same
			t.Errorf("%v is explained as %v", err, got)
		}
	}
}
