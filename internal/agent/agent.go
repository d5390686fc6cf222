package agent

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/internal/signer/socket"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

// Agent is the agent on one node.
type Agent struct {
	// PKI, Manifests and StateDir are the paths of its directories: kubeadm's certificatesDir, the directory of static
	// pods, and one of its own. All of them exist.
	PKI, Manifests, StateDir string
	// PodUID is the UID of its pod, and Key the private key of this start of the pod.
	PodUID string
	Key    PrivateKey

	// fault is called before each action in tests; an error is a crash.
	fault func(Action) error
}

// Paths returns the paths that the agent writes into manifests: those at which it sees them itself.
func (a Agent) Paths() Paths {
	return Paths{PKI: a.PKI, SignerDir: filepath.Join(a.StateDir, "signer"), KeyDir: filepath.Join(a.StateDir, "keys")}
}

// Instance returns which start of which pod this is.
func (a Agent) Instance() Instance { return Instance{a.PodUID, a.Key.Public()} }

// dirs are the open directories, by Dir. That of State is nil until the agent makes it. It has the lock: other users of
// the host, who could hold a lock forever, cannot open it.
type dirs [3]*atomicfile.Dir

func (d *dirs) close() (err error) {
	for _, dir := range d {
		if dir != nil {
			err = errors.Join(err, dir.Close())
		}
	}
	return err
}

func (a Agent) path(d Dir) string {
	return []string{a.PKI, a.Manifests, filepath.Join(a.StateDir, "agent")}[d]
}

func (a Agent) pathOf(f File) string { return filepath.Join(a.path(f.Dir), f.Name) }

// open opens the directories, with the lock if the agent has ever written. It writes nothing.
func (a Agent) open() (d *dirs, err error) {
	d = &dirs{}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.close())
		}
	}()
	for _, name := range []Dir{PKI, Manifests, State} {
		d[name], err = atomicfile.OpenDir(a.path(name))
		if err != nil && (name != State || !errors.Is(err, fs.ErrNotExist)) {
			return d, err
		}
	}
	if d[State] == nil {
		return d, nil
	}
	return d, d[State].Lock()
}

// makeDirs makes the agent's own directories, and takes the lock.
func (a Agent) makeDirs(d *dirs) (err error) {
	for _, path := range []string{a.Paths().SignerDir, a.Paths().KeyDir, a.path(State)} {
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	parent, err := atomicfile.OpenDir(a.StateDir)
	if err != nil {
		return err
	}
	if err := errors.Join(parent.Sync(), parent.Close()); err != nil {
		return err
	}
	if d[State], err = atomicfile.OpenDir(a.path(State)); err != nil {
		return err
	}
	return d[State].Lock()
}

// Apply carries out an order.
func (a Agent) Apply(ctx context.Context, o Order) Report {
	r, err := a.apply(ctx, o)
	if err != nil {
		r.Answer, r.Message = answerOf(err), hint.Line(err)
	}
	return r
}

func (a Agent) apply(ctx context.Context, o Order) (r Report, err error) {
	if o.For != a.Instance() {
		return r, ErrCannotOpen
	}
	keys, err := o.open(o.For, a.Key)
	if err != nil {
		return r, err
	}
	d, err := a.open()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	r.Answer = Done
	plan := func(h Host) (actions []Action, err error) {
		r.Found = h.found(keys, a.Paths(), a.pathOf)
		actions, r.Message, err = Plan(keys, h, a.Paths())
		return actions, err
	}
	h, err := a.converge(ctx, d, plan, &r.Did)
	if err != nil {
		return r, err
	}
	if r.Message != "" {
		r.Answer = Waiting
	}
	if o.Do == Send {
		if h.Files[File{PKI, privateFile}] == nil {
			return r, fmt.Errorf("sending the private key: there is no %v", File{PKI, privateFile})
		}
		r.Sealed, err = sealSent(h.Files[File{PKI, privateFile}], o.Recipient, o.Cluster)
	}
	return r, err
}

// maxRounds is far above what plans need: three, on a node that is new to the agent, when a signer that serves already
// is all that a manifest waited for.
const maxRounds = 6

// converge reads the host, plans and acts until nothing is left to do, and returns what is there then.
func (a Agent) converge(ctx context.Context, d *dirs, plan func(Host) ([]Action, error), did *[]string) (Host, error) {
	for range maxRounds {
		h, err := a.read(ctx, d)
		if err != nil {
			return h, err
		}
		actions, err := plan(h)
		if err != nil || len(actions) == 0 {
			return h, err
		}
		if d[State] == nil {
			// Read again under the lock: another order may have been carried out meanwhile.
			if err := a.makeDirs(d); err != nil {
				return h, err
			}
			continue
		}
		if err := a.act(d, actions, did); err != nil {
			return h, err
		}
	}
	return Host{}, errors.New("the host does not stay as it was written: somebody else writes too")
}

// undo puts back what the last change replaced, if it is not settled.
func (a Agent) undo(ctx context.Context) (did []string, err error) {
	d, err := a.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	_, err = a.converge(ctx, d, planUndo, &did)
	return did, err
}

// act takes the actions one after another. Each one lasts before the next begins.
func (a Agent) act(d *dirs, actions []Action, did *[]string) error {
	for _, action := range actions {
		if a.fault != nil {
			if err := a.fault(action); err != nil {
				return err
			}
		}
		if err := a.do(d, action); err != nil {
			return fmt.Errorf("%v: %w", action, err)
		}
		*did = append(*did, action.String())
	}
	return nil
}

func (a Agent) do(d *dirs, action Action) error {
	switch dir := d[action.File.Dir]; {
	case action.Serve != nil:
		return keydir.Write(a.Paths().KeyDir, *action.Serve)
	case action.ServeNothing:
		return empty(a.Paths().KeyDir, isSet)
	case action.ForgetSigner:
		return empty(a.Paths().SignerDir, anything)
	case action.Content != nil:
		return dir.Replace(action.File.Name, action.Content)
	default:
		if err := dir.Remove(action.File.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return dir.Sync()
	}
}

// isSet reports whether a name in the key directory is of a set of keys, also of one that is half removed.
func isSet(name string) bool { return strings.HasPrefix(name, "..") }

// anything reports true.
func anything(string) bool { return true }

// empty removes from a directory what has one of the names.
func empty(path string, names func(string) bool) error {
	dir, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !names(e.Name()) {
			continue
		}
		if err := dir.RemoveAll(e.Name()); err != nil {
			return err
		}
	}
	self, err := dir.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(self.Sync(), self.Close())
}

// read reads the host.
func (a Agent) read(ctx context.Context, d *dirs) (Host, error) {
	h := Host{Files: map[File][]byte{}}
	for _, file := range append([]File{{State, undoFile}, {State, turnFile}, {Manifests, managerFile}}, undoable...) {
		if d[file.Dir] == nil {
			continue
		}
		text, err := d[file.Dir].ReadFile(file.Name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return h, fmt.Errorf("reading %v: %w", file, err)
		}
		h.Files[file] = text
	}
	err := errors.Join(decode(h, stateFile, &h.Configured), decode(h, undoFile, &h.Undo), decode(h, turnFile, &h.Turn))
	if err != nil {
		return h, err
	}
	if set, _, err := keydir.Read(a.Paths().KeyDir); err == nil {
		h.Served = rotation.Keys{Sign: set.SigningVersion, External: true}
		for _, k := range set.Keys {
			h.Served.Verify = append(h.Served.Verify, k.Version)
		}
		set.Wipe()
	}
	entries, err := os.ReadDir(a.Paths().KeyDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return h, err
	}
	h.Sets = slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return isSet(e.Name()) })
	if err := a.readSigner(&h); err != nil {
		return h, err
	}
	// No signer is as good as one that does not answer.
	h.Serving, _ = serving(ctx, a.Paths().keys().Socket)
	return h, a.search(d, &h)
}

