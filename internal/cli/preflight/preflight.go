// Package preflight finds what a key rotation will do to the nodes and pods of a user cluster, before it does.
//
// Inspect is where to start. It reads in pages, never the content of a Secret, and changes nothing.
package preflight

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/tokens"
	"github.com/keyturn/keyturn/internal/podtokens"
)

// defaultPageSize is how many objects are read at a time.
const defaultPageSize = 500

// Report is what a rotation would meet. Every list is in the order of namespaces and names.
type Report struct {
	Nodes []Node
	// LegacySecrets is the number of Secrets whose legacy token will be signed again, and Immutable are those of which
	// it cannot be.
	LegacySecrets int
	Immutable     []string
	// Outside are those that no pod holds and that somebody uses: a system outside of the cluster, which has to get
	// the new token.
	Outside []Used
	// BarePods are pods without a controller: they end with their node and nothing makes them again.
	BarePods []string
	// Holders is how many running pods hold a token, and BareHolders are those without a controller.
	Holders     int
	BareHolders []string
	// Blocking are the PodDisruptionBudgets that let no pod go at the moment.
	Blocking []Budget
	// ThirdParty are running pods with tokens for other audiences, by audience.
	ThirdParty []PodUse
	// SubPaths are running pods that mount a token by subPath, by volume: they never see a new one.
	SubPaths []PodUse
	// Renewal is how long the kubelets take, at most, to replace the tokens of all running pods by themselves.
	Renewal time.Duration
	// Drivers are running pods for which the driver of a volume holds a token until they are deleted, by volume.
	Drivers []PodUse
	// Copies are running pods that have copied a legacy token when they started, which stays the old one, by Secret.
	Copies []PodUse
}

// Node is a node of the cluster.
type Node struct{ Name, Pool string }

// Budget is a PodDisruptionBudget: Healthy of its pods are, and Desired have to be.
type Budget struct {
	Name             string
	Healthy, Desired int32
	// Uncounted is why nobody can tell how many there are; see nodes.Uncounted.
	Uncounted string
}

// Used is a Secret and the day on which its token was used last, in UTC, like 2026-11-26.
type Used struct{ Secret, Last string }

// PodUse is a pod and what it uses: audiences, or the names of Secrets or volumes.
type PodUse struct {
	Pod  string
	Uses []string
}

// Inspect looks into the user cluster.
func Inspect(ctx context.Context, config *rest.Config) (Report, error) {
	return inspect(ctx, config, defaultPageSize)
}

func inspect(ctx context.Context, config *rest.Config, pageSize int64) (Report, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // One request after the other is slow enough.
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return Report{}, fmt.Errorf("using the kubeconfig of the user cluster: %w", err)
	}
	names, err := metadata.NewForConfig(config)
	if err != nil {
		return Report{}, fmt.Errorf("using the kubeconfig of the user cluster: %w", err)
	}
	i := &inspection{
		client: client, metadata: names, pageSize: pageSize, held: map[types.NamespacedName]bool{}, legacy: map[types.NamespacedName]bool{},
	}
	for _, look := range []func(context.Context) error{i.issuer, i.drivers, i.nodes, i.budgets, i.pods, i.legacySecrets} {
		if err := look(ctx); err != nil {
			return Report{}, err
		}
	}
	i.countHolders()
	return i.report, nil
}

type inspection struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	pageSize int64
	report   Report
	cluster  podtokens.Cluster
	// held are the Secrets of which pods hold what could be a legacy token, and copied are those of which they have
	// copied it.
	held   map[types.NamespacedName]bool
	copied []copiedSecrets
	// holders are pods that may hold a token.
	holders []holder
	// legacy are the Secrets that hold a legacy token.
	legacy map[types.NamespacedName]bool
}

type copiedSecrets struct {
	namespace, pod string
	secrets        []string
	// legacy are those of secrets that hold a legacy token.
	legacy []string
}

