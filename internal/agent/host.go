package agent

import (
	"bytes"
	"crypto"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/keyturn/keyturn/internal/agent/manifest"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// Dir is one of the directories of a node that the agent writes to.
type Dir int

// The directories.
const (
	// PKI is kubeadm's certificatesDir.
	PKI Dir = iota
	// Manifests is the directory from which the kubelet starts static pods.
	Manifests
	// State is where the agent keeps what it has to remember.
	State
)

func (d Dir) String() string {
	return []string{"the certificates directory", "the manifest directory", "the state directory"}[d]
}

// The files that the agent writes.
const (
	publicFile     = "sa.pub"
	privateFile    = "sa.key"
	serverManifest = "kube-apiserver.yaml"
	signerManifest = "keyturn-signer.yaml"
	managerFile    = "kube-controller-manager.yaml"
	stateFile      = "configured.json"
	undoFile       = "undo.json"
	turnFile       = "turn.json"
)

// Host is what is on a node, as far as Plan needs it.
type Host struct {
	// Configured is what the agent was last asked for; nil before the first time.
	Configured *Configured
	// Undo is a change that is not settled, or that was undone.
	Undo *Change
	// Turn is the latest turn that the agent has seen; nil before the first.
	Turn *int64
	// Files are the files that the agent may replace, as they are.
	Files map[File][]byte
	// Served is what the signer's key directory holds; zero when there is none that can be read.
	Served rotation.Keys
	// Sets means that something is in that directory, even if it cannot be read.
	Sets bool
	// SignerRuns means that a signer whose pod is gone has not ended yet, and SignerFiles that its files are there.
	SignerRuns, SignerFiles bool
	// Serving are the kids of the keys that a running signer serves.
	Serving []string
	// Keys are other files with a private key, in the directories and below.
	Keys []KeyFile
	// Temporary are what writes that were cut off left.
	Temporary []File
}

// File names a file.
type File struct {
	Dir  Dir
	Name string
}

// MarshalText returns the file as one word, for undo.json.
func (f File) MarshalText() ([]byte, error) { return fmt.Appendf(nil, "%d/%s", f.Dir, f.Name), nil }

// UnmarshalText reads what MarshalText wrote.
func (f *File) UnmarshalText(text []byte) error {
	if _, err := fmt.Sscanf(string(text), "%d/%s", &f.Dir, &f.Name); err != nil || !slices.Contains(undoable, *f) {
		return errors.New("not a file of the agent")
	}
	return nil
}

func (f File) String() string { return f.Name + " in " + f.Dir.String() }

// undoable are the files of which a change keeps the content before, in the order in which they are put back: keys,
// then the manifest that restarts kube-apiserver, then the signer that it needs no more.
var undoable = []File{
	{PKI, publicFile}, {PKI, privateFile}, {Manifests, serverManifest}, {Manifests, signerManifest}, {State, stateFile},
}

// turn returns the latest turn; 0 before the first.
func (h Host) turn() int64 {
	if h.Turn == nil {
		return 0
	}
	return *h.Turn
}

// KeyFile is a file with a private key.
type KeyFile struct {
	File
	Kid string
	// Only means that nothing else is in it.
	Only bool
}

// Configured is the content of configured.json: it fences late orders, also after files were changed by others.
type Configured struct {
	Cluster string        `json:"cluster"`
	Keys    rotation.Keys `json:"keys"`
}

// Change is the content of undo.json: a change, and the files that it replaced.
type Change struct {
	Cluster string `json:"cluster"`
	// Restart is the Restart of its order.
	Restart string `json:"restart"`
	// Phase is where the change is.
	Phase Phase `json:"phase"`
	// After is the SHA-256 in hex of the manifest of kube-apiserver that is written: one that somebody else changed since
	// is not put back.
	After string `json:"after"`
	// Before is the content of each file; null when it was missing. It is empty once it was undone.
	Before map[File][]byte `json:"before,omitempty"`
}

// Phase is where a change is.
type Phase string

// The phases.
const (
	// Pending waits for a proof of the new state.
	Pending Phase = "Pending"
	// Undoing puts back the files.
	Undoing Phase = "Undoing"
	// Undone has put them back. The next change may follow.
	Undone Phase = "Undone"
)

// Paths are the paths of a node that are written into manifests.
type Paths struct {
	// PKI is the certificates directory as kube-apiserver sees it.
	PKI string
	// SignerDir holds the socket of the signer, and KeyDir its keys.
	SignerDir, KeyDir string
}

func (p Paths) keys() manifest.Keys {
	return manifest.Keys{
		Public: p.PKI + "/" + publicFile, Private: p.PKI + "/" + privateFile,
		Socket: p.SignerDir + "/socket", MaxExpiration: hostkeys.MaxTokenExpiration,
	}
}

// pair is the content of sa.pub and sa.key.
type pair struct {
	// kids are the kids of sa.pub, in the order of the file; public are the keys by kid.
	kids   []string
	public map[string]crypto.PublicKey
	// private is the kid of sa.key; empty when it is missing.
	private string
	signer  crypto.Signer
}

// signing is the public key of sa.key by its kid; empty when it is missing.
func (p pair) signing() map[string]crypto.PublicKey {
	if p.signer == nil {
		return nil
	}
	return map[string]crypto.PublicKey{p.private: p.signer.Public()}
}

func (h Host) pair() (pair, error) {
	p := pair{public: map[string]crypto.PublicKey{}}
	for rest := h.Files[File{PKI, publicFile}]; len(bytes.TrimSpace(rest)) > 0; {
		block, after := pem.Decode(rest)
		if block == nil {
			return p, fmt.Errorf("reading %s: something in it is not PEM", publicFile)
		}
		public, kid, err := publicKey(string(pem.EncodeToMemory(block)))
		if err != nil {
			return p, fmt.Errorf("reading %s: PEM block %d: %w", publicFile, len(p.kids)+1, err)
		}
		p.kids, p.public[kid], rest = append(p.kids, kid), public, after
	}
	if text := h.Files[File{PKI, privateFile}]; text != nil {
		signer, err := token.ParsePrivateKey(text)
		if err != nil {
			return p, fmt.Errorf("reading %s: %w", privateFile, err)
		}
		k, err := jwks.NewKey(signer.Public())
		if err != nil {
			return p, fmt.Errorf("reading %s: %w", privateFile, err)
		}
		p.private, p.signer = k.KeyID, signer
	}
	return p, nil
}

// keys returns the key versions of the pair; zero when these are not two that follow one another, one of which signs.
func (p pair) keys(known map[string]int) rotation.Keys {
	k := rotation.Keys{Sign: known[p.private]}
	for _, kid := range p.kids {
		if version, ok := known[kid]; ok {
			k.Verify = append(k.Verify, version)
		}
	}
	slices.Sort(k.Verify)
	if hostkeys.Check(k) != nil {
		return rotation.Keys{}
	}
	return k
}

func encode(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return append(text, '\n'), nil
}
