package kubeadm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/agent"
	"github.com/keyturn/keyturn/internal/agent/agentpod"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/nodes/evict"
	"github.com/keyturn/keyturn/internal/printable"
	"github.com/keyturn/keyturn/signer/ledger"
)

// agents are the agents on the control-plane nodes of a cluster.
type agents interface {
	// list returns those that there are.
	list(ctx context.Context) (roster, error)
	// ensure makes what runs them.
	ensure(ctx context.Context) error
	// take makes next the turn, unless that is not was any more: then somebody else has taken it.
	take(ctx context.Context, was, next int64) error
	// noteUpload notes when an upload of kubeadm was deleted, and at which stage all API servers were then; 0 for none.
	noteUpload(ctx context.Context, at time.Time, stage int) error
	// dismiss removes what runs them, as it was listed, unless somebody has taken a turn since: errTaken.
	dismiss(ctx context.Context, seen roster) error
	// remove removes what runs them and their namespace. It reports true when nothing of that is left.
	remove(ctx context.Context) (gone bool, err error)
	// apply has one carry out an order.
	apply(ctx context.Context, p pod, o agent.Order) (agent.Report, error)
	// ledger reads the ledger of the signer on a node, which runs in the namespace of the agents.
	ledger(ctx context.Context, node string) (ledger.Report, error)
}

// roster is which agents there are.
type roster struct {
	// asked reports whether there are to be any, and uid is the UID of what runs them.
	asked bool
	uid   types.UID
	// ready are those that take orders, and waiting why others do not, by node.
	ready   map[string]pod
	waiting map[string]string
	// signers are why signers do not run, by node.
	signers map[string]string
	// turn is the number of the change that may take out an API server.
	turn int64
	// dropped is when an upload of kubeadm was deleted last; zero if it is not known that one was. droppedFor is the stage
	// at which all API servers were then: later uploads hold its keys. 0 when they were at none.
	dropped    time.Time
	droppedFor int
}

// pod is an agent that takes orders.
type pod struct {
	name     string
	instance agent.Instance
}

// pods are the agents of a real cluster: the pods of a DaemonSet, in a namespace that has the mark of the UserCluster.
type pods struct {
	reach   *reach
	images  Images
	cluster string
	// certificatesDir is kubeadm's.
	certificatesDir string
	// given means that the namespace is there, has no mark and stays: the controller has rights in it, and none to make
	// one.
	given bool
}

// Annotations of the DaemonSet.
const (
	// specAnnotation holds a digest of it as it was written: what the API server adds does not count.
	specAnnotation = "keyturn.dev/spec"
	// turnAnnotation holds the turn.
	turnAnnotation = "keyturn.dev/turn"
	// uploadAnnotation holds when what kubeadm had uploaded for nodes that join was deleted, and uploadStageAnnotation at
	// which stage all API servers were then.
	uploadAnnotation      = "keyturn.dev/upload-deleted"
	uploadStageAnnotation = "keyturn.dev/upload-deleted-at-stage"
)

func (p *pods) options() agentpod.Options {
	return agentpod.Kubeadm(p.images.Namespace, p.images.Agent, p.certificatesDir)
}

// namespace returns the namespace, marked.
func (p *pods) namespace() *corev1.Namespace {
	n := p.options().NamespaceObject()
	n.Labels[v1alpha1.LabelClusterUID] = p.cluster
	return n
}

// daemonSet returns the DaemonSet, marked.
func (p *pods) daemonSet() (*appsv1.DaemonSet, error) {
	d := p.options().DaemonSet()
	text, err := json.Marshal(d.Spec)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	d.Annotations = map[string]string{specAnnotation: hex.EncodeToString(sum[:])}
	d.Labels[v1alpha1.LabelClusterUID] = p.cluster
	return d, nil
}

// marked reports whether an object has the mark of the UserCluster.
func (p *pods) marked(o metav1.Object) bool {
	return o.GetLabels()[v1alpha1.LabelClusterUID] == p.cluster
}

