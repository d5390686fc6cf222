// Package preflight finds out what a key rotation will do to the nodes and pods of a user cluster, before it starts.
//
// Start with Inspect. Each Finding is something that stops the rotation, that the rotation breaks, or that users should
// know. Inspect reads in pages, never reads the content of a Secret, and changes nothing.
package preflight

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
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

// Report describes the effects of a rotation.
type Report struct {
	// Nodes are all nodes of the cluster, ordered by name.
	Nodes []Node
	// LegacySecrets is the number of Secrets whose legacy token will be signed again.
	LegacySecrets int
	// Holders is how many running pods hold a token, and ControlPlaneHolders how many of them are on control-plane nodes.
	Holders, ControlPlaneHolders int
	// Renewal is the longest time in which the kubelets renew the tokens of all running pods without help.
	Renewal time.Duration
	// Findings are ordered by kind, and within a kind by namespace and name.
	Findings []Finding
}

// Node is a node of the cluster.
type Node struct {
	Name string `json:"name"`
	Pool string `json:"pool,omitempty"`
	// ControlPlane means that it is a control-plane node of a cluster that kubeadm made.
	ControlPlane bool `json:"controlPlane,omitempty"`
}

// controlPlaneLabel is on the nodes that kubeadm made control-plane nodes.
const controlPlaneLabel = "node-role.kubernetes.io/control-plane"

// Inspect finds what a rotation of a user cluster with this NodeRefresh would do and meet.
func Inspect(ctx context.Context, config *rest.Config, refresh v1alpha1.NodeRefresh) (Report, error) {
	return inspect(ctx, config, refresh, defaultPageSize)
}

func inspect(ctx context.Context, config *rest.Config, refresh v1alpha1.NodeRefresh, pageSize int64) (Report, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // Requests are sequential, so they need no limit.
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return Report{}, fmt.Errorf("using the kubeconfig of the user cluster: %w", err)
	}
	names, err := metadata.NewForConfig(config)
	if err != nil {
		return Report{}, fmt.Errorf("using the kubeconfig of the user cluster: %w", err)
	}
	i := &inspection{
		client: client, metadata: names, pageSize: pageSize, keeps: refresh.KeepsPods(),
		evicts: refresh == v1alpha1.NodeRefreshEvict, now: time.Now(),
		held: map[types.NamespacedName]bool{}, legacy: map[types.NamespacedName]bool{}, hosts: map[string]bool{},
		controlPlane: map[string]bool{},
	}
	for _, read := range []func(context.Context) error{
		i.issuer, i.nodes, i.drivers, i.volumes, i.budgets, i.pods, i.legacySecrets, i.webhooks,
	} {
		if err := read(ctx); err != nil {
			return Report{}, err
		}
	}
	i.judgeHolders()
	i.report.Findings = Merge(i.report.Findings)
	return i.report, nil
}

type inspection struct {
	client   kubernetes.Interface
	metadata metadata.Interface
	pageSize int64
	now      time.Time
	// keeps means that nodes and their pods stay; evicts means that nodes stay, but pods with tokens do not.
	keeps, evicts bool
	report        Report
	cluster       podtokens.Cluster
	// hosts are the names and host names of nodes; controlPlane are the control-plane nodes.
	hosts, controlPlane map[string]bool
	// localClaims are the PersistentVolumeClaims whose volume is on one node.
	localClaims map[types.NamespacedName]bool
	// held are the Secrets that pods hold and that may be legacy tokens.
	held map[types.NamespacedName]bool
	// holders are pods that may hold a token.
	holders []holder
	// legacy are the Secrets that hold a legacy token.
	legacy map[types.NamespacedName]bool
}

func (i *inspection) find(k Kind, o Object, detail string) {
	i.report.Findings = append(i.report.Findings, find(k, o, detail))
}

