package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/internal/agent/manifest"
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/signer/keydir"
)

// What an order is refused for. The host stays as it is.
var (
	// ErrStale means that the order is of an earlier stage than the node, or does not know a key that the node has.
	ErrStale = hostkeys.ErrStale
	// ErrOwner means that another UserCluster changed the node before.
	ErrOwner = errors.New("the node belongs to another UserCluster")
	// ErrUnsettled means that the change before was not settled or undone.
	ErrUnsettled = errors.New("the change before is not settled")
	// ErrUndone means that this change was undone, since kube-apiserver did not become ready with it.
	ErrUndone = errors.New("the change was undone, because kube-apiserver did not become ready")
)

// Action is one step on the disk. It happens whole or not at all.
type Action struct {
	// File is replaced by Content, or removed when that is nil.
	File    File
	Content []byte
	// Serve is written to the key directory of the signer instead of a file; ServeNothing removes the directory.
	Serve        *keydir.Set
	ServeNothing bool
	// ForgetSigner removes what the signer keeps beside its socket.
	ForgetSigner bool
}

func (a Action) String() string {
	switch {
	case a.Serve != nil:
		return "write the keys of the signer"
	case a.ServeNothing:
		return "remove the keys of the signer"
	case a.ForgetSigner:
		return "remove the files of the signer"
	case a.Content == nil:
		return "remove " + a.File.String()
	}
	return "write " + a.File.String()
}

// Format writes String for every verb: the content may be a private key.
func (a Action) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, a.String()) }

// Plan returns what is left to do for an order, in order. A crash after any of the actions leaves a host on which a
// kube-apiserver may be restarted, and for which the same order plans the rest. waiting is why the order is not carried
// out when these are done: empty when it is.
func Plan(s keySet, h Host, p Paths) (actions []Action, waiting string, err error) {
	if h.Configured != nil && h.Configured.Cluster != s.order.Cluster {
		return nil, "", fmt.Errorf("%w, with the UID %s", ErrOwner, h.Configured.Cluster)
	}
	switch s.order.Do {
	case Observe, Send:
		return nil, "", nil
	case Converge:
		return planConverge(s, h, p)
	case Settle:
		return planSettle(s, h, p)
	case Fence:
		actions, err := planTurn(s, h)
		return actions, "", err
	case Undo:
		actions, err := planUndo(h)
		return actions, "", err
	case Release:
		return planRelease(h, p)
	}
	return nil, "", fmt.Errorf("there is no order %q", s.order.Do)
}

// planTurn remembers the turn of an order, unless a later one was seen.
func planTurn(s keySet, h Host) ([]Action, error) {
	if s.order.Turn < h.turn() {
		return nil, fmt.Errorf("%w: it is of turn %d, and the node has seen %d", ErrStale, s.order.Turn, h.turn())
	}
	if s.order.Turn == h.turn() {
		return nil, nil
	}
	text, err := encode(s.order.Turn)
	return []Action{{File: File{State, turnFile}, Content: text}}, err
}

func planConverge(s keySet, h Host, p Paths) ([]Action, string, error) {
	var turn []Action
	if s.order.Restart != "" {
		var err error
		if turn, err = planTurn(s, h); err != nil {
			return nil, "", err
		}
	}
	pair, err := h.pair()
	if err != nil {
		return nil, "", err
	}
	if err := checkOrder(s, h, pair); err != nil {
		return nil, "", err
	}
	server, waiting, err := planServer(s, h, p)
	if err != nil {
		return nil, "", err
	}
	var restart []Action
	if server != nil && waiting == "" {
		restart = []Action{*server}
	}
	keys, err := planKeys(s, pair)
	if err != nil {
		return nil, "", err
	}
	configured, err := planConfigured(s, h)
	if err != nil {
		return nil, "", err
	}
	signer, err := planSigner(s, h, p)
	if err != nil {
		return nil, "", err
	}
	manager, err := planManager(s, h)
	if err != nil {
		return nil, "", err
	}
	// The stage goes first: it fences late orders from a node on which a crash left the rest half done.
	actions := slices.Concat(configured, keys, signer, restart, manager)
	if server != nil && (h.Undo == nil || h.Undo.Restart != s.order.Restart) {
		keep, err := planKeep(s, h, server.Content)
		if err != nil {
			return nil, "", err
		}
		actions = append(keep, actions...)
	}
	return slices.Concat(turn, actions, planTidy(h)), waiting, nil
}

