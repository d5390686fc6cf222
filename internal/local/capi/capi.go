// Package capi runs Cluster API on this host, for a management cluster that its caller has. The managers of Cluster API
// run as processes, and so does keyturn-capi, which makes machines with package kubeadm. None of it needs Docker, pods
// or cert-manager.
//
// Management is where to start. It is there to develop and to test with; nothing in Keyturn's programs uses it.
package capi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
	"github.com/keyturn/keyturn/internal/local/network"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/local/process"
)

// Options are what Cluster API is run with.
type Options struct {
	// Dir holds all that is left on disk, that of machines too unless MachineDir is set. It must be on a file system that
	// overlayfs can use.
	Dir string
	// MachineDir holds the machines of several management clusters, between which clusters move; empty: Dir/machines.
	MachineDir string
	// Networks is a range that nothing else on the host uses. The managers have a bridge with its first /24: the
	// management cluster's API server reaches their webhooks there, and has to be reachable from there. Clusters get the
	// rest.
	Networks netip.Prefix
	// BinDir is the output of `make capi`: programs and manifests.
	BinDir string
	// KubeBinDir has the programs of Kubernetes for the machines, and ProgramDir keyturn-machine and keyturn-pause.
	KubeBinDir, ProgramDir string
	// Images is a directory of archives (*.tar) that every machine imports besides those that it needs; empty: none.
	Images string
}

// Management is Cluster API on this host. It keeps nothing in memory that is not on disk.
type Management struct{ opts Options }

// owner is whose the bridge of the managers is. They live no longer than one caller, unlike the machines.
func (m *Management) owner() string { return "capi " + m.opts.Dir }

// New returns the Management of a directory. It makes nothing.
func New(o Options) *Management { return &Management{opts: o} }

// managers are the managers of Cluster API, with the last byte of the address of each.
var managers = []manager{
	{program: "cluster-api-controller", manifests: "core-components.yaml", host: 11, gates: "ClusterTopology=true"},
	{program: "kubeadm-bootstrap-controller", manifests: "bootstrap-components.yaml", host: 12},
	{
		program: "kubeadm-control-plane-controller", manifests: "control-plane-components.yaml", host: 13,
		gates: "ClusterTopology=true",
	},
}

// provider is this project's own, which has no webhooks.
const (
	providerProgram   = "keyturn-capi"
	providerManifests = "infrastructure-components.yaml"
)

type manager struct {
	program, manifests string
	host               byte
	gates              string
}

const (
	webhookPort = 9443
	healthPort  = 9440
	stopGrace   = 10 * time.Second
)

// address is one of the managers' network: 1 is the bridge's.
func (m *Management) address(host byte) netip.Addr {
	octets := m.opts.Networks.Masked().Addr().As4()
	octets[3] = host
	return netip.AddrFrom4(octets)
}

func (m *Management) bridge() string {
	octets := m.opts.Networks.Masked().Addr().As4()
	return fmt.Sprintf("kc%d-%d-%d", octets[0], octets[1], octets[2])
}

func (m *Management) path(elem ...string) string {
	return filepath.Join(append([]string{m.opts.Dir}, elem...)...)
}

func (m *Management) machineDir() string { return cmp.Or(m.opts.MachineDir, m.path("machines")) }

func (m *Management) runner() *process.Runner { return process.New(m.path("run")) }

// StartNetwork makes the bridge, and returns its address, where a management cluster may listen.
func (m *Management) StartNetwork(ctx context.Context) (netip.Addr, error) {
	address := m.address(1)
	return address, network.EnsureBridge(ctx, m.owner(), m.bridge(), netip.PrefixFrom(address, 24))
}

// Start installs Cluster API in a management cluster, whose administrator config is, and starts what does not run. It
// returns when all webhooks answer.
func (m *Management) Start(ctx context.Context, config *rest.Config) error {
	if _, err := m.StartNetwork(ctx); err != nil {
		return err
	}
	authority, err := m.authority()
	if err != nil {
		return err
	}
	for _, each := range managers {
		hooks := webhooks{url: m.webhookURL(each), ca: authority.CertificatePEM()}
		if err := m.install(ctx, config, each.program, each.manifests, hooks); err != nil {
			return err
		}
		// The manifests of the next program have objects whose webhooks must answer.
		if err := m.startManager(ctx, authority, each); err != nil {
			return err
		}
	}
	if err := m.install(ctx, config, providerProgram, providerManifests, webhooks{}); err != nil {
		return err
	}
	return m.Run(ctx)
}

// authority signs the certificates of webhooks.
func (m *Management) authority() (*pki.Authority, error) {
	return pki.EnsureAuthority(m.path("pki"), "webhooks", "webhooks")
}

// install applies the manifests of a program, and writes a kubeconfig with a token of its service account: it may do
// what its roles allow, as in a pod.
func (m *Management) install(
	ctx context.Context, config *rest.Config, program, manifests string, hooks webhooks,
) error {
	account, err := install(ctx, config, filepath.Join(m.opts.BinDir, manifests), hooks)
	if err != nil {
		return err
	}
	raw, err := account.kubeconfig(ctx, config)
	if err != nil {
		return err
	}
	return atomicfile.Ensure(m.kubeconfig(program), raw)
}

