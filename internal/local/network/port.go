package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// portLink is the name of the link inside the namespace.
const portLink = "eth0"

// Port is how one machine is connected to its cluster's bridge.
type Port struct {
	// Owner owns the port and its bridge.
	Owner string `json:"-"`
	// Namespace is the name in /run/netns of the network namespace that an earlier version made; empty: none.
	Namespace string `json:"namespace,omitempty"`
	// Link is the host's end of the veth pair, at most 15 bytes long; the machine's end is eth0.
	Link string `json:"link"`
	// Bridge is the bridge that the port belongs to. It must exist.
	Bridge string `json:"bridge"`
	// Address is the machine's own, with the bridge's prefix length.
	Address netip.Prefix `json:"address"`
	// Gateway is the next hop of the default route: the bridge's address.
	Gateway netip.Addr `json:"gateway"`
}

// Route is a range of addresses and the neighbor that it is reached through.
type Route struct {
	To  netip.Prefix
	Via netip.Addr
}

// MakePort makes a network namespace with the veth pair and the routes in addition to the default one. The namespace
// exists as long as the file is open, in any process, or a process is in it. An existing port of these names is removed
// first: a machine that starts finds nothing of its earlier network. Routes through the port's own address are skipped,
// so that all ports of a network can get the same routes.
func MakePort(ctx context.Context, p Port, routes []Route) (namespace *os.File, err error) {
	if err := DeletePort(ctx, p); err != nil {
		return nil, err
	}
	// After a crash here or below, the namespace and what is in it end with this process.
	ns, err := makeNamespace()
	if err != nil {
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	if err := p.make(ns, routes); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

func (p Port) make(ns *os.File, routes []Route) error {
	if err := p.connect(ns); err != nil {
		return fmt.Errorf("connecting %s to bridge %s: %w", p.Address.Addr(), p.Bridge, err)
	}
	inside, err := netlink.NewHandleAt(netns.NsHandle(int(ns.Fd())))
	if err != nil {
		return fmt.Errorf("entering the network namespace of %s: %w", p.Address.Addr(), err)
	}
	defer inside.Close()
	if err := p.setUp(inside, routes); err != nil {
		return fmt.Errorf("setting up the network namespace of %s: %w", p.Address.Addr(), err)
	}
	return nil
}

// DeletePort deletes the veth pair; the namespace ends with its last process.
func DeletePort(ctx context.Context, p Port) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("deleting link %s: %w", p.Link, err)
	}
	if err := deleteLink(p.Owner, p.Link); err != nil || p.Namespace == "" {
		return err
	}
	if err := removeNamed(p.Namespace); err != nil {
		return fmt.Errorf("deleting network namespace %s: %w", p.Namespace, err)
	}
	return nil
}

// connect makes the veth pair, with its near end on the bridge and its far end in ns.
func (p Port) connect(ns *os.File) error {
	bridge, err := ownLink(p.Owner, p.Bridge)
	if err != nil {
		return err
	}
	if bridge == nil {
		return errors.New("the bridge does not exist")
	}
	attrs := ownAttrs(p.Link)
	attrs.MasterIndex = bridge.Attrs().Index
	attrs.Flags = net.FlagUp
	pair := &netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         portLink,
		PeerHardwareAddr: hardwareAddr(p.Address.Addr()),
		PeerNamespace:    netlink.NsFd(int(ns.Fd())),
	}
	if err := netlink.LinkAdd(pair); err != nil {
		return fmt.Errorf("making veth pair %s: %w", p.Link, err)
	}
	link, err := ownLink(p.Owner, p.Link)
	if err != nil {
		return err
	}
	if link == nil {
		return fmt.Errorf("veth pair %s is gone", p.Link)
	}
	return takeLink(p.Owner, link)
}

// setUp sets up the links, the address and the routes in the machine's namespace.
func (p Port) setUp(h *netlink.Handle, routes []Route) error {
	loopback, err := h.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := h.LinkSetUp(loopback); err != nil {
		return fmt.Errorf("bringing up link lo: %w", err)
	}
	link, err := h.LinkByName(portLink)
	if err != nil {
		return err
	}
	if err := h.AddrAdd(link, address(p.Address)); err != nil {
		return fmt.Errorf("adding address %s: %w", p.Address, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("bringing up link %s: %w", portLink, err)
	}
	everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	return p.addRoutes(h, link, append([]Route{{To: everywhere, Via: p.Gateway}}, routes...))
}

func (p Port) addRoutes(h *netlink.Handle, link netlink.Link, routes []Route) error {
	for _, r := range routes {
		if r.Via == p.Address.Addr() {
			continue
		}
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.To), Gw: r.Via.AsSlice()}
		if err := h.RouteAdd(route); err != nil {
			return fmt.Errorf("adding the route to %s by %s: %w", r.To, r.Via, err)
		}
	}
	return nil
}
