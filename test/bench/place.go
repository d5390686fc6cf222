package main

import (
	"github.com/keyturn/keyturn/internal/hint"

	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/keystore"
)

// The limits of waiting; who reaches one gives up.
const (
	createTimeout = 5 * time.Minute
	rotateTimeout = 30 * time.Minute // new machines take minutes
	removeTimeout = 3 * time.Minute
	// endGrace is how long a program that was asked to end may take.
	endGrace = 10 * time.Second
)

// place is one admin cluster with all that belongs to it, in a directory of its own.
type place struct {
	options
	talk  io.Writer
	dir   string
	start time.Time
	// namespace is where its UserClusters are.
	namespace string
}

func newPlace(o options, talk io.Writer) (*place, error) {
	if _, err := os.Stat(filepath.Join(o.bin, "gkectl")); err != nil {
		return nil, hint.Errorf("run `make build kube` first", "finding the programs: %w", err)
	}
	dir, err := os.MkdirTemp(o.dir, "keyturn-bench-")
	if err != nil {
		return nil, fmt.Errorf("making a directory for the clusters: %w", err)
	}
	return &place{options: o, talk: talk, dir: dir, start: time.Now(), namespace: v1alpha1.SystemNamespace}, nil
}

func (p *place) dataDir() string    { return filepath.Join(p.dir, "data") }
func (p *place) kubeconfig() string { return filepath.Join(p.dir, "kubeconfig") }

// managementDir is where a management cluster of Cluster API has all that it has.
func (p *place) managementDir() string { return filepath.Join(p.dir, "management") }

func (p *place) config(cluster string) string { return filepath.Join(p.dir, cluster+".yaml") }

func (p *place) userKubeconfig(cluster string) string {
	return filepath.Join(p.dir, cluster+"-kubeconfig")
}

// say tells what is done now, and how long after the start.
func (p *place) say(format string, args ...any) {
	fmt.Fprintf(p.talk, "%6.1fs  %s\n", time.Since(p.start).Seconds(), fmt.Sprintf(format, args...))
}

// run runs one of the programs and returns its standard output. It has a process group of its own, so that only we
// are interrupted from a terminal and it ends in order.
func (p *place) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, program), args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = endGrace
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("running %s %s: %w\n%s", program, strings.Join(args, " "), err, stderr.Bytes())
	}
	return stdout.Bytes(), nil
}

func (p *place) kubectl(ctx context.Context, cluster string, args ...string) error {
	_, err := p.run(ctx, "kube/v"+kubernetesVersion+"/kubectl", append([]string{"--kubeconfig", p.userKubeconfig(cluster)}, args...)...)
	return err
}

func (p *place) hostFlags() []string {
	return []string{"--data-dir", p.dataDir(), "--kubeconfig", p.kubeconfig(), "--network", p.network, "--kube-bin-dir", filepath.Join(p.bin, "kube")}
}

func (p *place) createAdmin(ctx context.Context) error {
	p.say("creating an admin cluster in %s", p.dir)
	_, err := p.run(ctx, "gkectl", append([]string{
		"create", "admin", "--agent-image", imageOf("keyturn-agent"), "--signer-image", imageOf("keyturn-signer"),
	}, p.hostFlags()...)...)
	return err
}

// imageOf is the image of a program, which `make images` has made.
func imageOf(program string) string { return "localhost/keyturn/" + program + ":dev" }

// remove deletes all clusters and the directory, even when the benchmark was interrupted. If that fails, the directory
// stays, since it says what is left.
func (p *place) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), removeTimeout)
	defer cancel()
	if _, err := os.Stat(p.dataDir()); !errors.Is(err, fs.ErrNotExist) {
		p.say("deleting all clusters")
		_, err := p.run(ctx, "gkectl", append([]string{"delete", "admin", "--force", "--skip-prompt"}, p.hostFlags()...)...)
		if err != nil {
			return fmt.Errorf("deleting the clusters in %s: %w", p.dir, err)
		}
	}
	if _, err := os.Stat(p.managementDir()); err == nil {
		return hint.Errorf("go run ./tools/management with this -dir, and down", "machines may be left in %s", p.managementDir())
	}
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("deleting the directory of the clusters: %w", err)
	}
	return nil
}

// shape is what a user cluster is like.
type shape struct {
	name           string
	servers, nodes int
	source         v1alpha1.KeySource
	algorithm      v1alpha1.Algorithm
}

