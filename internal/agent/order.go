// Package agent changes the keys of one kubeadm control-plane node: the files sa.pub and sa.key, the static pod
// manifest of its kube-apiserver, and the signer beside it.
//
// It runs in a pod on that node, without credentials and without a listener: a controller runs it there by pods/exec,
// with an Order on standard input, and reads a Report from standard output. An order is idempotent: it names how the
// node has to be, and a later one finishes what a crash cut off.
//
// Plan is where to start: a pure function from an order and what is on the host to the actions that are left.
// Agent.Apply reads the host, plans and acts, under a lock. The package guarantees, also when the machine loses its
// power at any moment:
//
//   - no keys of an earlier stage (rotation.Keys.Stage) than the node holds are written, and no key is dropped that the
//     order does not know. So an order that is carried out late does no harm;
//   - at each moment a kube-apiserver that anybody restarts accepts what it signs, and signs with the key of before or
//     after;
//   - files are written before the manifest that makes the kubelet restart kube-apiserver. They are replaced whole, and
//     keep their owner, group and mode;
//   - what a change replaces is kept until the controller has proven the new state. If kube-apiserver is not ready for
//     five minutes meanwhile, Watch puts it back: with one API server nobody else could;
//   - private keys arrive sealed for one start of the pod, and leave it sealed for the controller. They are in no
//     report and in no error.
package agent

import (
	"crypto"
	"fmt"

	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

// What an order asks for.
const (
	// Observe reports and changes nothing.
	Observe = "Observe"
	// Converge gives the node Order.Keys.
	Converge = "Converge"
	// Settle follows a Converge whose result was proven: it forgets what that change, which Order.Restart names, replaced,
	// removes a signer that is not needed any more, and deletes copies of the retired keys.
	Settle = "Settle"
	// Undo puts back what the last Converge replaced, unless it was settled.
	Undo = "Undo"
	// Release removes what the agent keeps on the node. kube-apiserver must read its keys from files, and goes on with
	// them.
	Release = "Release"
	// Fence has the agent refuse every restart of an earlier turn than Order.Turn.
	Fence = "Fence"
	// Send returns the private key of sa.key, sealed to Order.Recipient.
	Send = "Send"
)

// Order is what a controller asks of one node.
type Order struct {
	Do string `json:"do"`
	// Cluster is the UID of the UserCluster. A node belongs to the first one that changes it, until Release.
	Cluster string `json:"cluster"`
	// For is the start of the agent's pod that the order is for.
	For Instance `json:"for"`
	// Keys are those that kube-apiserver is to have.
	Keys rotation.Keys `json:"keys,omitzero"`
	// Versions are all key versions that the controller knows. Those that are needed have a private key.
	Versions []Version `json:"versions,omitempty"`
	// Foreign are public keys in PEM, one each, of no key version, that kube-apiserver has to accept too.
	Foreign []string `json:"foreign,omitempty"`
	// Keep are kids of no key version, and of no key that kube-apiserver was seen to accept. They stay in sa.pub if they
	// are there: whoever restarts kube-apiserver has it accept them.
	Keep []string `json:"keep,omitempty"`
	// Restart is a value that no change before had: kube-apiserver is to be restarted once for it. Empty: it must not be
	// taken out now. RestartMark makes one. In Settle, it is the one of the change that was proven: another one may have
	// been begun since.
	Restart string `json:"restart,omitempty"`
	// Turn numbers the changes of all nodes that restart kube-apiserver. One of an earlier turn than the agent has seen is
	// refused: meanwhile another API server may be out.
	Turn int64 `json:"turn,omitempty"`
	// Again is the value of Restart of a change that is not settled, and with which the kubelet did not restart
	// kube-apiserver: the manifest is written once more, with another Restart. What the change replaced is kept.
	Again string `json:"again,omitempty"`
	// Manager is a value with which kube-controller-manager is to be started, as Restart is one of kube-apiserver. It
	// reads sa.key at its start. Empty: it stays as it is. ManagerMark makes one.
	Manager string `json:"manager,omitempty"`
	// RetryAfter has kube-apiserver run with --shutdown-send-retry-after=true from this restart on.
	RetryAfter bool `json:"retryAfter,omitempty"`
	// SignerImage is the image of the signer, for external keys, and SignerNamespace the namespace of its pod: there a
	// controller may run commands.
	SignerImage     string `json:"signerImage,omitempty"`
	SignerNamespace string `json:"signerNamespace,omitempty"`
	// Retired are the kids of retired keys, for Settle.
	Retired []string `json:"retired,omitempty"`
	// Recipient is the public key to which Send seals.
	Recipient PublicKey `json:"recipient,omitempty"`
}

// Version is a key version.
type Version struct {
	Version int `json:"version"`
	// Public is the public key in PEM.
	Public string `json:"public"`
	// Private is the private key in PEM, sealed by Seal. Empty where it is not needed.
	Private []byte `json:"private,omitempty"`
}

// keySet is the keys of an order, opened.
type keySet struct {
	order Order
	// keys have a private key, and public are all that are known, by kid.
	keys   []hostkeys.Key
	known  map[string]int
	public map[string]crypto.PublicKey
	// foreign are the kids of foreign keys, in the order that was given.
	foreign []string
}

// open reads the keys of an order, of which the agent's key opens the private ones.
func (o Order) open(i Instance, private PrivateKey) (keySet, error) {
	s := keySet{order: o, known: map[string]int{}, public: map[string]crypto.PublicKey{}}
	for _, v := range o.Versions {
		public, kid, err := publicKey(v.Public)
		if err != nil {
			return s, fmt.Errorf("key version %d: %w", v.Version, err)
		}
		s.known[kid], s.public[kid] = v.Version, public
		if len(v.Private) == 0 {
			continue
		}
		k, err := v.open(i, private, o.Cluster)
		if err != nil {
			return s, fmt.Errorf("key version %d: %w", v.Version, err)
		}
		if opened, err := jwks.NewKey(k.Signer.Public()); err != nil || opened.KeyID != kid {
			return s, fmt.Errorf("key version %d: its public key is not that of its private key", v.Version)
		}
		s.keys = append(s.keys, k)
	}
	for _, text := range o.Foreign {
		public, kid, err := publicKey(text)
		if err != nil {
			return s, fmt.Errorf("foreign key: %w", err)
		}
		s.foreign, s.public[kid] = append(s.foreign, kid), public
	}
	return s, nil
}

func publicKey(text string) (crypto.PublicKey, string, error) {
	public, err := jwks.ParsePublicKey([]byte(text))
	if err != nil {
		return nil, "", err
	}
	k, err := jwks.NewKey(public)
	return public, k.KeyID, err
}

func (v Version) open(i Instance, private PrivateKey, cluster string) (hostkeys.Key, error) {
	text, err := private.Open(v.Private, i, cluster, v.Version)
	if err != nil {
		return hostkeys.Key{}, err
	}
	defer clear(text)
	signer, err := token.ParsePrivateKey(text)
	return hostkeys.Key{Version: v.Version, Signer: signer}, err
}

// kid returns the kid of a key version.
func (s keySet) kid(version int) (string, error) {
	for kid, v := range s.known {
		if v == version {
			return kid, nil
		}
	}
	return "", fmt.Errorf("key version %d is wanted and was not given", version)
}
