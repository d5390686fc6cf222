package machines

import (
	"github.com/keyturn/keyturn/internal/hint"

	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/local/datadir"
	"github.com/keyturn/keyturn/internal/local/image"
	"github.com/keyturn/keyturn/internal/local/machine"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/plane"
	"github.com/keyturn/keyturn/internal/nodes"
)

const (
	// maxMachines is how many machines a site has addresses for: see Site.Machine.
	maxMachines = 150
	// podRangeBits is the prefix length of one machine's pod range.
	podRangeBits = 24
)

// Machines makes the machines of one user cluster as sandboxes of this host. It implements nodes.Machines and
// nodes.Refresher.
type Machines struct {
	site    datadir.Site
	podCIDR netip.Prefix
	set     machine.Set
	// config reaches the cluster as its administrator, through the load balancer.
	config func(context.Context) (*rest.Config, error)
	// binDir is the directory of our own programs.
	binDir string
}

var (
	_ nodes.Machines  = (*Machines)(nil)
	_ nodes.Refresher = (*Machines)(nil)
)

// ErrNeedsRoot means that this host cannot make machines without root.
var ErrNeedsRoot = hint.Errorf("run as root, or remove nodePools from the cluster's configuration",
	"node pools need root: a node is a sandbox with a network of its own")

// Of returns the machines of a local user cluster. It reads only the registry of sites.
func Of(h *plane.Host, uc *v1alpha1.UserCluster) (*Machines, error) {
	site, _, err := h.Data.SiteOf(uc)
	if err != nil && !errors.Is(err, datadir.ErrTaken) { // the machines there belong to another cluster: this one has none
		return nil, err
	}
	podCIDR, err := netip.ParsePrefix(uc.Spec.Infrastructure.Local.Network.PodCIDR)
	if err != nil {
		return nil, fmt.Errorf("reading podCIDR of cluster %s: %w", uc.Name, err)
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding the folder of this program: %w", err)
	}
	m := &Machines{
		site:    site,
		podCIDR: podCIDR.Masked(),
		config:  func(ctx context.Context) (*rest.Config, error) { return h.ControlPlane(uc).Config(ctx, "") },
		binDir:  filepath.Dir(exe),
		set:     machine.Set{Dir: site.Path("machines"), Owner: h.Data.ID()},
	}
	m.set.Programs = machine.Programs{
		Init:    filepath.Join(m.binDir, "keyturn-machine"),
		Images:  h.Data.Path("images"),
		Version: uc.Spec.Infrastructure.Local.KubernetesVersion,
		Find:    h.Programs.Binary,
	}
	return m, nil
}

// List implements nodes.Machines.
func (m *Machines) List(context.Context) ([]nodes.Machine, error) {
	if m.site.Dir == "" {
		return nil, nil
	}
	states, err := m.set.List()
	if err != nil {
		return nil, err
	}
	var list []nodes.Machine
	for _, s := range states {
		list = append(list, nodes.Machine{
			Name: s.Spec.Name, Pool: s.Spec.Pool, KeyVersion: s.Spec.KeyVersion, Running: s.Running,
			Refresh: refreshOf(s),
		})
	}
	return list, nil
}

// Ensure implements nodes.Machines.
func (m *Machines) Ensure(ctx context.Context, want nodes.Machine, pool v1alpha1.NodePool) error {
	if err := m.canRun(pool); err != nil {
		return fmt.Errorf("machine %s: %w", want.Name, err)
	}
	state, exists, err := m.set.Look(want.Name)
	if err != nil {
		return err
	}
	switch {
	case state.Running && !state.Joined && time.Since(state.Started) > tokenLife:
		// It could not join while its token was valid. The next call starts it with a new one.
		return m.set.Halt(want.Name)
	case state.Running:
		return m.set.Tidy(want.Name)
	}
	spec := state.Spec
	if !exists || spec.Pool == "" {
		if spec, err = m.plan(want, pool); err != nil {
			return fmt.Errorf("planning machine %s: %w", want.Name, err)
		}
	}
	return m.start(ctx, spec, state.Joined)
}

// Remove implements nodes.Machines.
func (m *Machines) Remove(ctx context.Context, name string) (gone bool, err error) {
	if m.site.Dir == "" {
		return true, nil
	}
	return m.set.Remove(ctx, name)
}

// canRun returns an error if this host or this site cannot have machines of the pool.
func (m *Machines) canRun(pool v1alpha1.NodePool) error {
	switch {
	case os.Geteuid() != 0:
		return ErrNeedsRoot
	case m.site.Dir == "":
		return errors.New("its cluster has no control plane yet")
	case m.site.Loopback:
		return hint.Errorf("delete the cluster and create it again as root",
			"its cluster was made without a bridge, and can have no nodes")
	}
	for label := range pool.Labels {
		if !machine.MayRegisterWith(label) {
			return fmt.Errorf("node pool %s: a kubelet may not give its node the label %s", pool.Name, label)
		}
	}
	return nil
}

