package agent

import (
	"errors"
	"slices"

	"github.com/keyturn/keyturn/internal/agent/manifest"
	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/rotation"
)

// Answer is what became of an order.
type Answer string

// The answers.
const (
	// Done means that the node is as the order wants it.
	Done Answer = "Done"
	// Waiting means that a part is left: send the order again.
	Waiting Answer = "Waiting"
	// CannotOpen means that the order is sealed for another start of the pod: ErrCannotOpen.
	CannotOpen Answer = "CannotOpen"
	// Stale means that the node is further: ErrStale.
	Stale Answer = "Stale"
	// Owned means that the node belongs to another UserCluster: ErrOwner.
	Owned Answer = "Owned"
	// Unsettled means that the change before must be settled or undone first: ErrUnsettled.
	Unsettled Answer = "Unsettled"
	// ChangeUndone means that the change was undone: ErrUndone.
	ChangeUndone Answer = "ChangeUndone"
	// Busy means that another order is carried out.
	Busy Answer = "Busy"
	// Failed is every other error. A part of the order may be done.
	Failed Answer = "Failed"
)

// answers are the errors that have an answer of their own.
var answers = []struct {
	err    error
	answer Answer
}{
	{ErrCannotOpen, CannotOpen},
	{ErrStale, Stale},
	{ErrOwner, Owned},
	{ErrUnsettled, Unsettled},
	{ErrUndone, ChangeUndone},
	{atomicfile.ErrBusy, Busy},
}

func answerOf(err error) Answer {
	for _, a := range answers {
		if errors.Is(err, a.err) {
			return a.answer
		}
	}
	return Failed
}

// Report is what became of an order, and what is on the node. It holds no private key but Sealed.
type Report struct {
	Answer Answer `json:"answer"`
	// Message is why, in words; empty when it is Done.
	Message string `json:"message,omitempty"`
	// Did are the steps that this order took.
	Did []string `json:"did,omitempty"`
	// Found is what is on the node now; nil when it could not be read.
	Found *Found `json:"found,omitempty"`
	// Sealed is the private key of sa.key in PEM, in the answer to Send.
	Sealed []byte `json:"sealed,omitempty"`
}

// Found is what is on a node.
type Found struct {
	// Owner is the UID of the UserCluster that the node belongs to; empty when it belongs to none.
	Owner string `json:"owner,omitempty"`
	// Configured are the keys of the last order that was begun.
	Configured rotation.Keys `json:"configured,omitzero"`
	// Public are the kids of sa.pub, in the order of the file, and Private is the kid of sa.key; empty when it is missing.
	Public  []string `json:"public"`
	Private string   `json:"private"`
	// KeyProblem is why sa.pub or sa.key cannot be read.
	KeyProblem string `json:"keyProblem,omitempty"`
	Server     Server `json:"server"`
	// Manager is the value of the annotation of kube-controller-manager that Order.Manager writes; empty when it has none.
	Manager string  `json:"manager,omitempty"`
	Signer  *Signer `json:"signer,omitempty"`
	// Change is the state of the last change that is not settled; empty when there is none.
	Change Phase `json:"change,omitempty"`
	// Mark is the value of Order.Restart of that change.
	Mark string `json:"mark,omitempty"`
	// Turn is the latest turn that the agent has seen.
	Turn int64 `json:"turn,omitempty"`
	// Leftovers are private keys of versions that the order knows, in other files, in the directories that the agent sees.
	Leftovers []Leftover `json:"leftovers,omitempty"`
}

// Server is what the manifest of kube-apiserver has.
type Server struct {
	// Problem is why it cannot be edited.
	Problem string `json:"problem,omitempty"`
	// Restart is the value of its annotation. kubeadm drops it when it writes the manifest again: then it says nothing.
	Restart  string `json:"restart,omitempty"`
	External bool   `json:"external,omitempty"`
}

// Signer is the signer beside kube-apiserver.
type Signer struct {
	// Manifest reports whether its static pod is there.
	Manifest bool `json:"manifest"`
	// Keys are what its key directory holds, and Serving the kids of what it serves.
	Keys    rotation.Keys `json:"keys,omitzero"`
	Serving []string      `json:"serving,omitempty"`
}

// Leftover is a file with a private key.
type Leftover struct {
	Path string `json:"path"`
	Kid  string `json:"kid"`
}

// found returns the part of a report that is read from the host.
func (h Host) found(s keySet, p Paths, path func(File) string) *Found {
	f := &Found{Server: h.server(p), Turn: h.turn()}
	if h.Configured != nil {
		f.Owner, f.Configured = h.Configured.Cluster, h.Configured.Keys
	}
	pair, err := h.pair()
	f.Public, f.Private = pair.kids, pair.private
	if err != nil {
		f.KeyProblem = err.Error()
	}
	if pod := h.Files[File{Manifests, signerManifest}] != nil; pod || !h.Served.IsZero() {
		f.Signer = &Signer{Manifest: pod, Keys: h.Served, Serving: h.Serving}
	}
	if h.Undo != nil {
		f.Change, f.Mark = h.Undo.Phase, h.Undo.Restart
	}
	if m, err := manifest.ParseOf(manifest.Manager, h.Files[File{Manifests, managerFile}]); err == nil {
		f.Manager, _ = m.Annotation(manifest.RestartAnnotation)
	}
	for _, k := range h.Keys {
		if _, ok := s.known[k.Kid]; !ok && !slices.Contains(s.order.Retired, k.Kid) {
			continue // of something else, such as the certificate authority
		}
		f.Leftovers = append(f.Leftovers, Leftover{path(k.File), k.Kid})
	}
	return f
}

func (h Host) server(p Paths) Server {
	m, err := manifest.Parse(h.Files[File{Manifests, serverManifest}])
	if err != nil {
		return Server{Problem: err.Error()}
	}
	var s Server
	s.Restart, _ = m.Annotation(manifest.RestartAnnotation)
	if s.External, err = m.External(p.keys()); err != nil {
		s.Problem = err.Error()
	}
	return s
}
