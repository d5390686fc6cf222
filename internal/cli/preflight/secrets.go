package preflight

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// legacySecrets lists legacy token Secrets, reading only their metadata.
func (i *inspection) legacySecrets(ctx context.Context) error {
	secrets := i.metadata.Resource(corev1.SchemeGroupVersion.WithResource("secrets"))
	return i.eachPage(func(o metav1.ListOptions) (string, error) {
		o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken)).String()
		list, err := secrets.List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing legacy tokens: %w", err)
		}
		for n := range list.Items {
			if err := i.legacySecret(ctx, &list.Items[n]); err != nil {
				return "", err
			}
		}
		return list.Continue, nil
	})
}

// lastUsedLabel is the label in which the API server records the day on which a legacy token was last used:
// LastUsedLabelKey in pkg/serviceaccount of Kubernetes.
const lastUsedLabel = "kubernetes.io/legacy-token-last-used"

func (i *inspection) legacySecret(ctx context.Context, s *metav1.PartialObjectMetadata) error {
	if s.DeletionTimestamp != nil {
		return nil // API servers refuse its token
	}
	i.report.LegacySecrets++
	i.legacy[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] = true
	object := Object{Kind: "Secret", Namespace: s.Namespace, Name: s.Name}
	last := s.Labels[lastUsedLabel]
	if last != "" && !i.held[types.NamespacedName{Namespace: s.Namespace, Name: s.Name}] {
		i.find(OutsideToken, object, "used last on "+last)
	}
	immutable, err := i.immutable(ctx, s)
	if immutable {
		i.find(ImmutableSecret, object, "")
	}
	return err
}

// immutable reports whether a Secret is marked immutable. Its metadata only shows that somebody has set the field, so
// immutable then writes to such a Secret in a dry run.
func (i *inspection) immutable(ctx context.Context, s *metav1.PartialObjectMetadata) (bool, error) {
	set := slices.ContainsFunc(s.ManagedFields, func(f metav1.ManagedFieldsEntry) bool {
		return f.FieldsV1 != nil && strings.Contains(f.FieldsV1.GetRawString(), `"f:immutable"`)
	})
	if !set {
		return false, nil
	}
	secrets := i.metadata.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(s.Namespace)
	_, err := secrets.Patch(ctx, s.Name, types.MergePatchType, []byte(`{"data":{"keyturn-dry-run":""}}`),
		metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}})
	switch {
	case apierrors.IsInvalid(err):
		return true, nil
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("trying to write Secret %s/%s: %w", s.Namespace, s.Name, err)
	}
	return false, nil
}