// readSigner reads what is left of a signer whose pod is gone. The kubelet starts none then, so nobody is disturbed.
func (a Agent) readSigner(h *Host) error {
	if h.Files[File{Manifests, signerManifest}] != nil {
		return nil
	}
	entries, err := os.ReadDir(a.Paths().SignerDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	h.SignerFiles = len(entries) > 0
	h.SignerRuns, err = socket.InUse(a.Paths().keys().Socket)
	return err
}

// decode reads one of the agent's own files, if it is there.
func decode[T any](h Host, name string, into **T) error {
	text, ok := h.Files[File{State, name}]
	if !ok {
		return nil
	}
	*into = new(T)
	if err := json.Unmarshal(text, *into); err != nil {
		return hint.Errorf("remove it once kube-apiserver runs", "reading %v: it is damaged", File{State, name})
	}
	return nil
}

// temporary are the names of what Dir.Replace leaves when it is cut off.
var temporary = regexp.MustCompile(`^\.(sa\.(pub|key)|(kube-(apiserver|controller-manager)|keyturn-signer)\.yaml|` +
	`(configured|undo|turn)\.json)\.[0-9A-Z]{26}$`)

// maxKeyFile is far above a file with an RSA key.
const maxKeyFile = 1 << 16

// search finds files with private keys, and what writes that were cut off left.
func (a Agent) search(d *dirs, h *Host) error {
	for number, dir := range d {
		if dir == nil {
			continue
		}
		err := fs.WalkDir(dir.FS(), ".", func(name string, e fs.DirEntry, err error) error {
			file := File{Dir(number), name}
			if err != nil || !e.Type().IsRegular() || file == (File{PKI, privateFile}) {
				return err
			}
			if temporary.MatchString(name) {
				h.Temporary = append(h.Temporary, file)
				return nil
			}
			// One that is gone, or too long, holds no key.
			if info, err := e.Info(); err == nil && info.Size() <= maxKeyFile {
				if text, err := fs.ReadFile(dir.FS(), name); err == nil {
					h.Keys = append(h.Keys, keysIn(file, text)...)
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("searching %v for private keys: %w", Dir(number), err)
		}
	}
	return nil
}

// keysIn returns the private keys in a file that could sign tokens.
func keysIn(file File, text []byte) (found []KeyFile) {
	_, errOnly := token.ParsePrivateKey(text)
	for rest := text; ; {
		block, after := pem.Decode(rest)
		if block == nil {
			return found
		}
		rest = after
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if signer, err := token.ParsePrivateKey(pem.EncodeToMemory(block)); err == nil {
			if k, err := jwks.NewKey(signer.Public()); err == nil {
				found = append(found, KeyFile{file, k.KeyID, errOnly == nil})
			}
		}
	}
}
