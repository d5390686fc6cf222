package plane

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applydiscovery "k8s.io/client-go/applyconfigurations/discovery/v1"
	applyrbac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/internal/local/components"
)

const (
	fieldManager      = "keyturn"
	bootstrapperGroup = "system:bootstrappers"
)

// binding grants a cluster role to a user or a group.
type binding struct{ name, role, kind, subject string }

// bindings are required before nodes can join a cluster; kubeadm creates them, too.
var bindings = []binding{
	{"keyturn:kubelet-client", "system:kubelet-api-admin", rbacv1.UserKind, components.KubeletClientUser},
	{"keyturn:node-bootstrapper", "system:node-bootstrapper", rbacv1.GroupKind, bootstrapperGroup},
	{"keyturn:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
		rbacv1.GroupKind, bootstrapperGroup},
	{"keyturn:node-autoapprove-renewal", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
		rbacv1.GroupKind, "system:nodes"},
}

// namespaceReader is the role in which CoreDNS reads namespaces. It reads Services and EndpointSlices as kube-proxy
// does.
const namespaceReader = "keyturn:node-namespaces"

// nodeServices let kube-proxy and CoreDNS use the kubelet's certificate, since a token would be one more to rotate.
var nodeServices = []binding{
	{"keyturn:node-proxier", "system:node-proxier", rbacv1.GroupKind, "system:nodes"},
	{namespaceReader, namespaceReader, rbacv1.GroupKind, "system:nodes"},
}

// LetNodesJoin creates what a machine needs to join a cluster.
func LetNodesJoin(ctx context.Context, client kubernetes.Interface) error {
	o := applyrbac.ClusterRole(namespaceReader).
		WithRules(applyrbac.PolicyRule().WithAPIGroups("").WithResources("namespaces").WithVerbs("list", "watch"))
	if _, err := client.RbacV1().ClusterRoles().Apply(ctx, o, applyOptions()); err != nil {
		return fmt.Errorf("applying ClusterRole %s: %w", namespaceReader, err)
	}
	return applyBindings(ctx, client, slices.Concat(nodeServices, bindings))
}

func applyBindings(ctx context.Context, client kubernetes.Interface, list []binding) error {
	for _, b := range list {
		if err := applyBinding(ctx, client, b); err != nil {
			return fmt.Errorf("applying ClusterRoleBinding %s: %w", b.name, err)
		}
	}
	return nil
}

// bootstrapTimeout limits one attempt to apply the objects: an API server that is ready may still wait for etcd.
const bootstrapTimeout = time.Second

// bootstrap creates the objects without which no node can join, once in the life of this Host. Observe reports a
// failure and the next call retries: nothing else in Converge depends on it.
func (p *Plane) bootstrap(ctx context.Context, v view) {
	if p.host.hasApplied(p.Site) {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, bootstrapTimeout)
	defer cancel()
	for _, s := range v.servers {
		if s.healthy && !s.stopping {
			p.host.noteApplied(p.Site, p.applyObjects(ctx, s.Endpoint))
			return
		}
	}
}

func (p *Plane) applyObjects(ctx context.Context, url string) error {
	cfg, err := p.RESTConfig(url)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return fmt.Errorf("making a client for cluster %s: %w", p.Name, err)
	}
	if err := applyBindings(ctx, client, bindings); err != nil {
		return err
	}
	if p.Loopback {
		return nil // an endpoint may not be a loopback address, and there is no pod that would need it
	}
	if err := p.applyEndpoint(ctx, client); err != nil {
		return fmt.Errorf("applying the endpoint of Service kubernetes: %w", err)
	}
	return nil
}

func applyOptions() metav1.ApplyOptions {
	return metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
}

func applyBinding(ctx context.Context, client kubernetes.Interface, b binding) error {
	o := applyrbac.ClusterRoleBinding(b.name).
		WithRoleRef(applyrbac.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("ClusterRole").WithName(b.role)).
		WithSubjects(applyrbac.Subject().WithAPIGroup(rbacv1.GroupName).WithKind(b.kind).WithName(b.subject))
	_, err := client.RbacV1().ClusterRoleBindings().Apply(ctx, o, applyOptions())
	return err
}

// applyEndpoint makes the load balancer the one endpoint of the Service kubernetes, so that pods do not reach an API
// server that is being restarted.
func (p *Plane) applyEndpoint(ctx context.Context, client kubernetes.Interface) error {
	const service, port = "kubernetes", 6443
	addr := p.LoadBalancer().String()
	slice := applydiscovery.EndpointSlice(service, metav1.NamespaceDefault).
		WithLabels(map[string]string{discoveryv1.LabelServiceName: service}).
		WithAddressType(discoveryv1.AddressTypeIPv4).
		WithPorts(applydiscovery.EndpointPort().WithName("https").WithProtocol(corev1.ProtocolTCP).WithPort(port)).
		WithEndpoints(applydiscovery.Endpoint().WithAddresses(addr).
			WithConditions(applydiscovery.EndpointConditions().WithReady(true)))
	_, err := client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault).Apply(ctx, slice, applyOptions())
	return err
}
