package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	adapter "github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
)

// adoptedCluster is the name of a cluster that kubeadm makes and Keyturn adopts.
const adoptedCluster = "kubeadm"

// Kubeadm are rotations of one cluster of kubeadm, one after another: as a runbook does it, with files, and with
// signers.
type Kubeadm struct {
	Runbook  []times     `json:"runbook"`
	Files    []*timeline `json:"files"`
	External []*timeline `json:"external"`
	// Conversion is how long it took to give the cluster signers, in seconds.
	Conversion float64 `json:"conversionSeconds"`
	// RunbookAway and FilesAway are how long each API server was away for the longest, in seconds, and ExternalAway those
	// that were away at all while the cluster had signers.
	RunbookAway  []float64 `json:"runbookAwaySeconds"`
	FilesAway    []float64 `json:"filesAwaySeconds"`
	ExternalAway []float64 `json:"externalAwaySeconds"`
}

// times are until all API servers sign with the new key, and until the rotation is complete, in seconds.
type times struct {
	Signing float64 `json:"signingSeconds"`
	Total   float64 `json:"totalSeconds"`
}

// measureKubeadm makes a cluster of three control-plane nodes by kubeadm, and rotates its key in every way.
func measureKubeadm(ctx context.Context, p *place, r *Results) (err error) {
	c, err := p.openKubeadm()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removing(ctx, c.Delete)) }()
	config, servers, err := p.makeKubeadm(ctx, c)
	if err != nil {
		return err
	}
	k := &Kubeadm{}
	r.Kubeadm = k
	for range p.rotations {
		p.say("rotating the key of the kubeadm cluster by a runbook")
		k.RunbookAway, err = away(ctx, config, servers, func(ctx context.Context) (err error) {
			t := times{}
			t.Signing, t.Total, err = runbook{c, config, servers}.rotate(ctx)
			k.Runbook = append(k.Runbook, t)
			return err
		})
		if err != nil {
			return err
		}
	}
	return p.measureAdopted(ctx, c, k, config, servers)
}