// checkOrder refuses an order that would lead back.
func checkOrder(s keySet, h Host, on pair) error {
	o := s.order
	if err := hostkeys.Check(o.Keys); err != nil {
		return err
	}
	if o.Cluster == "" {
		return errors.New("the order names no UserCluster")
	}
	if err := checkUndo(o, h.Undo); err != nil {
		return err
	}
	if o.Keys.External && o.SignerImage == "" {
		return errors.New("the order names no image for the signer")
	}
	if o.Keys.External && len(s.foreign) > 0 {
		return fmt.Errorf("a signer serves key versions only, and kube-apiserver is to accept the foreign keys %s too",
			strings.Join(s.foreign, ","))
	}
	newest := slices.Max(o.Keys.Verify)
	for _, kid := range append(slices.Clone(on.kids), on.private) {
		version, ok := s.known[kid]
		if ok && version <= newest || kid == "" || slices.Contains(s.foreign, kid) || slices.Contains(o.Retired, kid) {
			continue
		}
		if !ok && kid != on.private && slices.Contains(o.Keep, kid) {
			continue
		}
		return fmt.Errorf("%w: the node has key %s, which the order does not know", ErrStale, kid)
	}
	held := on.keys(s.known)
	if h.Configured != nil && h.Configured.Keys.Stage() > held.Stage() {
		held = h.Configured.Keys
	}
	if o.Keys.Stage() < held.Stage() {
		return fmt.Errorf("%w: the node accepts key versions %v and signs with %d, and the order has %v and %d",
			ErrStale, held.Verify, held.Sign, o.Keys.Verify, o.Keys.Sign)
	}
	return nil
}

// checkUndo refuses a change while the one before may be undone, and one that was undone.
func checkUndo(o Order, last *Change) error {
	switch {
	case last == nil:
		return nil
	case last.Phase == Undone && last.Restart == o.Restart:
		return ErrUndone
	case last.Phase == Undoing, last.Phase == Pending && last.Restart != o.Restart && last.Restart != o.Again:
		return hint.Errorf("settle or undo it first", "%w", ErrUnsettled)
	}
	return nil
}

func planConfigured(s keySet, h Host) ([]Action, error) {
	if h.Configured != nil && h.Configured.Keys.Equal(s.order.Keys) {
		return nil, nil
	}
	text, err := encode(Configured{s.order.Cluster, s.order.Keys})
	return []Action{{File: File{State, stateFile}, Content: text}}, err
}

// planSigner has the signer serve the keys, when there is to be one: its keys first, then its pod.
func planSigner(s keySet, h Host, p Paths) (actions []Action, err error) {
	if !s.order.Keys.External {
		return nil, nil
	}
	set, err := hostkeys.KeySet(s.order.Keys, s.keys)
	if err != nil {
		return nil, err
	}
	if !h.Served.Equal(s.order.Keys) {
		actions = append(actions, Action{Serve: &set})
	}
	pod, err := signerPod(s.order.SignerImage, s.order.SignerNamespace, p)
	if err != nil {
		return nil, err
	}
	if file := (File{Manifests, signerManifest}); !bytes.Equal(h.Files[file], pod) {
		actions = append(actions, Action{File: file, Content: pod})
	}
	return actions, nil
}

// planManager has kube-controller-manager started again, which reads sa.key then. A node without one needs nothing.
func planManager(s keySet, h Host) ([]Action, error) {
	file := File{Manifests, managerFile}
	if s.order.Manager == "" || h.Files[file] == nil {
		return nil, nil
	}
	m, err := manifest.ParseOf(manifest.Manager, h.Files[file])
	if err != nil {
		return nil, err
	}
	mark, _ := m.Annotation(manifest.RestartAnnotation)
	if kid := MarkedKid(mark); kid != "" && kid == MarkedKid(s.order.Manager) || mark == s.order.Manager {
		return nil, nil
	}
	next, err := m.SetAnnotation(manifest.RestartAnnotation, s.order.Manager)
	if err != nil {
		return nil, err
	}
	return []Action{{File: file, Content: next.Text()}}, nil
}

