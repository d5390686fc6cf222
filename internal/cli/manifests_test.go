package cli

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
)

// makeAdmin makes an admin cluster of an API server, and waits until its policies are in force.
func makeAdmin(ctx context.Context, config *rest.Config) error {
	if err := install.Apply(ctx, config); err != nil {
		return err
	}
	return awaitPolicy(ctx, config)
}

// awaitPolicy makes changes that the policies forbid until each is refused.
func awaitPolicy(ctx context.Context, config *rest.Config) error {
	c, err := client.New(config, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := tryPolicy(ctx, c)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func tryPolicy(ctx context.Context, c client.Client) error {
	uc := &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: "policy-probe"},
		Spec: v1alpha1.UserClusterSpec{
			Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
				KubernetesVersion: "v1.36.4",
				Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
				ControlPlane:      v1alpha1.ControlPlane{Replicas: 1},
			}},
			KSASigningKey: v1alpha1.KSASigningKey{
				Version: 1, Source: v1alpha1.KeySourceFiles, Algorithm: v1alpha1.RS256,
				Issuer: v1alpha1.DefaultIssuer, PublishMaxAgeSeconds: 60,
			},
		},
	}
	if err := c.Create(ctx, uc); err != nil {
		return err
	}
	defer c.Delete(ctx, uc)
	raised := uc.DeepCopy()
	raised.Spec.KSASigningKey.Version++
	if err := c.Update(ctx, raised, client.DryRunAll); !apierrors.IsForbidden(err) {
		return fmt.Errorf("a rotation of a cluster that is not ready is not refused: %w", err)
	}
	return nil
}