// issuer reads the API server's own audience, which is its issuer by default.
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
			_, controlPlane := n.Labels[controlPlaneLabel]
			i.controlPlane[n.Name] = controlPlane
			i.report.Nodes = append(i.report.Nodes,
				Node{Name: n.Name, Pool: n.Labels[v1alpha1.LabelNodePool], ControlPlane: controlPlane})
			i.hosts[n.Name], i.hosts[n.Labels[corev1.LabelHostname]] = true, true
		}
		return list.Continue, nil
	})
}

// budgets finds the budgets that let no pod go, if pods have to go.
func (i *inspection) budgets(ctx context.Context) error {
	if i.keeps {
		return nil
	}
	return i.eachPage(func(o metav1.ListOptions) (string, error) {
		list, err := i.client.PolicyV1().PodDisruptionBudgets("").List(ctx, o)
		if err != nil {
			return "", fmt.Errorf("listing PodDisruptionBudgets: %w", err)
		}
		for n := range list.Items {
			i.budget(&list.Items[n])
		}
		return list.Continue, nil
	})
}

func (i *inspection) budget(b *policyv1.PodDisruptionBudget) {
	object := Object{Kind: "PodDisruptionBudget", Namespace: b.Namespace, Name: b.Name}
	s := b.Status
	switch why := nodes.Uncounted(b); {
	case s.DisruptionsAllowed > 0:
	case why != "":
		i.find(UncountedBudget, object, why)
	case s.ExpectedPods > 0:
		i.find(BlockingBudget, object, fmt.Sprintf("%d pods are healthy, %d have to be", s.CurrentHealthy, s.DesiredHealthy))
	}
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
	object := Object{Kind: "Pod", Namespace: p.Namespace, Name: p.Name}
	i.report.Renewal = max(i.report.Renewal, tokens.Renewal(p))
	if p.DeletionTimestamp != nil {
		if reason, stuck := nodes.StuckPod(p, i.now); stuck {
			_, detail, _ := strings.Cut(reason.Words, " to end, which ")
			i.find(StuckPod, object, detail)
		}
	}
	if !i.keeps && !i.evicts {
		i.moving(p, object)
	}
	i.tokens(p, object)
}

// moving finds what a pod loses with its node.
func (i *inspection) moving(p *corev1.Pod, object Object) {
	if metav1.GetControllerOf(p) == nil {
		i.find(BarePod, object, "")
	}
	if ofDaemonSet(p) {
		return
	}
	if why := i.bound(p); why != "" {
		i.find(BoundToNode, object, why)
	}
	i.findUses(DataOnNode, object, emptyDirs(p))
}

// tokens finds the tokens of a pod that a rotation does not refresh.
func (i *inspection) tokens(p *corev1.Pod, object Object) {
	var audiences, subPaths, drivers []string
	all := podtokens.Of(p, i.cluster)
	for _, t := range all {
		switch t.Kind {
		case podtokens.ThirdParty:
			audiences = append(audiences, t.Audience)
		case podtokens.Legacy:
			i.held[types.NamespacedName{Namespace: p.Namespace, Name: t.Secret}] = true
		}
		switch {
		case t.Refresh == podtokens.ByKubelet, t.Kind == podtokens.Legacy:
		case t.Way == podtokens.SubPath:
			subPaths = append(subPaths, t.Volume)
		default:
			drivers = append(drivers, t.Volume)
		}
	}
	i.holder(p, object, all)
	switch {
	case i.keeps:
		i.findUses(PinnedToken, object, subPaths)
		i.findUses(DriverToken, object, drivers)
	case !i.evicts:
		i.findUses(ThirdPartyToken, object, audiences)
	}
}

// findUses adds a finding for a pod, if it uses anything.
func (i *inspection) findUses(k Kind, pod Object, uses []string) {
	if len(uses) > 0 {
		slices.Sort(uses)
		i.find(k, pod, strings.Join(slices.Compact(uses), ", "))
	}
}

// eachPage calls list for each page.
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