// planServer changes the manifest of kube-apiserver, which restarts it, unless that has to wait. It returns nil if
// there is nothing to change.
func planServer(s keySet, h Host, p Paths) (action *Action, waiting string, err error) {
	file := File{Manifests, serverManifest}
	m, err := manifest.Parse(h.Files[file])
	if err != nil {
		return nil, "", err
	}
	external, err := m.External(p.keys())
	if err != nil {
		return nil, "", err
	}
	if s.order.Restart == "" {
		if external != s.order.Keys.External {
			waiting = "kube-apiserver has to be restarted to have its keys from elsewhere"
		}
		return nil, waiting, nil
	}
	next, err := m.With(manifest.Want{
		Restart: s.order.Restart, External: s.order.Keys.External, RetryAfter: s.order.RetryAfter,
	}, p.keys())
	if err != nil || bytes.Equal(next.Text(), m.Text()) {
		return nil, "", err
	}
	waiting, err = awaitSigner(s, h)
	return &Action{File: file, Content: next.Text()}, waiting, err
}

// awaitSigner returns why a kube-apiserver cannot be restarted for its signer yet.
func awaitSigner(s keySet, h Host) (waiting string, err error) {
	if !s.order.Keys.External {
		return "", nil
	}
	var want []string
	for _, version := range s.order.Keys.Verify {
		kid, err := s.kid(version)
		if err != nil {
			return "", err
		}
		want = append(want, kid)
	}
	got := slices.Clone(h.Serving)
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		return "the signer does not serve these keys yet", nil
	}
	return "", nil
}

// planKeep keeps what the change replaces. It is written before everything else.
func planKeep(s keySet, h Host, after []byte) ([]Action, error) {
	c := Change{
		Cluster: s.order.Cluster, Restart: s.order.Restart, Phase: Pending, After: digest(after), Before: map[File][]byte{},
	}
	for _, file := range undoable {
		c.Before[file] = h.Files[file]
	}
	if h.Undo != nil && h.Undo.Phase == Pending {
		c.Before = h.Undo.Before // the same change again
	}
	return planPhase(c)
}

