package controlplane

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// Clients makes clients of user clusters: by client certificate, through the load balancer, in protobuf, and
// without client-side limits, since the API servers have their own.
type Clients struct {
	Adapter Adapter
}

// Client returns a client of a user cluster.
func (c Clients) Client(ctx context.Context, uc *v1alpha1.UserCluster) (kubernetes.Interface, error) {
	cfg, err := c.Adapter.Config(ctx, uc, "")
	if err != nil {
		return nil, fmt.Errorf("finding how to reach cluster %s: %w", uc.Name, err)
	}
	client, err := kubernetes.NewForConfig(Unlimited(cfg))
	if err != nil {
		return nil, fmt.Errorf("making a client for cluster %s: %w", uc.Name, err)
	}
	return client, nil
}

// Unlimited returns a copy of a configuration without client limits and in protobuf: what the API server's CPU can
// do is then the only limit.
func Unlimited(cfg *rest.Config) *rest.Config {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = -1, 0
	cfg.ContentType = runtime.ContentTypeProtobuf
	cfg.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	return cfg
}
