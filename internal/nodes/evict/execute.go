package evict

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/nodes/eviction"
	"github.com/keyturn/keyturn/internal/podtokens/drivers"
)

// pageSize is how many objects are read at once.
const pageSize = 500

// Executor evicts pods of one cluster, during one call.
type Executor struct {
	// Cluster identifies the cluster in what it notes.
	Cluster string
	// How is the cluster's nodeRefresh.
	How v1alpha1.NodeRefresh
	// Unread means that no node's token files are read, and Reload is how long applications may keep using a token that
	// is no longer in its file.
	Unread bool
	Reload time.Duration
	// Rolled means that another system replaces the nodes that Keyturn did not make, except those that Keeps reports.
	// Pods on these are evicted. Keeps may be nil.
	Rolled bool
	Keeps  func(*corev1.Node) bool
	Keys   nodes.Keys
	Client kubernetes.Interface
	Memory *Memory
	// Every is how often pods are listed.
	Every time.Duration
	Now   time.Time
}

// Observed is the result of one observation of a cluster.
type Observed struct {
	// judged are the nodes whose pods matter: those that Keyturn did not make, and all nodes if it evicts pods.
	judged []*corev1.Node
	// since is the time after which no pod gets an old token; zero until it is recorded.
	since time.Time
	// list is nil if pods were not listed.
	list *list
}

// Since is the time after which no pod gets an old token; zero until it is recorded.
func (o *Observed) Since() time.Time { return o.since }

// evicts reports whether pods are evicted.
func (e *Executor) evicts() bool { return e.How == v1alpha1.NodeRefreshEvict }

// hurries reports whether pods with a dead token are evicted although all pods end with their nodes.
func (e *Executor) hurries() bool { return e.How == v1alpha1.NodeRefreshReplace }

// waits reports whether kubelets replace tokens on their own, and only the passing of time proves it.
func (e *Executor) waits() bool { return e.How == v1alpha1.NodeRefreshWait && e.Unread }

// Observe lists the pods of a cluster, if they matter. Those on judged nodes and those with a dead token do. If proven,
// which means that nothing else is left to do, all do.
func (e *Executor) Observe(ctx context.Context, judged []*corev1.Node, proven bool) (*Observed, error) {
	o := &Observed{judged: judged}
	if e.Keys.Old == 0 && !e.Keys.Named {
		e.Memory.forget()
		return o, nil
	}
	var err error
	if o.since, err = e.noted(ctx); err != nil || o.since.IsZero() {
		return o, err
	}
	hurries := e.hurries() && !e.Memory.allAlive(e.Keys.KeyID)
	if len(judged) == 0 && !proven && !e.Keys.Named && !hurries {
		return o, nil
	}
	o.list, err = e.Memory.pods(e.How, e.Keys.KeyID, o.since, e.Now, e.Every,
		func() (*list, error) { return e.read(ctx, o) })
	return o, err
}

// read lists all pods that have not ended.
func (e *Executor) read(ctx context.Context, o *Observed) (*list, error) {
	around, err := e.Memory.surroundings(e.Keys.KeyID, o.since, func() (surroundings, error) {
		return e.around(ctx, o.since)
	})
	if err != nil {
		return nil, err
	}
	j := judge{
		surroundings: around, evicts: e.evicts(), hurries: e.hurries(), emptied: e.emptied(o),
		young: young(o.judged, o.since), off: off(o.judged),
	}
	if e.waits() {
		j.kubelets = newKubelets(o.judged, e.Reload, e.Now)
	}
	l := &list{Pods: Pods{Owners: map[types.UID]Owner{}}, on: map[string][]Pod{}}
	options := metav1.ListOptions{Limit: pageSize, FieldSelector: "status.phase!=Succeeded,status.phase!=Failed"}
	for {
		page, err := e.Client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("listing pods: %w", err)
		}
		for i := range page.Items {
			l.add(j, &page.Items[i])
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return l, nil
		}
	}
}

// around reads which drivers get tokens, and which Secrets hold one.
func (e *Executor) around(ctx context.Context, since time.Time) (surroundings, error) {
	s := surroundings{keyID: e.Keys.KeyID, since: since, legacy: map[types.NamespacedName]bool{}}
	var err error
	if s.cluster, err = drivers.Read(ctx, e.Client, pageSize); err != nil {
		return s, err
	}
	next := ""
	for {
		page, err := e.secrets(ctx, next)
		if err != nil {
			return s, fmt.Errorf("listing legacy tokens: %w", err)
		}
		for _, m := range page.Items {
			s.legacy[types.NamespacedName{Namespace: m.Namespace, Name: m.Name}] = true
		}
		if next = page.Continue; next == "" {
			return s, nil
		}
	}
}