func digest(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func planPhase(c Change) ([]Action, error) {
	text, err := encode(c)
	return []Action{{File: File{State, undoFile}, Content: text}}, err
}

// planTidy removes what writes that were cut off left.
func planTidy(h Host) (actions []Action) {
	for _, file := range h.Temporary {
		actions = append(actions, Action{File: file})
	}
	return actions
}

func planSettle(s keySet, h Host, p Paths) ([]Action, string, error) {
	if err := checkSettle(s.order, h.Undo); err != nil {
		return nil, "", err
	}
	external, err := h.external(p)
	if err != nil {
		return nil, "", err
	}
	var actions []Action
	if h.Undo != nil {
		actions = append(actions, Action{File: File{State, undoFile}})
	}
	if !external && (h.Configured == nil || !h.Configured.Keys.External) {
		actions = append(actions, planNoSigner(h)...)
	}
	actions = append(actions, planTidy(h)...)
	for _, k := range h.Keys {
		if k.Only && slices.Contains(s.order.Retired, k.Kid) {
			actions = append(actions, Action{File: k.File})
		}
	}
	return actions, "", nil
}

// checkSettle refuses to settle a change that is not the proven one: a controller that was paused may have proven one
// before it.
func checkSettle(o Order, last *Change) error {
	switch {
	case last == nil:
		return nil
	case last.Phase == Undoing:
		return fmt.Errorf("%w: it is being undone", ErrUnsettled)
	case last.Phase == Undone && o.Restart != "":
		return ErrUndone
	case last.Phase == Pending && last.Restart != o.Restart:
		return fmt.Errorf("%w: it is %q, and %q was proven", ErrUnsettled, last.Restart, o.Restart)
	}
	return nil
}

// planNoSigner removes a signer that kube-apiserver does not ask: its pod first.
func planNoSigner(h Host) (actions []Action) {
	if file := (File{Manifests, signerManifest}); h.Files[file] != nil {
		actions = append(actions, Action{File: file})
	}
	if h.Sets {
		actions = append(actions, Action{ServeNothing: true})
	}
	return actions
}

// external reports whether the manifest has kube-apiserver ask the signer.
func (h Host) external(p Paths) (bool, error) {
	m, err := manifest.Parse(h.Files[File{Manifests, serverManifest}])
	if err != nil {
		return false, err
	}
	return m.External(p.keys())
}

// planUndo puts back the files that the last change replaced. Undoing is written first, so that a crash does not stop
// it.
func planUndo(h Host) ([]Action, error) {
	if h.Undo == nil || h.Undo.Phase == Undone {
		return nil, nil
	}
	var actions []Action
	if h.Undo.Phase == Pending {
		c := *h.Undo
		c.Phase = Undoing
		phase, err := planPhase(c)
		if err != nil {
			return nil, err
		}
		actions = phase
	}
	union, files := undoUnion(h), undoable
	if union != nil {
		actions = append(actions, *union)
		files = slices.Concat([]File{files[1], files[0]}, files[2:])
	}
	for _, file := range files {
		before, now := h.Undo.Before[file], h.Files[file]
		if file == (File{Manifests, serverManifest}) && digest(now) != h.Undo.After {
			continue
		}
		same := bytes.Equal(before, now) && (before == nil) == (now == nil)
		if !same || union != nil && file == (File{PKI, publicFile}) {
			actions = append(actions, Action{File: file, Content: before})
		}
	}
	phase, err := planPhase(Change{Cluster: h.Undo.Cluster, Restart: h.Undo.Restart, Phase: Undone})
	return append(actions, phase...), err
}

// planRelease removes what the agent keeps. The signer writes until it has ended, which the kubelet takes a moment for.
func planRelease(h Host, p Paths) (actions []Action, waiting string, err error) {
	// A manifest that it cannot edit is none that it has edited, if nothing else of it is there.
	if h.Configured != nil || h.Undo != nil || len(planNoSigner(h)) > 0 {
		external, err := h.external(p)
		if err != nil {
			return nil, "", err
		}
		if external {
			return nil, "", hint.Errorf("converge to keys from files first", "kube-apiserver needs its signer")
		}
	}
	if h.Undo != nil && h.Undo.Phase != Undone {
		return nil, "", ErrUnsettled
	}
	actions = append(planNoSigner(h), planTidy(h)...)
	if len(actions) > 0 {
		return actions, "", nil // and then see
	}
	if h.SignerRuns {
		return nil, "the signer has not ended yet", nil
	}
	if h.SignerFiles {
		actions = append(actions, Action{ForgetSigner: true})
	}
	for _, name := range []string{undoFile, turnFile, stateFile} {
		if h.Files[File{State, name}] != nil {
			actions = append(actions, Action{File: File{State, name}})
		}
	}
	return actions, "", nil
}

// restartAttempt is before the number of the attempt in a RestartMark.
const restartAttempt = " attempt "

// RestartMark returns a value of Order.Restart: of the keys, and of how often they were tried.
func RestartMark(k rotation.Keys, attempt int) string {
	source := "files"
	if k.External {
		source = "external"
	}
	return fmt.Sprintf("%s stage %d%s%d", source, k.Stage(), restartAttempt, attempt)
}

// SameRestart reports whether two values of Order.Restart differ in nothing but the attempt.
func SameRestart(a, b string) bool {
	a, _, _ = strings.Cut(a, restartAttempt)
	b, _, _ = strings.Cut(b, restartAttempt)
	return a == b
}

// The words of ManagerMark.
const (
	managerMark  = "sign "
	managerAgain = " again"
)

// ManagerMark returns a value of Order.Manager: of the kid with whose key kube-controller-manager is to sign. There are
// two for each kid. The kubelet starts a static pod again whose annotation changes from one to the other.
func ManagerMark(kid string, again bool) string {
	if again {
		kid += managerAgain
	}
	return managerMark + kid
}

// MarkedKid returns the kid of a ManagerMark; empty for any other value.
func MarkedKid(mark string) string {
	kid, ok := strings.CutPrefix(mark, managerMark)
	if !ok {
		return ""
	}
	return strings.TrimSuffix(kid, managerAgain)
}
