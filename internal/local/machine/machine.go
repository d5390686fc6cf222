// Package machine makes machines of this host: sandboxes that run containerd, a kubelet and kube-proxy, and
// that are to a cluster what virtual machines are to one in production.
//
// Start with Set: the machines of one cluster, in one directory each. machine.json records a machine from before
// anything of it exists until nothing of it is left. Start and Remove do what is missing; their caller may die at any
// point and call them again. Package guest does what happens inside a machine.
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

// Spec describes a machine. All but KeyVersion and Refresh never change.
type Spec struct {
	// Name is its host name and the name of its Node object.
	Name string `json:"name"`
	// Pool is the node pool that it belongs to. No token on it is older than KeyVersion.
	Pool       string `json:"pool"`
	KeyVersion int    `json:"keyVersion"`
	// Refresh is the latest replacement of the tokens of its pods; nil if none ever began.
	Refresh *Refresh `json:"refresh,omitempty"`
	// Labels and Taints are set on the Node when it registers.
	Labels map[string]string `json:"labels,omitempty"`
	Taints []corev1.Taint    `json:"taints,omitempty"`
	// Kubeadm means that kubeadm makes it a node: its kubelet starts once kubeadm has configured it, and its /etc is
	// writable and persistent.
	Kubeadm bool `json:"kubeadm,omitempty"`
	// UserData means that a machine of kubeadm runs user data when it is first started: see FirstBoot.
	UserData bool `json:"userData,omitempty"`
	// ProviderID is the provider ID of the Node of a machine of kubeadm; empty: none.
	ProviderID string `json:"providerID,omitempty"`
	// Slot is the number of the machine in its cluster, which determines its addresses.
	Slot int `json:"slot"`
	// Group is the name of its control group, unique on the host.
	Group string `json:"group"`
	// Port is its connection to the network.
	Port network.Port `json:"port"`
	// PodRange is the range of its pods, a part of PodCIDR, the range of all pods of the cluster.
	PodRange netip.Prefix `json:"podRange"`
	PodCIDR  netip.Prefix `json:"podCIDR"`
}

// Access is what a machine needs to reach its cluster, passed at each start.
type Access struct {
	// Server is the URL of the API.
	Server string
	// CA is the certificate authority of the API servers and of their clients, in PEM.
	CA []byte
	// Token is the bootstrap token with which the kubelet requests its certificate. It is not needed once that has
	// joined. It is stored in one file of mode 0600, which Tidy then removes.
	Token string
	// UserData is cloud-init user data, as package cloudconfig reads it. It may contain private keys, and stays in the
	// machine, in a file of mode 0600.
	UserData []byte
	// Routes lead to the pods of other machines.
	Routes []network.Route
}

// Programs are the paths of a machine's programs on this host. The Debian packages of containerd, runc and nftables are
// in /usr.
type Programs struct {
	// Init is keyturn-machine.
	Init string
	// Version is the version of the kubelet and kube-proxy, and Find returns the path of a program of a version.
	Version string
	Find    func(version, name string) (string, error)
	// Images is the directory of the image archives (*.tar) that every machine gets.
	Images string
}

// Set is the machines of one cluster.
type Set struct {
	// Dir has one directory for each machine. It must be on a file system that overlayfs can use, and its path should
	// be short.
	Dir string
	// Owner owns the links of the machines.
	Owner string
	Programs
}

// State is the observed state of a machine.
type State struct {
	// Spec is zero except for the name if a crash left a directory in which nothing was made yet.
	Spec Spec
	// Running means that its sandbox runs, regardless of what happens inside, and Started is since when.
	Running bool
	Started time.Time
	// Joined means that its kubelet has its own certificate.
	Joined bool
	// Kubelet is since when a kubelet runs that was started after the Refresh began; zero if none does, and once the
	// Refresh is done.
	Kubelet time.Time
}

// processName is the name of a machine's process for its Runner.
const processName = "machine"

// List returns the machines that exist, by name, including half-made and half-removed ones.
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

// Look observes one machine; false if there is none.
func (s Set) Look(name string) (State, bool, error) {
	if _, err := os.Stat(s.path(name)); errors.Is(err, fs.ErrNotExist) {
		return State{}, false, nil
	}
	spec, err := s.readSpec(name)
	if err != nil {
		return State{}, false, fmt.Errorf("observing machine %s: %w", name, err)
	}
	running, err := s.runner(name).Observe(processName)
	if err != nil {
		return State{}, false, fmt.Errorf("observing machine %s: %w", name, err)
	}
	state := State{Spec: spec, Running: running.Running, Started: running.Started, Joined: s.hasCertificate(name)}
	if spec.refreshing() && running.Running {
		if state.Kubelet, err = s.newKubelet(spec, running.PID); err != nil {
			return State{}, false, fmt.Errorf("observing machine %s: %w", name, err)
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