// start starts a machine. It requests the bootstrap token only if it is needed.
func (m *Machines) start(ctx context.Context, spec machine.Spec, joined bool) error {
	if err := image.EnsureArchives(m.set.Images, m.binDir); err != nil {
		return err
	}
	config, err := m.config(ctx)
	if err != nil {
		return fmt.Errorf("reaching the cluster of machine %s: %w", spec.Name, err)
	}
	access := machine.Access{Server: config.Host, CA: config.CAData, Routes: m.routes()}
	if !joined {
		if access.Token, err = ensureJoinable(ctx, config); err != nil {
			return fmt.Errorf("letting machine %s join: %w", spec.Name, err)
		}
	}
	gateway := netip.PrefixFrom(m.site.Gateway(), m.site.Prefix().Bits())
	if err := network.EnsureBridge(ctx, m.set.Owner, m.site.Bridge(), gateway); err != nil {
		return err
	}
	return m.set.Start(ctx, spec, access)
}

// plan assigns a new machine the lowest free slot, and the addresses of that slot.
func (m *Machines) plan(want nodes.Machine, pool v1alpha1.NodePool) (machine.Spec, error) {
	slot, err := m.freeSlot()
	if err != nil {
		return machine.Spec{}, err
	}
	podRange, _ := podRange(m.podCIDR, slot)
	return machine.Spec{
		Name: want.Name, Pool: pool.Name, KeyVersion: want.KeyVersion,
		Labels: pool.Labels, Taints: pool.Taints,
		Slot: slot, Group: fmt.Sprintf("%s-%d", m.site.Bridge(), slot), Port: m.port(slot),
		PodRange: podRange, PodCIDR: m.podCIDR,
	}, nil
}

func (m *Machines) freeSlot() (int, error) {
	states, err := m.set.List()
	if err != nil {
		return 0, err
	}
	slots := m.slots()
	for slot := range slots {
		taken := func(s machine.State) bool { return s.Spec.Pool != "" && s.Spec.Slot == slot }
		if !slices.ContainsFunc(states, taken) {
			return slot, nil
		}
	}
	return 0, fmt.Errorf("cluster %s has its limit of %d machines: each needs a /%d of the pod range %s",
		m.site.Name, slots, podRangeBits, m.podCIDR)
}

// slots returns how many machines the cluster can have.
func (m *Machines) slots() int {
	for slot := range maxMachines {
		if _, ok := podRange(m.podCIDR, slot); !ok {
			return slot
		}
	}
	return maxMachines
}

// port connects a slot to the cluster's bridge.
func (m *Machines) port(slot int) network.Port {
	address := m.site.Machine(slot)
	return network.Port{
		Link:    fmt.Sprintf("kt%x", address.AsSlice()),
		Bridge:  m.site.Bridge(),
		Address: netip.PrefixFrom(address, m.site.Prefix().Bits()),
		Gateway: m.site.Gateway(),
	}
}

// routes returns routes to the pods of every slot, taken or not, so that machines need no update when another comes or
// goes.
func (m *Machines) routes() []network.Route {
	var routes []network.Route
	for slot := range m.slots() {
		to, _ := podRange(m.podCIDR, slot)
		routes = append(routes, network.Route{To: to, Via: m.site.Machine(slot)})
	}
	return routes
}

// podRange returns the i-th /24 of a cluster's pod range; false if it is outside the range.
func podRange(podCIDR netip.Prefix, i int) (netip.Prefix, bool) {
	if !podCIDR.Addr().Is4() || podCIDR.Bits() > podRangeBits || i >= 1<<(podRangeBits-podCIDR.Bits()) {
		return netip.Prefix{}, false
	}
	a := podCIDR.Addr().As4()
	third := int(a[1])<<8 + int(a[2]) + i
	a[1], a[2] = byte(third>>8), byte(third)
	return netip.PrefixFrom(netip.AddrFrom4(a), podRangeBits), true
}

// RemoveAll removes all machines of a site, regardless of who made them for which cluster.
func RemoveAll(ctx context.Context, h *plane.Host, s datadir.Site) (gone bool, err error) {
	set := machine.Set{Dir: s.Path("machines"), Owner: h.Data.ID()}
	left, err := set.List()
	if err != nil {
		return false, err
	}
	gone = true
	for _, m := range left {
		g, err := set.Remove(ctx, m.Spec.Name)
		if err != nil {
			return false, err
		}
		gone = gone && g
	}
	return gone, nil
}