// ofFiles is the shape of the clusters that were measured before there were signers, and go on as they were.
func ofFiles(name string, servers, nodes int) shape {
	return shape{name: name, servers: servers, nodes: nodes, source: v1alpha1.KeySourceFiles, algorithm: v1alpha1.ES256}
}

// createCluster creates a user cluster.
func (p *place) createCluster(ctx context.Context, s shape) error {
	p.say("creating user cluster %s: API servers %d, nodes %d, keys %s, %s", s.name, s.servers, s.nodes, s.source, s.algorithm)
	if err := os.WriteFile(p.config(s.name), []byte(clusterConfig(s)+p.gkeConnect()), 0o600); err != nil {
		return fmt.Errorf("writing the config file of cluster %s: %w", s.name, err)
	}
	_, err := p.run(ctx, "gkectl", "create", "cluster", "--config", p.config(s.name), "--kubeconfig", p.kubeconfig(),
		"--timeout", createTimeout.String())
	return err
}

func clusterConfig(s shape) string {
	text := fmt.Sprintf(`apiVersion: v1
kind: UserCluster
name: %s
gkeOnPremVersion: %s-gke.0
enableControlplaneV2: true
network:
  serviceCIDR: 10.96.0.0/20
  podCIDR: 192.168.0.0/16
masterNode:
  replicas: %d
ksaSigningKey:
  source: %s
  algorithm: %s
`, s.name, kubernetesVersion, s.servers, s.source, s.algorithm)
	if s.nodes > 0 {
		text += fmt.Sprintf("nodePools:\n- name: pool-1\n  replicas: %d\n", s.nodes)
	}
	return text
}

func (p *place) deleteCluster(ctx context.Context, name string) error {
	p.say("deleting user cluster %s", name)
	_, err := p.run(ctx, "gkectl", "delete", "cluster", "--config", p.config(name), "--kubeconfig", p.kubeconfig(), "--skip-prompt")
	return err
}

// admin returns a client of the admin cluster, as its administrator.
func (p *place) admin() (client.WithWatch, error) {
	scheme, err := controller.NewScheme()
	if err != nil {
		return nil, err
	}
	cfg, err := p.restConfig(p.kubeconfig())
	if err != nil {
		return nil, err
	}
	return client.NewWithWatch(cfg, client.Options{Scheme: scheme})
}

// user returns a client of a user cluster, made as the controller makes its own.
func (p *place) user(name string) (kubernetes.Interface, error) {
	cfg, err := p.restConfig(p.userKubeconfig(name))
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(controlplane.Unlimited(cfg))
}

func (p *place) restConfig(path string) (*rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	cfg.QPS = -1
	return cfg, nil
}

// cluster reads a UserCluster.
func (p *place) cluster(ctx context.Context, name string) (*v1alpha1.UserCluster, error) {
	admin, err := p.admin()
	if err != nil {
		return nil, err
	}
	uc := &v1alpha1.UserCluster{}
	err = admin.Get(ctx, client.ObjectKey{Namespace: p.namespace, Name: name}, uc)
	return uc, err
}

// key returns the newest key version of a cluster, with which its API servers sign.
func (p *place) key(ctx context.Context, name string) (keystore.KeyPair, error) {
	cfg, err := p.restConfig(p.kubeconfig())
	if err != nil {
		return keystore.KeyPair{}, err
	}
	store, err := keystore.NewSecrets(cfg)
	if err != nil {
		return keystore.KeyPair{}, err
	}
	uc, err := p.cluster(ctx, name)
	if err != nil {
		return keystore.KeyPair{}, err
	}
	cluster := keystore.Cluster{Namespace: uc.Namespace, Name: uc.Name, UID: string(uc.UID)}
	keys, err := store.List(ctx, cluster)
	if err != nil {
		return keystore.KeyPair{}, err
	}
	if len(keys) == 0 {
		return keystore.KeyPair{}, fmt.Errorf("cluster %s has no signing key", name)
	}
	return keys[len(keys)-1], nil
}

// poll asks every half second until the answer is yes, ctx ends or the time is over.
func poll(ctx context.Context, limit time.Duration, ask func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		if done, err := ask(ctx); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// removing removes a cluster, also after ctx has ended.
func removing(ctx context.Context, remove func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	return remove(ctx)
}