// issuer learns the API server's own audience, which is its issuer unless it is told otherwise.
func (i *inspection) issuer(ctx context.Context) error {
	data, err := i.client.Discovery().RESTClient().Get().AbsPath("/.well-known/openid-configuration").DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("reading the issuer of the user cluster: %w", err)
	}
	var document struct {
		Issuer string `json:"issuer"`
	}
	if err := json.Unmarshal(data, &document); err != nil {
		return fmt.Errorf("reading the issuer of the user cluster: %w", err)
	}
	i.cluster.Audiences = []string{document.Issuer}
	return nil
}

func (i *inspection) nodes(ctx context.Context) error {
	return i.eachPage(func(o metav1.ListOptions) (string, error) {
		list, err := i.client.CoreV1().Nodes().List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing nodes: %w", err)
		}
		for _, n := range list.Items {
			i.report.Nodes = append(i.report.Nodes, Node{Name: n.Name, Pool: n.Labels[v1alpha1.LabelNodePool]})
		}
		return list.Continue, nil
	})
}

func (i *inspection) budgets(ctx context.Context) error {
	return i.eachPage(func(o metav1.ListOptions) (string, error) {
		list, err := i.client.PolicyV1().PodDisruptionBudgets("").List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing PodDisruptionBudgets: %w", err)
		}
		for n := range list.Items {
			if b := &list.Items[n]; blocks(b) {
				i.report.Blocking = append(i.report.Blocking, Budget{
					Name: b.Namespace + "/" + b.Name, Healthy: b.Status.CurrentHealthy, Desired: b.Status.DesiredHealthy,
					Uncounted: nodes.Uncounted(b),
				})
			}
		}
		return list.Continue, nil
	})
}

// blocks reports whether a budget has pods and lets none of them go.
func blocks(b *policyv1.PodDisruptionBudget) bool {
	return b.Status.DisruptionsAllowed == 0 && (b.Status.ExpectedPods > 0 || nodes.Uncounted(b) != "")
}

func (i *inspection) pods(ctx context.Context) error {
	return i.eachPage(func(o metav1.ListOptions) (string, error) {
		o.FieldSelector = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="
		list, err := i.client.CoreV1().Pods("").List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing pods: %w", err)
		}
		for n := range list.Items {
			i.pod(&list.Items[n])
		}
		return list.Continue, nil
	})
}

func (i *inspection) pod(p *corev1.Pod) {
	name := p.Namespace + "/" + p.Name
	if metav1.GetControllerOf(p) == nil {
		i.report.BarePods = append(i.report.BarePods, name)
	}
	i.report.Renewal = max(i.report.Renewal, tokens.Renewal(p))
	var audiences, subPaths, drivers, secrets []string
	for _, t := range podtokens.Of(p, i.cluster) {
		switch t.Kind {
		case podtokens.ThirdParty:
			audiences = append(audiences, t.Audience)
		case podtokens.Legacy:
			i.held[types.NamespacedName{Namespace: p.Namespace, Name: t.Secret}] = true
		}
		switch {
		case t.Refresh == podtokens.ByKubelet:
		case t.Kind == podtokens.Legacy:
			secrets = append(secrets, t.Secret)
		case t.Way == podtokens.SubPath:
			subPaths = append(subPaths, t.Volume)
		default:
			drivers = append(drivers, t.Volume)
		}
	}
	i.holder(p, name)
	i.report.ThirdParty = appendUse(i.report.ThirdParty, name, audiences)
	i.report.SubPaths = appendUse(i.report.SubPaths, name, subPaths)
	i.report.Drivers = appendUse(i.report.Drivers, name, drivers)
	if len(secrets) > 0 {
		i.copied = append(i.copied, copiedSecrets{namespace: p.Namespace, pod: name, secrets: secrets})
	}
}

func appendUse(list []PodUse, pod string, uses []string) []PodUse {
	if len(uses) == 0 {
		return list
	}
	slices.Sort(uses)
	return append(list, PodUse{Pod: pod, Uses: slices.Compact(uses)})
}

// eachPage calls list for one page after the other.
func (i *inspection) eachPage(list func(metav1.ListOptions) (next string, err error)) error {
	o := metav1.ListOptions{Limit: i.pageSize}
	for {
		next, err := list(o)
		if err != nil || next == "" {
			return err
		}
		o.Continue = next
	}
}