// ours refuses an object of somebody else.
func (p *pods) ours(kind string, o metav1.Object) error {
	if p.marked(o) {
		return nil
	}
	return controlplane.Blocked(fmt.Errorf("%s %s of the cluster has not the label %s=%s: another UserCluster has "+
		"adopted the cluster, or somebody else made it", kind, o.GetName(), v1alpha1.LabelClusterUID, p.cluster))
}

func (p *pods) ensure(ctx context.Context) error {
	if p.images.Agent == "" {
		return controlplane.Blocked(errors.New("keyturn-controller was started without --agent-image, and needs " +
			"keyturn-agent on control-plane nodes"))
	}
	client, err := p.reach.client()
	if err != nil {
		return err
	}
	if err := p.ensureNamespace(ctx, client); err != nil {
		return fmt.Errorf("making namespace %s of the agents: %w", p.images.Namespace, err)
	}
	if err := p.ensureDaemonSet(ctx, client); err != nil {
		return fmt.Errorf("making DaemonSet %s/%s: %w", p.images.Namespace, agentpod.Name, err)
	}
	return nil
}

func (p *pods) ensureNamespace(ctx context.Context, client kubernetes.Interface) error {
	found, err := client.CoreV1().Namespaces().Get(ctx, p.images.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && p.given {
		return controlplane.Blocked(errors.New("it is not there: install the chart with the value ownCluster, which makes " +
			"it"))
	}
	if apierrors.IsNotFound(err) {
		_, err = client.CoreV1().Namespaces().Create(ctx, p.namespace(), metav1.CreateOptions{})
		return err
	}
	if err != nil || p.given {
		return err
	}
	return p.ours("namespace", found)
}

func (p *pods) ensureDaemonSet(ctx context.Context, client kubernetes.Interface) error {
	want, err := p.daemonSet()
	if err != nil {
		return err
	}
	sets := client.AppsV1().DaemonSets(p.images.Namespace)
	found, err := sets.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = sets.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil {
		return err
	}
	if err := p.ours("DaemonSet", found); err != nil {
		return err
	}
	if found.Annotations[specAnnotation] == want.Annotations[specAnnotation] || found.DeletionTimestamp != nil {
		return nil
	}
	want.ResourceVersion = found.ResourceVersion
	for _, kept := range []string{turnAnnotation, uploadAnnotation, uploadStageAnnotation} {
		want.Annotations[kept] = found.Annotations[kept]
	}
	_, err = sets.Update(ctx, want, metav1.UpdateOptions{})
	return err
}

// errTaken means that somebody else changes API servers too, and was first.
var errTaken = errors.New("another controller has taken the turn to change an API server, or changes the agents")

func (p *pods) take(ctx context.Context, was, next int64) error {
	client, err := p.reach.client()
	if err != nil {
		return err
	}
	sets := client.AppsV1().DaemonSets(p.images.Namespace)
	set, err := sets.Get(ctx, agentpod.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("taking the turn to change an API server: %w", err)
	}
	if turnOf(set) != was || !p.marked(set) {
		return errTaken
	}
	if set.Annotations == nil {
		set.Annotations = map[string]string{}
	}
	set.Annotations[turnAnnotation] = strconv.FormatInt(next, 10)
	// It fails with a conflict if somebody has written it since.
	if _, err = sets.Update(ctx, set, metav1.UpdateOptions{}); apierrors.IsConflict(err) {
		return errTaken
	}
	return err
}

func (p *pods) noteUpload(ctx context.Context, at time.Time, stage int) error {
	client, err := p.reach.client()
	if err != nil {
		return err
	}
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:%q,%q:"%d"}}}`,
		uploadAnnotation, at.UTC().Format(time.RFC3339Nano), uploadStageAnnotation, stage)
	_, err = client.AppsV1().DaemonSets(p.images.Namespace).Patch(ctx, agentpod.Name, types.MergePatchType, patch,
		metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("noting that Secret %s/%s is deleted: %w", metav1.NamespaceSystem, uploadName, err)
	}
	return nil
}

// droppedAt returns when an upload was deleted, and at which stage all API servers were; zero when nobody noted it.
func droppedAt(set *appsv1.DaemonSet) (at time.Time, stage int) {
	// What a person wrote counts as nothing.
	at, _ = time.Parse(time.RFC3339Nano, set.Annotations[uploadAnnotation])
	stage, _ = strconv.Atoi(set.Annotations[uploadStageAnnotation])
	return at, stage
}

// turnOf returns the turn; 0 before the first.
func turnOf(set *appsv1.DaemonSet) int64 {
	turn, _ := strconv.ParseInt(set.Annotations[turnAnnotation], 10, 64) // what only a person can have written is replaced
	return turn
}

func (p *pods) list(ctx context.Context) (r roster, err error) {
	client, err := p.reach.client()
	if err != nil {
		return r, err
	}
	set, err := client.AppsV1().DaemonSets(p.images.Namespace).Get(ctx, agentpod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return r, nil
	}
	if err == nil && !p.marked(set) {
		return r, nil // ensure tells
	}
	if err != nil {
		return r, fmt.Errorf("looking for the agents: %w", err)
	}
	found, err := client.CoreV1().Pods(p.images.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: fmt.Sprintf("%s in (%s, %s)", nameLabel, agentpod.Name, signerPod),
	})
	if err != nil {
		return r, fmt.Errorf("looking for the agents: %w", err)
	}
	r = roster{
		asked: true, uid: set.UID, ready: map[string]pod{}, waiting: map[string]string{}, signers: map[string]string{},
		turn: turnOf(set),
	}
	r.dropped, r.droppedFor = droppedAt(set)
	for _, f := range found.Items {
		if isMirror(f, signerPod) {
			if why := notRunning(f, signerContainer, "--signer-image"); why != "" {
				r.signers[f.Spec.NodeName] = fmt.Sprintf("pod %s/%s: %s", f.Namespace, f.Name, why)
			}
			continue
		}
		if owner := metav1.GetControllerOf(&f); owner == nil || owner.UID != set.UID || f.DeletionTimestamp != nil {
			continue
		}
		if key := publicKey(f); key != "" {
			r.ready[f.Spec.NodeName] = pod{f.Name, agent.Instance{PodUID: string(f.UID), PublicKey: key}}
		}
		if why := notRunning(f, agentpod.Container, "--agent-image"); why != "" {
			r.waiting[f.Spec.NodeName] = why
		}
	}
	return r, nil
}

// publicKey returns the public key of a pod; empty before its init container has ended, whose last word it is, by the
// kubelet's own certificate. The pod takes orders from a moment later on, which the kubelet reports within a second.
func publicKey(p corev1.Pod) agent.PublicKey {
	for _, c := range p.Status.InitContainerStatuses {
		if t := c.State.Terminated; c.Name == agentpod.KeyContainer && t != nil && t.ExitCode == 0 {
			return agent.PublicKey(strings.TrimSpace(t.Message))
		}
	}
	return ""
}

// nameLabel is on the pods of the agents and of the signers.
const nameLabel = "app.kubernetes.io/name"

// noImage are the reasons of the kubelet for a container whose image it does not get.
var noImage = []string{
	"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError",
	"RegistryUnavailable",
}

// notRunning is why a container of a pod does not run, in words; empty when it does. imageFlag is the flag of the
// controller that names its image.
func notRunning(p corev1.Pod, container, imageFlag string) string {
	for _, c := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		w := c.State.Waiting
		switch {
		case w != nil && slices.Contains(noImage, w.Reason):
			return printable.Line(w.Reason+": "+w.Message) + "; start keyturn-controller with " + imageFlag +
				" and an image that the node can pull"
		case w != nil && w.Message != "":
			return printable.Line(w.Reason + ": " + w.Message)
		}
	}
	running := func(c corev1.ContainerStatus) bool { return c.Name == container && c.State.Running != nil }
	if slices.ContainsFunc(p.Status.ContainerStatuses, running) {
		return ""
	}
	if p.Status.Message != "" { // the kubelet has not admitted it
		return printable.Line(p.Status.Reason + ": " + p.Status.Message)
	}
	return "the pod does not run yet"
}

func (p *pods) dismiss(ctx context.Context, seen roster) error {
	client, err := p.reach.client()
	if err != nil {
		return err
	}
	sets := client.AppsV1().DaemonSets(p.images.Namespace)
	set, err := sets.Get(ctx, agentpod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err == nil && (set.UID != seen.uid || turnOf(set) != seen.turn) {
		return errTaken
	}
	if err == nil {
		err = sets.Delete(ctx, set.Name, only(set))
	}
	if apierrors.IsConflict(err) {
		return errTaken // somebody has written it since
	}
	if err := ignoreGone(err); err != nil {
		return fmt.Errorf("removing DaemonSet %s/%s: %w", p.images.Namespace, agentpod.Name, err)
	}
	return nil
}

func (p *pods) remove(ctx context.Context) (gone bool, err error) {
	client, err := p.reach.client()
	if err != nil {
		return false, err
	}
	if !p.given {
		return p.removeNamespace(ctx, client)
	}
	gone, err = p.removeDaemonSet(ctx, client)
	if gone && err == nil {
		err = p.tidy(ctx, client)
	}
	return gone, err
}

// removeNamespace removes the namespace, and so all that is in it, unless it is somebody else's.
func (p *pods) removeNamespace(ctx context.Context, client kubernetes.Interface) (gone bool, err error) {
	namespace, err := client.CoreV1().Namespaces().Get(ctx, p.images.Namespace, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return true, p.tidy(ctx, client)
	}
	if err == nil && !p.marked(namespace) {
		return true, nil
	}
	if err == nil {
		err = ignoreGone(client.CoreV1().Namespaces().Delete(ctx, namespace.Name, only(namespace)))
	}
	if err != nil {
		return false, fmt.Errorf("removing namespace %s: %w", p.images.Namespace, err)
	}
	return false, nil
}

// removeDaemonSet removes the DaemonSet, unless it is somebody else's.
func (p *pods) removeDaemonSet(ctx context.Context, client kubernetes.Interface) (gone bool, err error) {
	sets := client.AppsV1().DaemonSets(p.images.Namespace)
	set, err := sets.Get(ctx, agentpod.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && !p.marked(set) {
		return true, nil
	}
	if err == nil {
		err = ignoreGone(sets.Delete(ctx, set.Name, only(set)))
	}
	if err != nil {
		return false, fmt.Errorf("removing DaemonSet %s/%s: %w", p.images.Namespace, agentpod.Name, err)
	}
	return false, nil
}

// tidy removes the account of canary tokens, and what the refresh of tokens noted, if they have the mark of the
// UserCluster. Earlier releases made them without one: those stay.
func (p *pods) tidy(ctx context.Context, client kubernetes.Interface) error {
	accounts := client.CoreV1().ServiceAccounts(controlplane.Canary.Namespace)
	account, err := accounts.Get(ctx, controlplane.Canary.Name, metav1.GetOptions{})
	if err == nil && p.marked(account) {
		err = accounts.Delete(ctx, account.Name, only(account))
	}
	if err := ignoreGone(err); err != nil {
		return fmt.Errorf("removing ServiceAccount %s: %w", controlplane.Canary, err)
	}
	notes := client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	note, err := notes.Get(ctx, evict.NoteName, metav1.GetOptions{})
	if err == nil && p.marked(note) {
		err = notes.Delete(ctx, note.Name, only(note))
	}
	if err := ignoreGone(err); err != nil {
		return fmt.Errorf("removing ConfigMap %s/%s: %w", metav1.NamespaceSystem, evict.NoteName, err)
	}
	return nil
}

// only lets this very object be deleted, as it was read.
func only(o metav1.Object) metav1.DeleteOptions {
	uid, version, background := o.GetUID(), o.GetResourceVersion(), metav1.DeletePropagationBackground
	return metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid, ResourceVersion: &version}, PropagationPolicy: &background,
	}
}

// ignoreGone ignores that an object is gone, or on its way.
func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
