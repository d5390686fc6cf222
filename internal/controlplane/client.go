package controlplane

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Client makes a client of a user cluster: by client certificate, through the load balancer, in protobuf, and without
// client-side limits, since the API servers have their own.
func Client(ctx context.Context, of Adapter) (kubernetes.Interface, error) {
	cfg, err := of.Config(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("finding how to reach the cluster: %w", err)
	}
	client, err := kubernetes.NewForConfig(Unlimited(cfg))
	if err != nil {
		return nil, fmt.Errorf("making a client for %s: %w", cfg.Host, err)
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