// secrets reads the metadata of a page of the Secrets that hold legacy tokens.
func (e *Executor) secrets(ctx context.Context, next string) (*metav1.PartialObjectMetadataList, error) {
	body, err := e.Client.CoreV1().RESTClient().Get().Resource("secrets").
		SetHeader("Accept", "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").
		Param("fieldSelector", "type="+string(corev1.SecretTypeServiceAccountToken)).
		Param("limit", fmt.Sprint(pageSize)).Param("continue", next).DoRaw(ctx)
	if err != nil {
		return nil, err
	}
	page := &metav1.PartialObjectMetadataList{}
	return page, json.Unmarshal(body, page)
}

// Unnoted reports whether Note must be called before anything else.
func (e *Executor) Unnoted(o *Observed) bool {
	return e.Keys.Old != 0 && o.since.IsZero()
}

// Note records that pods no longer get old tokens. It must be called only while that is true.
func (e *Executor) Note(ctx context.Context) error {
	if e.Keys.ProvenAt.IsZero() {
		return nil // some API server did not prove it in this round
	}
	return e.note(ctx)
}

// Do evicts pods, as Plan wants. It begins only when the API servers' clocks are past the times that cannot be
// distinguished from the recorded one; earlier, the new pods would count as old.
func (e *Executor) Do(ctx context.Context, o *Observed) error {
	if e.Keys.Old == 0 || o.list == nil || !e.begun(o) {
		return nil
	}
	plan := Plan(e.withRefusals(e.going(o)))
	if len(plan) == 0 || !e.Memory.use(o.list) {
		return nil
	}
	pods := make([]*corev1.Pod, len(plan))
	for i, p := range plan {
		pods[i] = p.Object
	}
	return eviction.Each(ctx, e.Client, pods, e.Now, func(pod *corev1.Pod, r eviction.Refusal, refused bool) {
		e.Memory.note(pod.UID, r, refused)
	})
}

// emptied returns the names of the nodes whose pods are evicted while another system replaces other nodes.
func (e *Executor) emptied(o *Observed) map[string]bool {
	names := map[string]bool{}
	for _, n := range o.judged {
		names[n.Name] = e.keeps(n)
	}
	return names
}

func (e *Executor) keeps(n *corev1.Node) bool { return e.Keeps != nil && e.Keeps(n) }

// going returns the pods that should be evicted, and their owners. Pods on other nodes that Keyturn did not make are
// left to the user, unless nodeRefresh is Evict.
func (e *Executor) going(o *Observed) Pods {
	pods := o.list.Pods
	switch {
	case e.evicts():
	case e.hurries():
		pods.Old = slices.DeleteFunc(slices.Clone(o.list.dead), func(p Pod) bool {
			return slices.ContainsFunc(o.judged, func(n *corev1.Node) bool { return n.Name == p.Object.Spec.NodeName })
		})
		for node, emptied := range e.emptied(o) {
			if emptied {
				pods.Old = append(pods.Old, o.list.on[node]...)
			}
		}
	default:
		pods.Old = nil
	}
	return pods
}

// begun reports whether a pod that is created from now on counts as new.
func (e *Executor) begun(o *Observed) bool { return e.Keys.ProvenAt.After(o.since.Add(clockSlack)) }

func (e *Executor) withRefusals(pods Pods) Pods {
	old := make([]Pod, len(pods.Old))
	for i, p := range pods.Old {
		_, p.Refused = e.Memory.refusal(p.Object.UID)
		old[i] = p
	}
	pods.Old = old
	return pods
}

// KeyVersion returns a version that no token of a pod on a judged node is older than.
func (e *Executor) KeyVersion(o *Observed, node string) int {
	switch {
	case e.Keys.Old == 0:
		return e.Keys.Next // every older token is refused
	case o.since.IsZero() || o.list == nil || len(o.list.on[node]) > 0:
		return e.Keys.Old
	case (e.evicts() || e.waits()) && o.strays():
		return e.Keys.Old // on a node whose object is gone, a kubelet may still run it
	default:
		return e.Keys.Next
	}
}

// HasOld reports whether a node has a pod that may hold an old token, as far as pods were listed.
func (e *Executor) HasOld(o *Observed, node string) bool {
	return o.list == nil || len(o.list.on[node]) > 0
}

// strays reports whether an old pod is on no judged node.
func (o *Observed) strays() bool {
	here := 0
	for _, n := range o.judged {
		here += len(o.list.on[n.Name])
	}
	return here < len(o.list.Old)
}

// Nodes returns the nodes that Keyturn did not make, as package nodes describes them.
func (e *Executor) Nodes(o *Observed, unmanaged []*corev1.Node) []nodes.Node {
	var all []nodes.Node
	for _, n := range unmanaged {
		ready := nodes.ReadyCondition(n).Status == corev1.ConditionTrue
		all = append(all, nodes.Node{Name: n.Name, KeyVersion: e.KeyVersion(o, n.Name), Ready: ready})
	}
	return all
}

// Holders returns the pods that keep an old token; known is false until they were listed.
func (o *Observed) Holders() (holders []nodes.Holder, known bool) {
	if o.list == nil {
		return nil, false
	}
	return o.list.kept, true
}
