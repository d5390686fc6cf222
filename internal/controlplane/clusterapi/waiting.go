package clusterapi

import (
	"context"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// Waiting returns what the Cluster of a UserCluster lacks to be rotated, in words, such as that it is paused; empty
// when nothing. It reads the Cluster and its control plane from the admin cluster.
func Waiting(ctx context.Context, reader client.Reader, uc *v1alpha1.UserCluster) (string, error) {
	return managementOf(reader, uc).waiting(ctx)
}