// measureAdopted adopts the cluster, and rotates its key by Keyturn.
func (p *place) measureAdopted(
	ctx context.Context, c *kubeadm.Cluster, k *Kubeadm, config *rest.Config, servers []adapter.Server,
) (err error) {
	if err := p.adoptKubeadm(ctx, c); err != nil {
		return err
	}
	rotate := func(all *[]*timeline) func(context.Context) error {
		return func(ctx context.Context) error {
			for range p.rotations {
				if err := note(all)(p.rotate(ctx, adoptedCluster)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	if k.FilesAway, err = away(ctx, config, servers, rotate(&k.Files)); err != nil {
		return err
	}
	if k.Conversion, err = p.convert(ctx, adoptedCluster); err != nil {
		return err
	}
	if k.ExternalAway, err = away(ctx, config, servers, rotate(&k.External)); err != nil {
		return err
	}
	return p.deleteCluster(ctx, adoptedCluster)
}

// away watches API servers while something is done.
func away(ctx context.Context, config *rest.Config, servers []adapter.Server, do func(context.Context) error) ([]float64, error) {
	watched, stop := context.WithCancel(ctx)
	seen := make(chan []float64, 1)
	go func() { seen <- outages(watched, config, servers) }()
	err := do(ctx)
	stop()
	return <-seen, err
}

func (p *place) openKubeadm() (*kubeadm.Cluster, error) {
	network, err := netip.ParsePrefix(p.network)
	if err != nil {
		return nil, err
	}
	octets := network.Addr().As4()
	octets[2] = 250 // far from the first ones, which local clusters take
	return kubeadm.Open(kubeadm.Options{
		Name: "bench", Dir: filepath.Join(p.dir, "kubeadm"), Network: netip.PrefixFrom(netip.AddrFrom4(octets), 24),
		Version: "v" + kubernetesVersion, KubeBinDir: filepath.Join(p.bin, "kube", "v"+kubernetesVersion), BinDir: p.bin,
		Images: filepath.Join(p.bin, "images"),
	})
}

func (p *place) makeKubeadm(ctx context.Context, c *kubeadm.Cluster) (*rest.Config, []adapter.Server, error) {
	for i := range apiServers {
		name := fmt.Sprintf("cp-%d", i+1)
		p.say("making control-plane node %s by kubeadm", name)
		if err := c.Start(ctx, name, kubeadm.ControlPlane); err != nil {
			return nil, nil, err
		}
		grow := c.Init
		if i > 0 {
			grow = func(ctx context.Context, name string) error { return c.Join(ctx, name, kubeadm.ControlPlane) }
		}
		if err := grow(ctx, name); err != nil {
			return nil, nil, err
		}
	}
	config, err := c.Config()
	if err != nil {
		return nil, nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, nil, err
	}
	var found adapter.Found
	err = poll(ctx, createTimeout, func(ctx context.Context) (bool, error) {
		found, err = adapter.Find(ctx, client)
		return err == nil && len(found.Problems) == 0 && len(found.Servers) == apiServers, nil
	})
	return config, found.Servers, errors.Join(err, stopDNS(ctx, client))
}

// stopDNS ends the only pods of the cluster that hold tokens, so that no rotation waits for evictions.
func stopDNS(ctx context.Context, client kubernetes.Interface) error {
	_, err := client.AppsV1().Deployments(metav1.NamespaceSystem).Patch(ctx, "coredns", types.MergePatchType,
		[]byte(`{"spec":{"replicas":0}}`), metav1.PatchOptions{})
	return err
}

// adoptKubeadm has Keyturn take over a cluster of kubeadm.
func (p *place) adoptKubeadm(ctx context.Context, c *kubeadm.Cluster) error {
	p.say("adopting the kubeadm cluster")
	raw, err := c.Kubeconfig()
	if err != nil {
		return err
	}
	const file = adoptedCluster + ".conf" // beside the config file
	if err := os.WriteFile(filepath.Join(p.dir, file), raw, 0o600); err != nil {
		return fmt.Errorf("writing the kubeconfig of cluster %s: %w", adoptedCluster, err)
	}
	return p.adopt(ctx, adoptedCluster, "kubeadm: {kubeconfigPath: "+file+"}")
}

// adopt has gkectl adopt a cluster, and writes the config file by which gkectl rotates and deletes it.
func (p *place) adopt(ctx context.Context, name, infrastructure string) error {
	text := fmt.Sprintf("apiVersion: v1\nkind: UserCluster\nname: %s\ninfrastructure: {%s}\n", name, infrastructure)
	if err := os.WriteFile(p.config(name), []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing the config file of cluster %s: %w", name, err)
	}
	_, err := p.run(ctx, "gkectl", "adopt", "--config", p.config(name), "--kubeconfig", p.kubeconfig(), "--skip-prompt")
	if err != nil {
		return err
	}
	return p.awaitReady(ctx, name)
}

// convert gives an adopted cluster signers, and returns how long it took.
func (p *place) convert(ctx context.Context, name string) (seconds float64, err error) {
	p.say("giving cluster %s signers", name)
	start := time.Now()
	admin, err := p.admin()
	if err != nil {
		return 0, err
	}
	uc, err := p.cluster(ctx, name)
	if err != nil {
		return 0, err
	}
	before := uc.DeepCopy()
	uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	if err := admin.Patch(ctx, uc, client.MergeFrom(before)); err != nil {
		return 0, err
	}
	err = p.awaitReady(ctx, name)
	return time.Since(start).Seconds(), err
}

// awaitReady waits until an adopted cluster is as its spec wants it.
func (p *place) awaitReady(ctx context.Context, name string) error {
	return poll(ctx, rotateTimeout, func(ctx context.Context) (bool, error) {
		uc, err := p.cluster(ctx, name)
		if err != nil {
			return false, err
		}
		c := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionReady)
		return c != nil && c.Status == metav1.ConditionTrue && c.ObservedGeneration == uc.Generation, nil
	})
}
