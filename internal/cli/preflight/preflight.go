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
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes/tokens"
)

// defaultPageSize is how many objects are read at a time.
const defaultPageSize = 500

// Report is what a rotation would meet. Every list is in the order of namespaces and names.
type Report struct {
	Nodes []Node
	// LegacySecrets is the number of Secrets whose legacy token will be signed again.
	LegacySecrets int
	// BarePods are pods without a controller: they end with their node and nothing makes them again.
	BarePods []string
	// Blocking are the PodDisruptionBudgets that let no pod go at the moment.
	Blocking []Budget
	// ThirdParty are running pods with tokens for other audiences, which are not refreshed.
	ThirdParty []PodUse
	// SubPaths are running pods that mount a token by subPath, by volume: they never see a new one.
	SubPaths []PodUse
	// Renewal is how long the kubelets take, at most, to replace the tokens of all running pods by themselves.
	Renewal time.Duration
	// EnvTokens are running pods with a legacy token in an environment variable, which stays the old one.
	EnvTokens []PodUse
}

// Node is a node of the cluster.
type Node struct{ Name, Pool string }

// Budget is a PodDisruptionBudget: Healthy of its pods are, and Desired have to be.
type Budget struct {
	Name             string
	Healthy, Desired int32
}

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
	i := &inspection{client: client, metadata: names, pageSize: pageSize}
	for _, look := range []func(context.Context) error{i.issuer, i.nodes, i.budgets, i.pods, i.legacySecrets} {
		if err := look(ctx); err != nil {
			return Report{}, err
		}
	}
	return i.report, nil
}

type inspection struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	pageSize int64
	report   Report
	// audience is that of the API server itself.
	audience string
	// envSecrets are the Secrets that pods use as environment variables, by pod.
	envSecrets []envSecrets
}

type envSecrets struct {
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
	i.audience = document.Issuer
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
		for _, b := range list.Items {
			if blocks(b) {
				i.report.Blocking = append(i.report.Blocking, Budget{
					Name: b.Namespace + "/" + b.Name, Healthy: b.Status.CurrentHealthy, Desired: b.Status.DesiredHealthy,
				})
			}
		}
		return list.Continue, nil
	})
}

// blocks says that a budget has pods and lets none of them go.
func blocks(b policyv1.PodDisruptionBudget) bool {
	return b.Status.ExpectedPods > 0 && b.Status.DisruptionsAllowed == 0
}

func (i *inspection) pods(ctx context.Context) error {
	return i.eachPage(func(o metav1.ListOptions) (string, error) {
		o.FieldSelector = "status.phase!=Succeeded,status.phase!=Failed,spec.nodeName!="
		list, err := i.client.CoreV1().Pods("").List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing pods: %w", err)
		}
		for _, p := range list.Items {
			i.pod(p)
		}
		return list.Continue, nil
	})
}

func (i *inspection) pod(p corev1.Pod) {
	name := p.Namespace + "/" + p.Name
	if metav1.GetControllerOf(&p) == nil {
		i.report.BarePods = append(i.report.BarePods, name)
	}
	if a := i.thirdParty(p); len(a) > 0 {
		i.report.ThirdParty = append(i.report.ThirdParty, PodUse{Pod: name, Uses: a})
	}
	if volume, found := tokens.SubPathToken(&p); found {
		i.report.SubPaths = append(i.report.SubPaths, PodUse{Pod: name, Uses: []string{volume}})
	}
	i.report.Renewal = max(i.report.Renewal, tokens.Renewal(&p))
	if s := secretsInEnv(p.Spec); len(s) > 0 {
		i.envSecrets = append(i.envSecrets, envSecrets{namespace: p.Namespace, pod: name, secrets: s})
	}
}

// thirdParty returns the audiences of a pod's projected tokens that are not the API server's.
func (i *inspection) thirdParty(p corev1.Pod) []string {
	var audiences []string
	for _, v := range p.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, source := range v.Projected.Sources {
			if t := source.ServiceAccountToken; t != nil && t.Audience != "" && t.Audience != i.audience {
				audiences = append(audiences, t.Audience)
			}
		}
	}
	return unique(audiences)
}

func secretsInEnv(spec corev1.PodSpec) []string {
	var secrets []string
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				secrets = append(secrets, e.ValueFrom.SecretKeyRef.Name)
			}
		}
		for _, e := range c.EnvFrom {
			if e.SecretRef != nil {
				secrets = append(secrets, e.SecretRef.Name)
			}
		}
	}
	return unique(secrets)
}

// legacySecrets counts them by their metadata alone, and finds those that pods have in their environment.
func (i *inspection) legacySecrets(ctx context.Context) error {
	secrets := i.metadata.Resource(corev1.SchemeGroupVersion.WithResource("secrets"))
	err := i.eachPage(func(o metav1.ListOptions) (string, error) {
		o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken)).String()
		list, err := secrets.List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing legacy tokens: %w", err)
		}
		i.report.LegacySecrets += len(list.Items)
		for _, s := range list.Items {
			i.legacySecret(s.Namespace, s.Name)
		}
		return list.Continue, nil
	})
	for _, e := range i.envSecrets {
		if len(e.legacy) > 0 {
			i.report.EnvTokens = append(i.report.EnvTokens, PodUse{Pod: e.pod, Uses: e.legacy})
		}
	}
	return err
}

func (i *inspection) legacySecret(namespace, name string) {
	for n := range i.envSecrets {
		e := &i.envSecrets[n]
		if e.namespace == namespace && slices.Contains(e.secrets, name) {
			e.legacy = append(e.legacy, name)
		}
	}
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

func unique(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}
