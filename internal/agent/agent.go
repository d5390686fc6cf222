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
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/signer/keydir"
	"github.com/keyturn/keyturn/token"
)

// Agent is the agent on one node.
type Agent struct {
	// PKI, Manifests and StateDir are the paths of its directories: kubeadm's certificatesDir, the directory of static pods,
	// and one that the agent makes.
	PKI, Manifests, StateDir string
	// PodUID is that of its pod, and Key the private key of this start of it.
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

// dirs are the open directories, by Dir.
type dirs []*atomicfile.Dir

func (d dirs) close() (err error) {
	for _, dir := range d {
		err = errors.Join(err, dir.Close())
	}
	return err
}

func (a Agent) path(d Dir) string {
	return []string{a.PKI, a.Manifests, filepath.Join(a.StateDir, "agent")}[d]
}

func (a Agent) pathOf(f File) string { return filepath.Join(a.path(f.Dir), f.Name) }

// open opens the directories, of which it makes its own, with a lock.
func (a Agent) open() (all dirs, err error) {
	for _, path := range []string{a.path(State), a.Paths().SignerDir, a.Paths().KeyDir} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, all.close())
		}
	}()
	for _, d := range []Dir{PKI, Manifests, State} {
		dir, err := atomicfile.OpenDir(a.path(d))
		if err != nil {
			return all, err
		}
		all = append(all, dir)
	}
	return all, all[State].Lock()
}

// Apply carries out an order.
func (a Agent) Apply(ctx context.Context, o Order) Report {
	r, err := a.apply(ctx, o)
	if err != nil {
		r.Answer, r.Message = answerOf(err), err.Error()
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
	all, err := a.open()
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, all.close()) }()
	r.Answer = Done
	plan := func(h Host) (actions []Action, err error) {
		r.Found = h.found(keys, a.Paths(), a.pathOf)
		actions, r.Message, err = Plan(keys, h, a.Paths())
		return actions, err
	}
	h, err := a.converge(ctx, all, plan, &r.Did)
	if err != nil {
		return r, err
	}
	if r.Message != "" {
		r.Answer = Waiting
	}
	if o.Do == Send {
		r.Sealed, err = sealSent(h.Files[File{PKI, privateFile}], o.Recipient, o.Cluster)
	}
	return r, err
}

// maxRounds is far above what plans need: two, when a signer that serves already is all that a manifest waited for.
const maxRounds = 5

// converge reads the host, plans and acts until nothing is left to do, and returns what is there then.
func (a Agent) converge(ctx context.Context, all dirs, plan func(Host) ([]Action, error), did *[]string) (Host, error) {
	for range maxRounds {
		h, err := a.read(ctx, all)
		if err != nil {
			return h, err
		}
		actions, err := plan(h)
		if err != nil || len(actions) == 0 {
			return h, err
		}
		if err := a.act(all, actions, did); err != nil {
			return h, err
		}
	}
	return Host{}, errors.New("the host does not stay as it was written: somebody else writes too")
}

// undo puts back what the last change replaced, if it is not settled.
func (a Agent) undo(ctx context.Context) (did []string, err error) {
	all, err := a.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, all.close()) }()
	_, err = a.converge(ctx, all, planUndo, &did)
	return did, err
}

// act takes the actions one after another. Each one lasts before the next begins.
func (a Agent) act(all dirs, actions []Action, did *[]string) error {
	for _, action := range actions {
		if a.fault != nil {
			if err := a.fault(action); err != nil {
				return err
			}
		}
		if err := a.do(all, action); err != nil {
			return fmt.Errorf("%v: %w", action, err)
		}
		*did = append(*did, action.String())
	}
	return nil
}

func (a Agent) do(all dirs, action Action) error {
	switch dir := all[action.File.Dir]; {
	case action.Serve != nil:
		return keydir.Write(a.Paths().KeyDir, *action.Serve)
	case action.ServeNothing:
		return a.emptyKeyDir()
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

// emptyKeyDir empties the key directory of the signer.
func (a Agent) emptyKeyDir() error {
	dir, err := os.OpenRoot(a.Paths().KeyDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !isSet(e.Name()) {
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
func (a Agent) read(ctx context.Context, all dirs) (Host, error) {
	h := Host{Files: map[File][]byte{}}
	for _, file := range append([]File{{State, undoFile}}, undoable...) {
		text, err := all[file.Dir].ReadFile(file.Name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return h, fmt.Errorf("reading %v: %w", file, err)
		}
		h.Files[file] = text
	}
	if err := errors.Join(decode(h, stateFile, &h.Configured), decode(h, undoFile, &h.Undo)); err != nil {
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
	if err != nil {
		return h, err
	}
	h.Sets = slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return isSet(e.Name()) })
	// No signer is as good as one that does not answer.
	h.Serving, _ = serving(ctx, a.Paths().keys().Socket)
	return h, a.search(all, &h)
}

// decode reads one of the agent's own files, if it is there.
func decode[T any](h Host, name string, into **T) error {
	text, ok := h.Files[File{State, name}]
	if !ok {
		return nil
	}
	*into = new(T)
	if err := json.Unmarshal(text, *into); err != nil {
		return fmt.Errorf("reading %v: it is damaged\nhint: remove it once kube-apiserver runs", File{State, name})
	}
	return nil
}

// temporary are the names of what Dir.Replace leaves when it is cut off.
var temporary = regexp.MustCompile(`^\.(sa\.pub|sa\.key|kube-apiserver\.yaml|keyturn-signer\.yaml|configured\.json|undo\.json)\.[0-9A-Z]{26}$`)

// maxKeyFile is far above a file with an RSA key.
const maxKeyFile = 1 << 16

// search finds files with private keys, and what writes that were cut off left.
func (a Agent) search(all dirs, h *Host) error {
	for d, dir := range all {
		err := fs.WalkDir(dir.FS(), ".", func(name string, e fs.DirEntry, err error) error {
			file := File{Dir(d), name}
			if err != nil || !e.Type().IsRegular() || file == (File{PKI, privateFile}) {
				return err
			}
			if temporary.MatchString(name) {
				h.Temporary = append(h.Temporary, file)
				return nil
			}
			if info, err := e.Info(); err != nil || info.Size() > maxKeyFile {
				return nil // it is gone, or holds something else
			}
			if text, err := fs.ReadFile(dir.FS(), name); err == nil {
				h.Keys = append(h.Keys, keysIn(file, text)...)
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("searching %v for private keys: %w", Dir(d), err)
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
