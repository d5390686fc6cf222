package controller_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"os"
	"os/signal"
	"path"
	"syscall"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/go-logr/logr"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/signer/ledger"
)

// siteSocket is the environment variable that makes the test binary a controller whose user clusters are behind a
// socket: those of a site of the test that started it. Its standard input says how it reaches the admin cluster.
const siteSocket = "KEYTURN_TEST_SITE_SOCKET"

// adminAccess is how a controller that is a process reaches the admin cluster.
type adminAccess struct {
	Host          string
	CA, Cert, Key []byte
	// Began is when the clocks of all controllers of the test were right: since then, they have run fast.
	Began time.Time
}

// fast is how many times as fast as others the clocks of controllers that are processes run. It makes a minute for
// watches, which nobody has here, three seconds. Leases have their own time.
const fast = 20

func (a adminAccess) now() time.Time { return a.Began.Add(fast * time.Since(a.Began)) }

// Call is what is asked of a site, and Answer what it says.
type (
	Call struct {
		Cluster  client.ObjectKey
		UC       *v1alpha1.UserCluster
		Replicas int
		Target   controlplane.Target
		Keys     []keyRef
		Host     string
		External bool
		Next     nodes.Keys
	}
	Answer struct {
		State      controlplane.State
		Proof      controlplane.Proof
		Nodes      nodes.State
		Legacy     rotation.Legacy
		Count      v1alpha1.LegacyTokenStatus
		Kubeconfig []byte
		Gone       bool
		// Err is why it failed, and Stale that this is controlplane.ErrStale.
		Err   string
		Stale bool
	}
	// keyRef is a key version without its key, which no site needs.
	keyRef struct {
		Version          int
		Algorithm, KeyID string
	}
)

func refs(keys []keystore.KeyPair) (all []keyRef) {
	for _, k := range keys {
		all = append(all, keyRef{k.Version, k.Algorithm, k.KeyID})
	}
	return all
}

func pairs(all []keyRef) (keys []keystore.KeyPair) {
	for _, k := range all {
		keys = append(keys, keystore.KeyPair{Version: k.Version, Algorithm: k.Algorithm, KeyID: k.KeyID})
	}
	return keys
}

// Site serves a site to controllers that are processes.
type Site struct {
	site *site
	// hold is called before a control plane is converged, and may take its time.
	hold func(controlplane.Target)
	// converged is called after that.
	converged func(client.ObjectKey, error)
}

func (a *Answer) fail(err error) error {
	if err != nil {
		a.Err, a.Stale = err.Error(), errors.Is(err, controlplane.ErrStale)
	}
	return nil
}

// These are the calls, each as the port has it.

func (s *Site) Observe(c Call, a *Answer) (err error) {
	a.State, err = plane{s.site, c.Cluster, c.Replicas}.Observe(context.Background())
	return a.fail(err)
}

func (s *Site) Converge(c Call, a *Answer) error {
	s.hold(c.Target)
	err := plane{s.site, c.Cluster, c.Replicas}.Converge(context.Background(), c.Target, pairs(c.Keys))
	s.converged(c.Cluster, err)
	return a.fail(err)
}

func (s *Site) AdminKubeconfig(c Call, a *Answer) (err error) {
	a.Kubeconfig, err = plane{s.site, c.Cluster, c.Replicas}.AdminKubeconfig(context.Background())
	return a.fail(err)
}

func (s *Site) Prove(c Call, a *Answer) (err error) {
	a.Proof, err = s.site.prove(context.Background(), controlplane.Question{
		Config: &rest.Config{Host: c.Host}, Keys: pairs(c.Keys), External: c.External,
	})
	return a.fail(err)
}

func (s *Site) ObserveNodes(c Call, a *Answer) (err error) {
	a.Nodes, err = pools{s.site, c.UC}.Observe(context.Background(), c.Next)
	return a.fail(err)
}

func (s *Site) ConvergeNodes(c Call, a *Answer) error {
	return a.fail(pools{s.site, c.UC}.Converge(context.Background(), c.Next))
}

func (s *Site) Refresh(c Call, a *Answer) (err error) {
	a.Legacy, a.Count, err = legacyTokens{s.site}.Refresh(context.Background(), c.UC, pairs(c.Keys)[0])
	return a.fail(err)
}

// serve serves until the listener is closed.
func (s *Site) serve(listener net.Listener) error {
	calls := rpc.NewServer()
	if err := calls.Register(s); err != nil {
		return err
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go calls.ServeCodec(jsonrpc.NewServerCodec(conn))
		}
	}()
	return nil
}

// distant reaches a site that is served.
type distant struct {
	client *rpc.Client
	uc     *v1alpha1.UserCluster
}

