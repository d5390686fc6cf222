package local

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/hostkeys"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/local/pki"
	"github.com/keyturn/keyturn/internal/local/process"
)

// AdminVersion is the Kubernetes version of the admin cluster, unless KubeBinDir itself holds the binaries of another one.
const AdminVersion = "v1.36.4"

const (
	controllerName  = "controller"
	controllerLocal = 4
	metricsPort     = "8080"
	healthPort      = "8081"
	// adminPatience bounds each wait for a part of the admin cluster.
	adminPatience = 2 * time.Minute
)

// AdminOptions say how to make the admin cluster.
type AdminOptions struct {
	// Kubeconfig is where the administrator's kubeconfig is written, with mode 0600.
	Kubeconfig string
	// Fleet is where files of the local fleet are written; empty paths: nowhere.
	Fleet FleetFiles
	// Allow are the --allow-… flags of the controller besides that for the local fleet: what UserClusters may make it reach.
	Allow []string
	// Progress is told what is being done, one plain line each; nil: nobody is.
	Progress func(string)
}

// CreateAdmin brings up the admin cluster and its controller and writes the kubeconfig. What runs already is left as it
// is, and what is missing is brought back: it can be run again after a crash or a reboot. If it fails it ends what it
// started.
func (h *Host) CreateAdmin(ctx context.Context, o AdminOptions) error {
	before, err := h.runningOfAdmin()
	if err == nil {
		err = h.createAdmin(ctx, o)
	}
	if err != nil {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), adminPatience)
		defer cancel()
		return fmt.Errorf("creating admin cluster: %w", errors.Join(err, h.endAdmin(ending, before)))
	}
	return nil
}

// adminProcesses are those of the admin cluster in the order in which they end: the controller starts the others again.
var adminProcesses = [...]string{controllerName, apiServerName(0), binaryEtcd, fleetName}

// runningOfAdmin returns which of the admin cluster's processes run.
func (h *Host) runningOfAdmin() (map[string]bool, error) {
	running := map[string]bool{}
	for _, name := range adminProcesses {
		st, err := h.Runner(h.AdminSite()).Observe(name)
		if err != nil {
			return nil, err
		}
		running[name] = st.Running
	}
	return running, nil
}

// endAdmin ends the admin cluster's processes but those to keep. With a controller that is kept, it keeps them all.
func (h *Host) endAdmin(ctx context.Context, keep map[string]bool) error {
	if keep[controllerName] {
		return nil
	}
	for _, name := range adminProcesses {
		if keep[name] {
			continue
		}
		grace := deleteGrace
		if name == controllerName {
			grace = controllerGrace
		}
		if err := h.Runner(h.AdminSite()).Await(ctx, name, grace); err != nil {
			return err
		}
	}
	if keep[fleetName] {
		return nil
	}
	return h.removeFleetBridge(ctx)
}

func (h *Host) createAdmin(ctx context.Context, o AdminOptions) error {
	progress := o.Progress
	if progress == nil {
		progress = func(string) {}
	}
	p, err := h.adminPlane()
	if err != nil {
		return err
	}
	progress("writing certificates and configuration")
	if err := errors.Join(h.keepNetwork(), p.ensureAdminFiles()); err != nil {
		return err
	}
	progress("starting etcd and kube-apiserver")
	if err := h.EnsureAdmin(ctx); err != nil {
		return err
	}
	revive := func() error { return h.EnsureAdmin(ctx) }
	if err := p.await(ctx, p.apiServerURL(0)+fullReadyPath, apiServerName(0), revive); err != nil {
		return err
	}
	if err := p.noteServed(); err != nil {
		return err
	}
	progress("installing the UserCluster API and its admission policy")
	if err := p.install(ctx); err != nil {
		return fmt.Errorf("making an admin cluster of the API server: %w", err)
	}
	progress("starting the controller")
	if err := p.startController(ctx, o.Allow); err != nil {
		return err
	}
	progress("starting the local fleet")
	if err := p.awaitFleet(ctx); err != nil {
		return err
	}
	progress("writing the kubeconfig")
	return errors.Join(p.writeKubeconfig(o.Kubeconfig, "kubernetes-admin", "admin"), p.writeFleetFiles(o.Fleet))
}

