package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const testOwner = "test"

// testNames are names and addresses that only this test process uses.
func testNames(t *testing.T) (bridge string, port Port) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("networks need root")
	}
	id := os.Getpid() % 10000
	bridge = fmt.Sprintf("ktt%d", id)
	port = Port{
		Owner: testOwner, Link: bridge + "p", Bridge: bridge,
		Address: netip.MustParsePrefix("198.51.100.7/24"), Gateway: netip.MustParseAddr("198.51.100.1"),
	}
	t.Cleanup(func() {
		ctx := context.Background()
		if err := errors.Join(DeletePort(ctx, port), DeleteBridge(ctx, testOwner, bridge)); err != nil {
			t.Error(err)
		}
	})
	return bridge, port
}

func addresses(t *testing.T, link string) string {
	t.Helper()
	l, err := netlink.LinkByName(link)
	if err != nil {
		t.Fatal(err)
	}
	list, err := netlink.AddrList(l, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, a := range list {
		all = append(all, a.IPNet.String())
	}
	return strings.Join(all, " ")
}

func TestBridge(t *testing.T) {
	bridge, _ := testNames(t)
	gateway := netip.MustParsePrefix("198.51.100.1/24")
	for range 2 {
		if err := EnsureBridge(t.Context(), testOwner, bridge, gateway); err != nil {
			t.Fatal(err)
		}
	}
	balancer := netip.MustParsePrefix("198.51.100.10/32")
	if err := EnsureBridge(t.Context(), testOwner, bridge, gateway, balancer); err != nil {
		t.Fatal(err)
	}
	if got, want := addresses(t, bridge), "198.51.100.1/24 198.51.100.10/32"; got != want {
		t.Errorf("addresses are %q, want %q", got, want)
	}
	for range 2 {
		if err := DeleteBridge(t.Context(), testOwner, bridge); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := netlink.LinkByName(bridge); !isNotFound(err) {
		t.Errorf("looking up the deleted bridge: %v", err)
	}
}

func TestForeignLinksStay(t *testing.T) {
	bridge, port := testNames(t)
	foreign := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge, TxQLen: -1}}
	if err := netlink.LinkAdd(foreign); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := netlink.LinkDel(foreign); err != nil {
			t.Errorf("the foreign bridge is gone: %v", err)
		}
	})
	_, errPort := MakePort(t.Context(), port, nil)
	for what, err := range map[string]error{
		"EnsureBridge": EnsureBridge(t.Context(), testOwner, bridge, netip.MustParsePrefix("198.51.100.1/24")),
		"MakePort":     errPort,
	} {
		if err == nil || !strings.Contains(err.Error(), bridge) || !strings.Contains(err.Error(), "not made by Keyturn") {
			t.Errorf("%s: %v; want an error that names the bridge", what, err)
		}
	}
	if err := DeleteBridge(t.Context(), testOwner, bridge); err != nil {
		t.Error(err)
	}
	if got := addresses(t, bridge); got != "" {
		t.Errorf("the foreign bridge was given %s", got)
	}
}

// A link of another owner is as foreign as one that somebody else made; one that a crash left without an owner is
// taken.
func TestLinksHaveOwners(t *testing.T) {
	bridge, port := testNames(t)
	gateway := netip.MustParsePrefix("198.51.100.1/24")
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: ownAttrs(bridge)}); err != nil {
		t.Fatal(err)
	}
	if err := EnsureBridge(t.Context(), testOwner, bridge, gateway); err != nil {
		t.Fatalf("taking a bridge without an owner: %v", err)
	}
	mustMakePort(t, port, nil)
	theirs := port
	theirs.Owner = "another"
	_, errPort := MakePort(t.Context(), theirs, nil)
	for what, err := range map[string]error{
		"EnsureBridge": EnsureBridge(t.Context(), theirs.Owner, bridge, gateway),
		"MakePort":     errPort,
		"DeletePort":   DeletePort(t.Context(), theirs),
	} {
		if !errors.Is(err, errForeign) || !strings.Contains(err.Error(), bridge) {
			t.Errorf("%s of another: %v; want an error that names the link", what, err)
		}
	}
	if err := DeleteBridge(t.Context(), theirs.Owner, bridge); err != nil {
		t.Error(err)
	}
	for _, name := range []string{bridge, port.Link} {
		if link, err := netlink.LinkByName(name); err != nil || link.Attrs().Alias != aliasPrefix+testOwner {
			t.Errorf("link %s: %+v, %v", name, link, err)
		}
	}
}

func TestPort(t *testing.T) {
	bridge, port := testNames(t)
	if _, err := MakePort(t.Context(), port, nil); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a port without its bridge: %v", err)
	}
	if err := EnsureBridge(t.Context(), testOwner, bridge, netip.MustParsePrefix("198.51.100.1/24")); err != nil {
		t.Fatal(err)
	}
	routes := []Route{
		{To: netip.MustParsePrefix("203.0.113.0/25"), Via: port.Address.Addr()},
		{To: netip.MustParsePrefix("203.0.113.128/25"), Via: netip.MustParseAddr("198.51.100.8")},
	}
	const want = "default via 198.51.100.1, 198.51.100.0/24, 203.0.113.128/25 via 198.51.100.8"
	for range 2 {
		ns := mustMakePort(t, port, routes)
		if got := portRoutes(t, ns); got != want {
			t.Errorf("routes are %s, want %s", got, want)
		}
	}
	for range 2 {
		if err := DeletePort(t.Context(), port); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := netlink.LinkByName(port.Link); !isNotFound(err) {
		t.Errorf("looking up the deleted link: %v", err)
	}
}

func mustMakePort(t *testing.T, port Port, routes []Route) *os.File {
	t.Helper()
	ns, err := MakePort(t.Context(), port, routes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func portRoutes(t *testing.T, ns *os.File) string {
	t.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(int(ns.Fd())))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	list, err := h.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range list {
		text := "default"
		if ones, _ := r.Dst.Mask.Size(); ones > 0 {
			text = r.Dst.String()
		}
		if r.Gw != nil {
			text += " via " + r.Gw.String()
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}
