package preflight

import (
	"slices"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/printable"
)

// Effect is the effect of a finding on a rotation, or of a rotation on it.
type Effect string

// The effects.
const (
	// Stops means that the rotation waits, with two keys in use, until somebody acts.
	Stops Effect = "Stops"
	// Breaks means that something stops working after or during the rotation unless somebody acts.
	Breaks Effect = "Breaks"
	// Warns means that somebody should know before it happens.
	Warns Effect = "Warns"
)

// Kind is a kind of findings. Its meaning never changes.
type Kind string

// The kinds.
const (
	ImmutableSecret   Kind = "ImmutableSecret"
	DeadWebhook       Kind = "DeadWebhook"
	StuckPod          Kind = "StuckPod"
	BlockingBudget    Kind = "BlockingBudget"
	UncountedBudget   Kind = "UncountedBudget"
	BareHolder        Kind = "BareHolder"
	HeldMachines      Kind = "HeldMachines"
	PinnedToken       Kind = "PinnedToken"
	DriverToken       Kind = "DriverToken"
	OutsideToken      Kind = "OutsideToken"
	CopiedToken       Kind = "CopiedToken"
	MountedToken      Kind = "MountedToken"
	BarePod           Kind = "BarePod"
	BoundToNode       Kind = "BoundToNode"
	RefusedAlgorithm  Kind = "RefusedAlgorithm"
	ThirdPartyToken   Kind = "ThirdPartyToken"
	DataOnNode        Kind = "DataOnNode"
	UnansweredWebhook Kind = "UnansweredWebhook"
)

// meaning is the common text of all findings of a kind.
type meaning struct {
	kind   Kind
	effect Effect
	text   string
}

// meanings are in the order in which findings are shown.
var meanings = []meaning{
	{ImmutableSecret, Stops, "legacy token Secrets that are immutable; " +
		"THE ROTATION WAITS until they are deleted, or recreated without that"},
	{DeadWebhook, Stops, "webhooks that nothing serves, which requests of the rotation go through; " +
		"THE ROTATION WAITS until they answer or are deleted"},
	{StuckPod, Stops, "pods that should have ended; THE ROTATION WAITS until they do"},
	{UncountedBudget, Stops, "PodDisruptionBudgets whose pods kube-controller-manager cannot count, so that they let no " +
		"pod go; THE ROTATION WAITS until they set minAvailable to a number of pods, or are deleted"},
	{BlockingBudget, Stops, "PodDisruptionBudgets that let no pod go now; THE ROTATION WAITS until they do"},
	{BareHolder, Stops, "pods with tokens and without a controller, which would not be recreated; THE ROTATION WAITS " +
		"until they are deleted, or annotated with " + v1alpha1.AnnotationEvict + "=true"},
	{HeldMachines, Stops, "objects of Cluster API whose machines it does not replace itself; THE ROTATION WAITS until " +
		"they are replaced"},
	{PinnedToken, Stops, "running pods that mount a token by subPath and never see a new one; " +
		"THE ROTATION WAITS until these pods are deleted"},
	{RefusedAlgorithm, Breaks, "verifiers outside the cluster may refuse tokens of another algorithm than RS256. " +
		"Microsoft Entra ID does (AADSTS5002738), and so do many set-ups with AWS IAM and libraries that expect RS256; " +
		"GOING BACK IS ANOTHER ROTATION"},
	{OutsideToken, Breaks, "legacy tokens that no pod holds and that somebody uses; " +
		"they stop working when they are signed again: copy the new ones"},
	{CopiedToken, Breaks, "running pods with a copy of a legacy token, by environment variable, subPath or volume " +
		"driver, which stays the old one: restart these pods"},
	{DriverToken, Breaks, "running pods for which the driver of a volume keeps a token, which stays the old one: " +
		"restart these pods"},
	{BarePod, Breaks, "pods without a controller, which end with their node and are not recreated"},
	{BoundToNode, Breaks, "pods that can run on no other node than theirs, which is deleted with the data on its disk"},
	{MountedToken, Warns, "running pods that mount a legacy token, whose file changes: restart those whose program " +
		"reads it only once"},
	{ThirdPartyToken, Warns, "running pods with third-party tokens, which are not refreshed: restart these pods"},
	{DataOnNode, Warns, "pods with emptyDir volumes, whose content is lost with the pod"},
	{UnansweredWebhook, Warns, "webhooks that nothing serves, which requests of the rotation go through; " +
		"their failure policy lets the requests continue, but later"},
}

// Object is the subject of a finding.
type Object struct {
	// Kind is the kind in the API, such as Pod; Membership or URL for something outside the cluster.
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// String names the object without its kind.
func (o Object) String() string {
	if o.Namespace == "" {
		return o.Name
	}
	return o.Namespace + "/" + o.Name
}

// Finding is something that stops a rotation, that a rotation breaks, or that users should know in advance.
type Finding struct {
	Kind   Kind   `json:"kind"`
	Effect Effect `json:"effect"`
	Object Object `json:"object"`
	// Detail is more about the object, such as the volumes of a pod.
	Detail string `json:"detail,omitempty"`
	// Text is what it means and what to do, the same for all findings of a kind.
	Text string `json:"text"`
}

// String names the object, with its detail.
func (f Finding) String() string {
	if f.Detail == "" {
		return f.Object.String()
	}
	return f.Object.String() + " (" + f.Detail + ")"
}

// find returns a finding. Its detail may quote the cluster.
func find(k Kind, o Object, detail string) Finding {
	m := meanings[slices.IndexFunc(meanings, func(m meaning) bool { return m.kind == k })]
	return Finding{Kind: k, Effect: m.effect, Object: o, Detail: printable.Line(detail), Text: m.text}
}

// Merge returns all findings in the order of display: by kind, and within a kind in their order. It never returns nil.
func Merge(lists ...[]Finding) []Finding {
	all := append([]Finding{}, slices.Concat(lists...)...)
	at := func(f Finding) int {
		return slices.IndexFunc(meanings, func(m meaning) bool { return m.kind == f.Kind })
	}
	slices.SortStableFunc(all, func(a, b Finding) int { return at(a) - at(b) })
	return all
}