// EnsureAdmin starts the processes beside the controller that do not run: those of the admin cluster's API (etcd,
// kube-apiserver) and the local fleet. It does not wait for them, and does nothing when there is no admin cluster.
func (h *Host) EnsureAdmin(ctx context.Context) error {
	p, err := h.adminPlane()
	if err != nil {
		return fmt.Errorf("keeping admin cluster: %w", err)
	}
	if _, err := os.Stat(p.Path(adminMark)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	h.admin.Lock()
	defer h.admin.Unlock()
	keys := controlplane.Keys{Verify: []int{1}, Sign: 1}
	err = errors.Join(
		p.ensureEtcd(),
		p.ensure(binaryAPIServer, func(path string) process.Spec { return p.apiServer(path, 0, keys) }),
		p.ensureFleet(ctx),
	)
	if err != nil {
		return fmt.Errorf("keeping admin cluster: %w", err)
	}
	return nil
}

// adminPlane is the admin cluster as a control plane of one API server, without load balancer or controllers of Kubernetes' own.
func (h *Host) adminPlane() (*plane, error) {
	version, err := h.adminVersion()
	if err != nil {
		return nil, err
	}
	return h.newPlane(layout{
		Site: h.AdminSite(), Version: version, Replicas: 1, Encrypted: true, Issuer: v1alpha1.DefaultIssuer,
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/20"),
	}), nil
}

// adminVersion takes official release binaries of whatever version, when there are no others.
func (h *Host) adminVersion() (string, error) {
	flat := filepath.Join(h.binDir, binaryAPIServer)
	if exists(flat) && !exists(filepath.Join(h.binDir, AdminVersion, binaryAPIServer)) {
		return h.versionOfFlat(flat)
	}
	return AdminVersion, nil // Binary says what is missing
}

// versionOfFlat asks once: the admin cluster keeps its version, and Binary refuses a binary that was replaced by
// another version.
func (h *Host) versionOfFlat(path string) (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.flatVersion == "" {
		version, err := versionOf(path)
		if err != nil {
			return "", err
		}
		h.flatVersion = version
	}
	return h.flatVersion, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// adminMark is the last file of an admin cluster to be written before anything runs, so it says whether there is one.
const adminMark = "controller.kubeconfig"

func (p *plane) ensureAdminFiles() error {
	if err := p.ensureSecretsKey(); err != nil {
		return err
	}
	a, err := p.authorities()
	if err != nil {
		return err
	}
	controller := certificate{a.cluster, controllerName, pki.Request{CommonName: v1alpha1.ControllerUser, Client: true}}
	if err := p.ensureCertificates(append(p.certificates(a), controller)); err != nil {
		return err
	}
	if err := errors.Join(
		atomicfile.Ensure(p.Path("authentication.yaml"), []byte(authenticationConfig)),
		atomicfile.Ensure(p.Path("admission.yaml"), []byte(admissionConfig)),
		p.ensureAdminTokenKey(),
	); err != nil {
		return err
	}
	return p.writeKubeconfig(p.Path(adminMark), controllerName, controllerName)
}

// ensureAdminTokenKey gives the admin cluster's API server a signing key, which it needs though nobody uses its tokens.
func (p *plane) ensureAdminTokenKey() error {
	disk := p.apiServerKeys(0)
	if configured, err := disk.Configured(); err != nil || !configured.IsZero() {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generating the admin cluster's signing key: %w", err)
	}
	return disk.Configure(controlplane.Keys{Verify: []int{1}, Sign: 1}, []hostkeys.Key{{Version: 1, Signer: key}})
}

func (p *plane) writeKubeconfig(path, user, pair string) error {
	a, err := p.authorities()
	if err != nil {
		return err
	}
	raw, err := pki.Kubeconfig(p.apiServerURL(0), p.Name, user, a.cluster.CertificatePEM(), p.pair(pair))
	if err != nil {
		return err
	}
	return atomicfile.Ensure(path, raw)
}

func (p *plane) install(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, adminPatience)
	defer cancel()
	cfg, err := p.restConfig(p.apiServerURL(0))
	if err != nil {
		return err
	}
	return install.Apply(ctx, cfg)
}

// startController starts keyturn-controller and waits until it works. One that runs with other flags is replaced.
func (p *plane) startController(ctx context.Context, allow []string) error {
	path, err := p.host.program("keyturn-controller")
	if err != nil {
		return err
	}
	spec := p.controller(path, allow)
	st, err := p.run.Observe(spec.Name)
	if err != nil {
		return err
	}
	if st.Running && st.Digest != spec.Digest() {
		if err := p.run.Await(ctx, spec.Name, controllerGrace); err != nil {
			return err
		}
	}
	revive := func() error { return p.start(spec) }
	return p.await(ctx, "http://"+p.controllerAddress(healthPort)+"/readyz", spec.Name, revive)
}

func (p *plane) controller(path string, allow []string) process.Spec {
	return process.Spec{Name: controllerName, Path: path, Args: append([]string{
		"--kubeconfig=" + p.Path(adminMark),
		"--data-dir=" + p.host.dataDir,
		"--kube-bin-dir=" + p.host.binDir,
		"--network=" + p.Network.String(),
		"--metrics-bind-address=" + p.controllerAddress(metricsPort),
		"--health-probe-bind-address=" + p.controllerAddress(healthPort),
		"--supervise",
		"--leader-elect=false", // the data directory has a lock, which a controller that starts again need not wait for
		"--allow-fleet-endpoint=" + p.host.FleetEndpoint(),
	}, allow...)}
}

func (p *plane) controllerAddress(port string) string {
	return p.Local(controllerLocal).String() + ":" + port
}

// await waits until a URL says 200, and has the process revived as long as that does not fail again and again.
func (p *plane) await(ctx context.Context, url, name string, revive func() error) error {
	client, err := p.healthClient()
	if err != nil {
		return err
	}
	return p.awaitBy(ctx, client, url, name, revive)
}

// awaitBy is await with the client that may ask the process.
func (p *plane) awaitBy(ctx context.Context, client *http.Client, url, name string, revive func() error) error {
	ctx, cancel := context.WithTimeout(ctx, adminPatience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := revive(); err != nil {
			return err
		}
		last := health(ctx, client, url)
		if last == nil {
			return nil
		}
		if p.run.BackOff(name) > 2*time.Second {
			return errors.New(cmp.Or(p.run.Why(name), name+" does not stay alive"))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w: %w; last lines of its log: %s", name, ctx.Err(), last, p.run.LastLines(name, 3))
		case <-tick.C:
		}
	}
}
