package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/internal/local/capi"
	"github.com/keyturn/keyturn/internal/local/management"
	"github.com/keyturn/keyturn/test/bench/simulated"
)

const (
	// capiVersion is the version of Cluster API, whose programs and manifests `make capi` builds.
	capiVersion = "v1.14.2"
	// capiClusters is how many clusters of Cluster API one controller has, if there are to be as many at all.
	capiClusters = 50
	// capiCluster is the name of the real one, and capiNamespace where it and the others are.
	capiCluster   = "capi"
	capiNamespace = metav1.NamespaceDefault
)

// CAPI are rotations of a cluster of Cluster API, one after another: in place with files and with signers, and by new
// machines.
type CAPI struct {
	Files    []*timeline `json:"files"`
	External []*timeline `json:"external"`
	Rollout  []*timeline `json:"rollout"`
	// Conversion is how long it took to give the cluster signers, in seconds.
	Conversion float64 `json:"conversionSeconds"`
}

func (p *place) capiDir() string { return filepath.Join(p.bin, "capi", capiVersion) }

// measureManyCAPI measures one controller with many clusters of Cluster API. Their control planes are simulated, and so
// is all of Cluster API but its objects.
func measureManyCAPI(ctx context.Context, p *place, r *Results) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	config, stop, err := kubetest.Launch(kubetest.Options{CRDPaths: []string{
		filepath.Join(p.capiDir(), "core-components.yaml"), filepath.Join(p.capiDir(), "control-plane-components.yaml"),
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	b, err := p.newScale(ctx, config)
	if err != nil {
		return err
	}
	b.count, b.namespace, b.describe = min(p.clusters, capiClusters), capiNamespace, describeCAPI
	if err := p.giveCAPIRights(ctx, b.admin); err != nil {
		return err
	}
	end, err := p.simulateCAPI(ctx, config, b.count)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	endController, err := b.startController(ctx, config, "--cluster-api-namespace="+capiNamespace)
	if err != nil {
		return err
	}
	defer endController()
	s, err := b.measureSettled(ctx)
	if err != nil {
		return err
	}
	b.say("rotating one of them")
	if s.One, err = b.rotate(ctx, 0, 1, 1); err != nil {
		return err
	}
	r.CAPIScale = s
	return nil
}

// describeCAPI describes a cluster of Cluster API. With method Rollout nothing runs on its machines, which are not there.
func describeCAPI(i int) v1alpha1.UserClusterSpec {
	return v1alpha1.UserClusterSpec{
		Infrastructure: v1alpha1.Infrastructure{ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{
			Cluster: scaleName(i), Method: v1alpha1.MethodRollout,
		}},
		KSASigningKey: v1alpha1.KSASigningKey{
			Version: 1, Source: v1alpha1.KeySourceFiles, Algorithm: v1alpha1.ES256, NodeRefresh: v1alpha1.NodeRefreshEvict,
		},
	}
}

// giveCAPIRights gives the controller the rights that the chart gives it.
func (p *place) giveCAPIRights(ctx context.Context, admin client.Client) error {
	out, err := p.run(ctx, "tools/helm", "template", "keyturn", chart, "--namespace", v1alpha1.SystemNamespace,
		"--kube-version", kubernetesVersion, "--show-only", "templates/clusterapi.yaml", "--set", chartValues)
	if err != nil {
		return err
	}
	objects, err := install.Decode(out)
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := admin.Create(ctx, o); err != nil {
			return fmt.Errorf("creating %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// chart is the chart of the controller, in the directory where the benchmark runs, and chartValues are what it is to
// allow. The management cluster has no nodes.
const (
	chart       = "deploy/charts/keyturn"
	chartValues = "clusterAPI.namespaces={" + capiNamespace + "},clusterAPI.replaceNodes=true,replicas=0"
)

// simulateCAPI makes clusters of Cluster API, and returns what ends the replacement of their machines.
func (p *place) simulateCAPI(ctx context.Context, config *rest.Config, count int) (end func() error, err error) {
	p.say("creating %d Clusters of Cluster API with simulated control planes", count)
	admin, err := client.New(config, client.Options{})
	if err != nil {
		return nil, err
	}
	all, err := simulated.NewClusterAPI(admin, capiNamespace, filepath.Join(p.dir, "simulated-capi"))
	if err != nil {
		return nil, err
	}
	for i := range count {
		if err := all.Make(ctx, scaleName(i), "v"+kubernetesVersion, apiServers); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- all.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}, nil
}

// measureCAPI makes a cluster of Cluster API with real nodes, and rotates its key in each way.
func measureCAPI(ctx context.Context, p *place, r *Results) (err error) {
	network, err := netip.ParsePrefix(p.network)
	if err != nil {
		return err
	}
	m, err := management.Open(management.Options{
		Dir: p.managementDir(), Network: network, Version: "v" + kubernetesVersion,
		KubeBinDir: filepath.Join(p.bin, "kube", "v"+kubernetesVersion), CAPIBinDir: p.capiDir(), ProgramDir: p.bin,
		Images: filepath.Join(p.bin, "images"),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removing(ctx, m.Delete)) }()
	p.say("making a management cluster of Cluster API")
	if err := m.Create(ctx); err != nil {
		return err
	}
	// What rotates clusters of the admin cluster rotates one of this cluster, whose kubeconfig is where a place has it.
	at := &place{options: p.options, talk: p.talk, dir: p.managementDir(), start: p.start, namespace: capiNamespace}
	if err := at.makeCAPI(ctx, m); err != nil {
		return fmt.Errorf("%w\nthe controller says:\n%s", err, m.Log())
	}
	r.CAPI = &CAPI{}
	if err := at.rotateCAPI(ctx, r.CAPI); err != nil {
		return fmt.Errorf("%w\nthe controller says:\n%s", err, m.Log())
	}
	return nil
}

// makeCAPI installs Keyturn in a management cluster, and makes a cluster of one control-plane machine and one worker.
func (p *place) makeCAPI(ctx context.Context, m *management.Cluster) error {
	_, err := p.run(ctx, "tools/helm", "install", "keyturn", chart, "--namespace", v1alpha1.SystemNamespace,
		"--create-namespace", "--kubeconfig", p.kubeconfig(), "--set", chartValues)
	if err != nil {
		return err
	}
	err = m.StartController("--cluster-api-namespace="+capiNamespace, "--agent-image="+imageOf("keyturn-agent"),
		"--signer-image="+imageOf("keyturn-signer"))
	if err != nil {
		return err
	}
	admin, err := p.admin()
	if err != nil {
		return err
	}
	p.say("making a cluster of Cluster API with real nodes")
	objects, err := capi.Cluster{
		Namespace: capiNamespace, Name: capiCluster, Version: "v" + kubernetesVersion, ControlPlanes: 1, Workers: 1,
	}.Manifests()
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := capi.Apply(ctx, admin, o); err != nil {
			return err
		}
	}
	return poll(ctx, rotateTimeout, func(ctx context.Context) (bool, error) { return isAvailable(ctx, admin) })
}

// isAvailable reports whether Cluster API finds its cluster available, with all its nodes.
func isAvailable(ctx context.Context, admin client.Client) (bool, error) {
	o := &unstructured.Unstructured{}
	o.SetAPIVersion("cluster.x-k8s.io/v1beta2")
	o.SetKind("Cluster")
	if err := admin.Get(ctx, client.ObjectKey{Namespace: capiNamespace, Name: capiCluster}, o); err != nil {
		return false, err
	}
	conditions, _, err := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, each := range conditions {
		c, ok := each.(map[string]any)
		if ok && c["type"] == "Available" && c["status"] == string(corev1.ConditionTrue) {
			return true, err
		}
	}
	return false, err
}

// rotateCAPI rotates the key of the cluster in place, with files and with signers, and then by new machines.
func (p *place) rotateCAPI(ctx context.Context, c *CAPI) (err error) {
	if err := p.adoptCAPI(ctx, v1alpha1.MethodInPlace); err != nil {
		return err
	}
	if err := p.rotateEach(ctx, &c.Files); err != nil {
		return err
	}
	if c.Conversion, err = p.convert(ctx, capiCluster); err != nil {
		return err
	}
	if err := p.rotateEach(ctx, &c.External); err != nil {
		return err
	}
	if err := p.deleteCluster(ctx, capiCluster); err != nil {
		return err
	}
	if err := p.adoptCAPI(ctx, v1alpha1.MethodRollout); err != nil {
		return err
	}
	return p.rotateEach(ctx, &c.Rollout)
}

func (p *place) rotateEach(ctx context.Context, all *[]*timeline) error {
	for range p.rotations {
		if err := note(all)(p.rotate(ctx, capiCluster)); err != nil {
			return err
		}
	}
	return nil
}

// adoptCAPI has Keyturn take over the cluster.
func (p *place) adoptCAPI(ctx context.Context, method v1alpha1.ClusterAPIMethod) error {
	p.say("adopting cluster %s with method %s", capiCluster, method)
	return p.adopt(ctx, capiCluster, fmt.Sprintf(
		"clusterAPI: {namespace: %s, cluster: %s, method: %s}", capiNamespace, capiCluster, method))
}
