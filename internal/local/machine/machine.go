// Package machine makes machines of this host: sandboxes that run containerd, a kubelet and kube-proxy, and
// that are to a cluster what virtual machines are to one in production.
//
// Set is where to start: the machines of one cluster, in one directory each. A machine is remembered in machine.json
// from before anything of it exists until nothing of it is left. Start and Remove do what is missing; whoever calls
// them may die at any point and call them again. What happens inside a machine is the work of package guest.
package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/process"
)

// Spec is what a machine is for as long as it exists. All but KeyVersion and Refresh stays as it is.
type Spec struct {
	// Name is its host name and that of its Node object.
	Name string `json:"name"`
	// Pool is the node pool that it belongs to, and KeyVersion the key version from whose time it is, or a later one of
	// which all tokens on it are.
	Pool       string `json:"pool"`
	KeyVersion int    `json:"keyVersion"`
	// Refresh is the latest replacement of the tokens of its pods; nil when none was ever begun.
	Refresh *Refresh `json:"refresh,omitempty"`
	// Labels and Taints are put on the Node when it registers.
	Labels map[string]string `json:"labels,omitempty"`
	Taints []corev1.Taint    `json:"taints,omitempty"`
	// Kubeadm means that kubeadm makes it a node: its kubelet starts once kubeadm has configured it, and its /etc can be
	// written and is kept.
	Kubeadm bool `json:"kubeadm,omitempty"`
	// UserData means that a machine of kubeadm carries out user data when it is first started: see FirstBoot.
	UserData bool `json:"userData,omitempty"`
	// ProviderID is that of the Node of a machine of kubeadm; empty: it has none.
	ProviderID string `json:"providerID,omitempty"`
	// Slot tells the machines of a cluster apart by number; addresses follow from it.
	Slot int `json:"slot"`
	// Group is the name of its control group, unique on the host.
	Group string `json:"group"`
	// Port is its connection to the network.
	Port network.Port `json:"port"`
	// PodRange is the range of its pods, a part of PodCIDR, that of all pods of the cluster.
	PodRange netip.Prefix `json:"podRange"`
	PodCIDR  netip.Prefix `json:"podCIDR"`
}

// Access is what a machine needs to reach its cluster, told to it at each start.
type Access struct {
	// Server is the URL of the API.
	Server string
	// CA is the certificate authority of the API servers and of their clients, in PEM.
	CA []byte
	// Token is the bootstrap token by which the kubelet asks for its certificate. It is not needed once that has
	// joined, and ends up in one file of mode 0600 that Tidy removes then.
	Token string
	// UserData is cloud-init user data, as package cloudconfig reads it. It may have private keys, and stays in the
	// machine, in a file of mode 0600.
	UserData []byte
	// Routes lead to the pods of other machines.
	Routes []network.Route
}

// Programs are where a machine's programs are on this host. The Debian packages of containerd, runc and nftables are
// found in /usr.
type Programs struct {
	// Init is keyturn-machine.
	Init string
	// Version is that of the kubelet and kube-proxy, and Find says where a program of a version is.
	Version string
	Find    func(version, name string) (string, error)
	// Images is the directory of the image archives (*.tar) that every machine gets.
	Images string
}

// Set is the machines of one cluster.
type Set struct {
	// Dir has one directory for each machine. It must be on a file system that overlayfs can use, and its path is
	// best short.
	Dir string
	// Owner is whose the links of the machines are.
	Owner string
	Programs
}

// State is a machine as observed.
type State struct {
	// Spec is zero but for the name when a crash left a directory in which nothing was made yet.
	Spec Spec
	// Running means that its sandbox runs, whatever goes on inside, and Started since when.
	Running bool
	Started time.Time
	// Joined means that its kubelet has a certificate of its own.
	Joined bool
	// Kubelet is since when a kubelet runs that was started after the Refresh was begun; zero when none does, and when
	// the Refresh is done.
	Kubelet time.Time
}

// processName is the name by which the Runner of a machine knows it.
const processName = "machine"

// List returns the machines that exist, by name, half-made and half-removed ones too.
func (s Set) List() ([]State, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listing machines: %w", err)
	}
	var states []State
	for _, e := range entries {
		state, _, err := s.Look(e.Name())
		if err != nil {
			return nil, err
		}
		states = append(states, state)
	}
	return states, nil
}

// Look observes one machine; false when there is none.
func (s Set) Look(name string) (State, bool, error) {
	if _, err := os.Stat(s.path(name)); errors.Is(err, fs.ErrNotExist) {
		return State{}, false, nil
	}
	spec, err := s.readSpec(name)
	if err != nil {
		return State{}, false, fmt.Errorf("looking at machine %s: %w", name, err)
	}
	running, err := s.runner(name).Observe(processName)
	if err != nil {
		return State{}, false, fmt.Errorf("looking at machine %s: %w", name, err)
	}
	state := State{Spec: spec, Running: running.Running, Started: running.Started, Joined: s.hasCertificate(name)}
	if spec.refreshing() && running.Running {
		if state.Kubelet, err = s.newKubelet(spec, running.PID); err != nil {
			return State{}, false, fmt.Errorf("looking at machine %s: %w", name, err)
		}
	}
	return state, true, nil
}

func (s Set) hasCertificate(name string) bool {
	return s.inVar(name, func(dir *os.Root) error {
		_, err := dir.Lstat(certificatePath) // a link to a path in the machine
		return err
	}) == nil
}

func (s Set) readSpec(name string) (Spec, error) {
	raw, err := os.ReadFile(s.path(name, "machine.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return Spec{Name: name}, nil
	}
	if err != nil {
		return Spec{}, err
	}
	var spec Spec
	if err := json.Unmarshal(raw, &spec); err != nil {
		return Spec{}, fmt.Errorf("reading %s: %w", s.path(name, "machine.json"), err)
	}
	if spec.Group == "" {
		spec.Group = spec.Port.Namespace // in earlier versions it had the name of the network namespace
	}
	return spec, nil
}

func (s Set) writeSpec(spec Spec) error {
	raw, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return err
	}
	return atomicfile.Ensure(s.path(spec.Name, "machine.json"), raw)
}

func (s Set) runner(name string) *process.Runner { return process.New(s.path(name, "run")) }

// path joins names below a machine's directory.
func (s Set) path(name string, elem ...string) string {
	return filepath.Join(append([]string{s.Dir, name}, elem...)...)
}
