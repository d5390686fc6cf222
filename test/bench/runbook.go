package main

import (
	"context"
	"fmt"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	adapter "github.com/keyturn/keyturn/internal/controlplane/kubeadm"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
)

// The files of the key on a kubeadm node, and where a runbook makes the next pair.
const (
	pkiDir     = "/etc/kubernetes/pki"
	publicKey  = pkiDir + "/sa.pub"
	privateKey = pkiDir + "/sa.key"
	nextDir    = "/etc/kubernetes/pki-next"
)

// restartScript restarts a kube-apiserver as kubeadm's documentation says: its manifest is moved away, and back once
// the process is gone. Who follows the documentation waits 20 seconds instead.
const restartScript = `cd /etc/kubernetes
mv manifests/kube-apiserver.yaml .
while grep -qsx kube-apiserver /proc/[0-9]*/comm; do sleep 0.1; done
mv kube-apiserver.yaml manifests/`

// runbook rotates the key of a kubeadm cluster as people do it today: a script edits the files of each node and
// restarts one API server after another. It is the fastest order in which no token is refused: all API servers accept
// both keys before one signs with the next, and all sign with it before one drops the old key. Pods are not restarted.
type runbook struct {
	cluster *kubeadm.Cluster
	config  *rest.Config
	servers []adapter.Server
}

// pair is the content of the files of one key.
type pair struct{ public, private []byte }

func (b runbook) read(node, dir string) (p pair, err error) {
	if p.public, err = b.cluster.ReadFile(node, dir+"/sa.pub"); err == nil {
		p.private, err = b.cluster.ReadFile(node, dir+"/sa.key")
	}
	return p, err
}

// rotate returns after how many seconds all API servers signed with the next key, and how long it took in all.
func (b runbook) rotate(ctx context.Context) (signing, total float64, err error) {
	start := time.Now()
	first := b.servers[0].Node
	old, err := b.read(first, pkiDir)
	if err != nil {
		return 0, 0, err
	}
	if _, err := b.cluster.Run(ctx, first, "kubeadm", "init", "phase", "certs", "sa", "--cert-dir="+nextDir); err != nil {
		return 0, 0, err
	}
	next, err := b.read(first, nextDir)
	if err != nil {
		return 0, 0, err
	}
	for i, files := range []pair{
		{join(old.public, next.public), old.private},
		{join(next.public, old.public), next.private},
		{next.public, next.private},
	} {
		for _, s := range b.servers {
			if err := b.change(ctx, s, files); err != nil {
				return 0, 0, fmt.Errorf("changing the keys of node %s: %w", s.Node, err)
			}
		}
		if i == 1 {
			signing = time.Since(start).Seconds()
		}
	}
	_, err = b.cluster.Run(ctx, first, "rm", "-r", nextDir)
	return signing, time.Since(start).Seconds(), err
}

func join(a, b []byte) []byte { return append(append([]byte{}, a...), b...) }

// change writes the files of one node, and restarts its API server.
func (b runbook) change(ctx context.Context, s adapter.Server, files pair) error {
	if err := b.cluster.WriteFile(s.Node, publicKey, files.public); err != nil {
		return err
	}
	if err := b.cluster.WriteFile(s.Node, privateKey, files.private); err != nil {
		return err
	}
	if _, err := b.cluster.Run(ctx, s.Node, "/bin/sh", "-c", restartScript); err != nil {
		return err
	}
	return poll(ctx, createTimeout, func(ctx context.Context) (bool, error) { return ready(ctx, b.config, s), nil })
}

// direct reaches one API server at its own address.
func direct(config *rest.Config, s adapter.Server) *rest.Config {
	own := rest.CopyConfig(config)
	own.Host = fmt.Sprintf("https://%s:%d", s.Address, s.Port)
	own.ServerName = s.Node
	own.Timeout = time.Second
	return own
}

// ready reports whether an API server answers that it is ready.
func ready(ctx context.Context, config *rest.Config, s adapter.Server) bool {
	client, err := kubernetes.NewForConfig(direct(config, s))
	if err != nil {
		return false
	}
	_, err = client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return err == nil
}

// outages watches until ctx ends how long each API server is not ready, and returns the longest time of each that was
// away.
func outages(ctx context.Context, config *rest.Config, servers []adapter.Server) []float64 {
	longest := make(chan float64, len(servers))
	for _, s := range servers {
		go func() { longest <- outage(ctx, config, s) }()
	}
	var away []float64
	for range servers {
		if seconds := <-longest; seconds > 0 {
			away = append(away, seconds)
		}
	}
	return away
}

func outage(ctx context.Context, config *rest.Config, s adapter.Server) (longest float64) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var since time.Time
	for {
		select {
		case <-ctx.Done():
			return longest
		case <-tick.C:
		}
		switch is := ready(ctx, config, s); {
		case ctx.Err() != nil:
		case is && !since.IsZero():
			longest, since = max(longest, time.Since(since).Seconds()), time.Time{}
		case !is && since.IsZero():
			since = time.Now()
		}
	}
}
