// Package network makes the layer-2 networks of the clusters on this host: one bridge a cluster, and for each
// of its machines a network namespace with a veth pair on that bridge.
//
// EnsureBridge and MakePort are where to start. Every call can be repeated, and makes good what an earlier one that was cut
// off left half made. Links made here carry a link group of their own from the moment they exist; a link
// without it is never changed or deleted, whatever its name.
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

// EnsureBridge makes a bridge that is up and has the addresses given, beside any that it already has. It fails
// if a link of that name exists that this package did not make.
func EnsureBridge(ctx context.Context, name string, addrs ...netip.Prefix) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("making bridge %s: %w", name, err)
	}
	bridge, err := ensureBridgeLink(name, addrs)
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

// DeleteBridge deletes a bridge and its addresses; the ports that are left lose their bridge. A bridge that does not
// exist is no error; one that this package did not make is.
func DeleteBridge(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("deleting bridge %s: %w", name, err)
	}
	return deleteLink(name)
}

func ensureBridgeLink(name string, addrs []netip.Prefix) (netlink.Link, error) {
	if link, err := ownLink(name, "bridge"); err != nil || link != nil {
		return link, err
	}
	attrs := ownAttrs(name)
	if len(addrs) > 0 {
		// Left to itself a bridge takes the lowest address of its ports: it would change as machines come
		// and go, and their neighbours would wait for ARP.
		attrs.HardwareAddr = hardwareAddr(addrs[0].Addr())
	}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return nil, err
	}
	return ownLink(name, "bridge")
}

// ownLink returns the link of that name if this package made it, and nil if there is none.
func ownLink(name, kind string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("looking up link %s: %w", name, err)
	}
	if link.Type() != kind || link.Attrs().Group != linkGroup {
		return nil, fmt.Errorf("link %s (%s) exists and was not made by Keyturn", name, link.Type())
	}
	return link, nil
}

func deleteLink(name string) error {
	link, err := netlink.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking up link %s: %w", name, err)
	}
	if link.Attrs().Group != linkGroup {
		return fmt.Errorf("deleting link %s: it was not made by Keyturn", name)
	}
	// ENODEV: its namespace ended at this moment, and took it along.
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

// hardwareAddr is the locally administered MAC address that goes with an IPv4 address, so that a link made anew
// under the same address is the same to its neighbours.
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