func (m *Management) kubeconfig(program string) string { return m.path("kubeconfigs", program) }

// Run starts what does not run of the programs that Start installed. It returns when all webhooks answer.
func (m *Management) Run(ctx context.Context) error {
	authority, err := m.authority()
	if err != nil {
		return err
	}
	for _, each := range managers {
		if err := m.startManager(ctx, authority, each); err != nil {
			return err
		}
	}
	if err := m.startProvider(); err != nil {
		return err
	}
	return m.awaitManagers(ctx)
}

// Kill ends a program as a crash does. Run starts it again.
func (m *Management) Kill(ctx context.Context, program string) error {
	if err := m.runner().Signal(program, syscall.SIGKILL); err != nil {
		return err
	}
	return m.runner().Await(ctx, program, stopGrace)
}

func (m *Management) webhookURL(each manager) string {
	return "https://" + netip.AddrPortFrom(m.address(each.host), webhookPort).String()
}

// startManager starts a manager in a network namespace of its own: its webhooks and its metrics have no flag for the
// address that they listen on.
func (m *Management) startManager(ctx context.Context, authority *pki.Authority, each manager) error {
	state, err := m.runner().Observe(each.program)
	if err != nil || state.Running {
		return err
	}
	address := m.address(each.host)
	certificates := m.path("pki", each.program)
	_, err = authority.Ensure(certificates, "tls", pki.Request{
		CommonName: each.program, Addresses: []netip.Addr{address}, Server: true,
	})
	if err != nil {
		return err
	}
	ns, err := network.MakePort(ctx, network.Port{
		Owner: m.owner(), Link: fmt.Sprintf("kc%x", address.AsSlice()), Bridge: m.bridge(),
		Address: netip.PrefixFrom(address, 24), Gateway: m.address(1),
	}, nil)
	if err != nil {
		return err
	}
	defer ns.Close() // from then on the manager holds it
	return m.runner().Start(process.Spec{
		Name: each.program, Path: "/usr/bin/nsenter", Files: []*os.File{ns},
		Args: []string{
			fmt.Sprintf("--net=/proc/self/fd/%d", process.FirstFile), "--", filepath.Join(m.opts.BinDir, each.program),
			"--kubeconfig=" + m.kubeconfig(each.program),
			fmt.Sprintf("--webhook-port=%d", webhookPort), "--webhook-cert-dir=" + certificates,
			"--webhook-cert-name=tls.crt", "--webhook-key-name=tls.key",
			"--health-addr=" + netip.AddrPortFrom(address, healthPort).String(),
			"--diagnostics-address=127.0.0.1:8443", "--insecure-diagnostics", "--feature-gates=" + each.gates,
		},
	})
}

func (m *Management) startProvider() error {
	return m.runner().Start(process.Spec{
		Name: providerProgram, Path: filepath.Join(m.opts.BinDir, providerProgram),
		Args: []string{
			"--kubeconfig=" + m.kubeconfig(providerProgram), "--data-dir=" + m.machineDir(),
			"--kube-bin-dir=" + m.opts.KubeBinDir, "--bin-dir=" + m.opts.ProgramDir,
			"--networks=" + m.opts.Networks.String(), "--images=" + m.opts.Images,
		},
	})
}

// awaitManagers waits until each manager is ready, its webhooks too.
func (m *Management) awaitManagers(ctx context.Context) error {
	for _, each := range managers {
		url := "http://" + netip.AddrPortFrom(m.address(each.host), healthPort).String() + "/readyz"
		for {
			err := ready(ctx, url)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("waiting for %s: %w: %s", each.program, errors.Join(err, ctx.Err()), m.Log(each.program))
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
	return nil
}

func ready(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	if err := answer.Body.Close(); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, answer.Status)
	}
	return nil
}

// Programs are the names of the processes, for Log and Kill.
func Programs() []string {
	var names []string
	for _, each := range managers {
		names = append(names, each.program)
	}
	return append(names, providerProgram)
}

// Log returns the last lines that a program wrote.
func (m *Management) Log(program string) string { return m.runner().LastLines(program, 40) }

// Stop ends the managers and removes their bridge. What they made stays, also the machines: delete the Clusters before.
func (m *Management) Stop(ctx context.Context) error {
	for _, program := range Programs() {
		if err := m.runner().Await(ctx, program, stopGrace); err != nil {
			return err
		}
	}
	return network.DeleteBridge(ctx, m.owner(), m.bridge())
}

// Remove is Stop, and removes the machines, load balancers and networks of all clusters, as if their power failed. It
// needs no management cluster.
func (m *Management) Remove(ctx context.Context) error {
	if err := m.Stop(ctx); err != nil {
		return err
	}
	entries, err := os.ReadDir(m.machineDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := kubeadm.Remove(ctx, filepath.Join(m.machineDir(), e.Name())); err != nil {
			return err
		}
	}
	return nil
}
