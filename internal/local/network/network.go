// Package network makes the layer-2 networks of the clusters on this host: one bridge a cluster, and for each
// of its machines a network namespace with a veth pair on that bridge.
//
// Start with EnsureBridge and MakePort. Every call can be repeated, and completes what an interrupted one left half
// made. Links made here have a special link group from the moment they exist, and then their owner's name as alias. A
// link of another group or owner is never changed or deleted.
package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// linkGroup marks the links that this package made: "kt" in ASCII. The kernel sets it in the same request
// that creates the link, which it does not do for an alias.
const linkGroup = 0x6b74

// aliasPrefix begins the alias of a link, before its owner's name.
const aliasPrefix = "keyturn "

// errForeign is why a link that is not the owner's is not touched.
var errForeign = errors.New("it was not made by Keyturn, or by the Keyturn of another data directory")

// EnsureBridge makes a bridge of the owner that is up and has the given addresses, in addition to any that it already
// has. It fails if a link of that name exists that is not the owner's.
func EnsureBridge(ctx context.Context, owner, name string, addrs ...netip.Prefix) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("making bridge %s: %w", name, err)
	}
	bridge, err := ensureBridgeLink(owner, name, addrs)
	if err != nil {
		return fmt.Errorf("making bridge %s: %w", name, err)
	}
	for _, addr := range addrs {
		if err := netlink.AddrReplace(bridge, address(addr)); err != nil {
			return fmt.Errorf("adding address %s to bridge %s: %w", addr, name, err)
		}
	}
	if err := netlink.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("bringing up bridge %s: %w", name, err)
	}
	return nil
}

// DeleteBridge deletes a bridge and its addresses; remaining ports lose their bridge. A bridge that does not exist is
// no error, and one that is not the owner's stays, since the owner then has none.
func DeleteBridge(ctx context.Context, owner, name string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	if err := deleteLink(owner, name); err != nil && !errors.Is(err, errForeign) {
		return err
	}
	return nil
}

func ensureBridgeLink(owner, name string, addrs []netip.Prefix) (netlink.Link, error) {
	link, err := ownLink(owner, name)
	if err != nil {
		return nil, err
	}
	if link == nil {
		attrs := ownAttrs(name)
		if len(addrs) > 0 {
			// By default, a bridge takes the lowest address of its ports: it would change as machines come and go, and
			// their neighbors would wait for ARP.
			attrs.HardwareAddr = hardwareAddr(addrs[0].Addr())
		}
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			return nil, err
		}
		// A crash here leaves a bridge without an owner, which the next call takes.
		if link, err = ownLink(owner, name); err != nil {
			return nil, err
		}
	}
	if link == nil || link.Type() != "bridge" {
		return nil, fmt.Errorf("link %s: %w", name, errForeign)
	}
	return link, takeLink(owner, link)
}

// ownLink returns the link of that name if it is the owner's or, as after a crash, has none yet; nil if there is none.
func ownLink(owner, name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up link %s: %w", name, err)
	}
	alias := link.Attrs().Alias
	if link.Attrs().Group != linkGroup || alias != "" && alias != aliasPrefix+owner {
		return nil, fmt.Errorf("link %s: %w", name, errForeign)
	}
	return link, nil
}

// takeLink gives the link its owner.
func takeLink(owner string, link netlink.Link) error {
	alias := aliasPrefix + owner
	if link.Attrs().Alias == alias {
		return nil
	}
	if err := netlink.LinkSetAlias(link, alias); err != nil {
		return fmt.Errorf("marking link %s: %w", link.Attrs().Name, err)
	}
	return nil
}

func deleteLink(owner, name string) error {
	link, err := ownLink(owner, name)
	if err != nil || link == nil {
		return err
	}
	// ENODEV: its namespace ended at this moment, and deleted it.
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("deleting link %s: %w", name, err)
	}
	return nil
}

func ownAttrs(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.Group = linkGroup
	return attrs
}

// hardwareAddr returns the locally administered MAC address for an IPv4 address, so that a link that is made again with
// the same address looks the same to its neighbors.
func hardwareAddr(addr netip.Addr) net.HardwareAddr {
	ip := addr.As4()
	return net.HardwareAddr{0x0a, 0x58, ip[0], ip[1], ip[2], ip[3]}
}

func address(p netip.Prefix) *netlink.Addr { return &netlink.Addr{IPNet: ipNet(p)} }

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func isNotFound(err error) bool {
	var notFound netlink.LinkNotFoundError
	return errors.As(err, &notFound)
}