func (r distant) ask(method string, c Call) (Answer, error) {
	var a Answer
	if r.uc != nil {
		c.Cluster, c.UC = client.ObjectKeyFromObject(r.uc), r.uc
		c.Replicas = int(r.uc.Spec.Infrastructure.Local.ControlPlane.Replicas)
	}
	err := r.client.Call("Site."+method, c, &a)
	switch {
	case err != nil:
		return a, err
	case a.Stale:
		return a, fmt.Errorf("%w: %s", controlplane.ErrStale, a.Err)
	case a.Err != "":
		return a, errors.New(a.Err)
	}
	return a, nil
}

type (
	remotePlane  struct{ distant }
	remoteNodes  struct{ distant }
	remoteTokens struct{ distant }
)

func (r remotePlane) Observe(context.Context) (controlplane.State, error) {
	a, err := r.ask("Observe", Call{})
	return a.State, err
}

func (r remotePlane) Converge(_ context.Context, target controlplane.Target, keys []keystore.KeyPair) error {
	_, err := r.ask("Converge", Call{Target: target, Keys: refs(keys)})
	return err
}

func (r remotePlane) Config(_ context.Context, server string) (*rest.Config, error) {
	return &rest.Config{Host: path.Join(r.uc.Namespace, r.uc.Name, server)}, nil
}

func (r remotePlane) Ledger(context.Context, string) (ledger.Report, error) {
	return ledger.Report{}, controlplane.ErrNoLedger
}

func (r remotePlane) AdminKubeconfig(context.Context) ([]byte, error) {
	a, err := r.ask("AdminKubeconfig", Call{})
	return a.Kubeconfig, err
}

func (r remotePlane) Delete(context.Context) (bool, error) {
	return false, errors.New("nothing is deleted")
}

func (r remoteNodes) Observe(_ context.Context, keys nodes.Keys) (nodes.State, error) {
	a, err := r.ask("ObserveNodes", Call{Next: keys})
	return a.Nodes, err
}

func (r remoteNodes) Converge(_ context.Context, keys nodes.Keys) error {
	_, err := r.ask("ConvergeNodes", Call{Next: keys})
	return err
}

func (r remoteNodes) Delete(context.Context) (bool, error) {
	return false, errors.New("nothing is deleted")
}

func (r remoteTokens) Refresh(
	_ context.Context, uc *v1alpha1.UserCluster, k keystore.KeyPair,
) (rotation.Legacy, v1alpha1.LegacyTokenStatus, error) {
	r.uc = uc
	a, err := r.ask("Refresh", Call{Keys: refs([]keystore.KeyPair{k})})
	return a.Legacy, a.Count, err
}

func (r remoteTokens) Forget(types.UID) {}

func (r distant) prove(_ context.Context, q controlplane.Question) (controlplane.Proof, error) {
	a, err := r.ask("Prove", Call{Host: q.Config.Host, Keys: refs(q.Keys), External: q.External})
	return a.Proof, err
}

// wakeOnSignal wakes the cluster of the test for each SIGUSR1, as who runs its control plane would.
func wakeOnSignal(w controller.Wakes) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	for range signals {
		w.Wake(context.Background(), theCluster)
	}
}

// runController is a controller as a process. It says on standard output when it is the one that works.
func runController(socket string) (code int) {
	if err := control(socket); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func control(socket string) error {
	var access adminAccess
	if err := json.NewDecoder(os.Stdin).Decode(&access); err != nil {
		return err
	}
	config := kubetest.AsController(&rest.Config{Host: access.Host, QPS: -1, TLSClientConfig: rest.TLSClientConfig{
		CAData: access.CA, CertData: access.Cert, KeyData: access.Key,
	}})
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	at := distant{client: jsonrpc.NewClient(conn)}
	m, err := controller.NewManager(config, controller.ManagerOptions{
		Election: controller.Election{Namespace: v1alpha1.SystemNamespace, ID: "keyturn-controller"},
		Metrics:  metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		return err
	}
	keys, err := keystore.NewSecrets(config)
	if err != nil {
		return err
	}
	r := &controller.Reconciler{
		Client: m.GetClient(), Keys: keys, Prove: at.prove, Tokens: remoteTokens{at},
		ControlPlane: func(uc *v1alpha1.UserCluster) (controlplane.Adapter, error) {
			return remotePlane{distant{at.client, uc}}, nil
		},
		Nodes:    func(uc *v1alpha1.UserCluster) (nodes.Adapter, error) { return remoteNodes{distant{at.client, uc}}, nil },
		Recorder: m.GetEventRecorder("keyturn-controller"), Log: log,
		Wakes: make(controller.Wakes), Now: access.now,
	}
	go wakeOnSignal(r.Wakes)
	if err := r.SetupWithManager(m); err != nil {
		return err
	}
	go func() {
		<-m.Elected()
		fmt.Println("leads")
	}()
	return m.Start(context.Background())
}
