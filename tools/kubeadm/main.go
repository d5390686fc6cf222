// Command kubeadm makes a cluster by kubeadm on machines of this host, and removes it. `make demo-kubeadm` runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
)

func main() {
	var o kubeadm.Options
	var s size
	set := flag.NewFlagSet("kubeadm", flag.ExitOnError)
	set.StringVar(&o.Name, "name", "demo", "name of the cluster")
	set.StringVar(&o.Dir, "dir", "", "directory of the cluster, which holds admin.conf once it is made")
	set.StringVar(&o.Version, "version", "", "version of Kubernetes, such as v1.36.4")
	set.StringVar(&o.KubeBinDir, "kube", "", "directory of the Kubernetes programs")
	set.StringVar(&o.BinDir, "bin", "bin", "directory of Keyturn's programs")
	set.StringVar(&o.Images, "images", "", "directory of image archives that every machine imports")
	set.TextVar(&o.Network, "network", netip.MustParsePrefix("10.87.0.0/24"), "/24 of the cluster")
	set.IntVar(&s.controlPlanes, "control-planes", 1, "number of control-plane nodes")
	set.IntVar(&s.workers, "workers", 2, "number of other nodes")
	set.Usage = func() {
		fmt.Fprintln(set.Output(), "usage: kubeadm [flags] up|down")
		set.PrintDefaults()
	}
	_ = set.Parse(os.Args[1:]) // it exits
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, s, set.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		if advice := hint.Of(err); advice != "" {
			fmt.Fprintln(os.Stderr, "hint:", advice)
		}
		os.Exit(1) //nolint:gocritic // nothing is left for stop to do
	}
}

// size is of how many nodes a cluster is made.
type size struct{ controlPlanes, workers int }

func run(ctx context.Context, o kubeadm.Options, s size, args []string) (err error) {
	if len(args) != 1 || args[0] != "up" && args[0] != "down" || o.Dir == "" || o.Version == "" || o.KubeBinDir == "" {
		return hint.Errorf("see kubeadm -help", "up or down is needed, and -dir, -version and -kube")
	}
	if s.controlPlanes < 1 || s.workers < 0 {
		return hint.Errorf("see kubeadm -help",
			"a cluster has at least one control-plane node, and no negative number of others")
	}
	for _, path := range []*string{&o.Dir, &o.KubeBinDir, &o.BinDir} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if _, err := os.Stat(o.Dir); args[0] == "up" && err == nil {
		return hint.Errorf("remove the cluster first, by down", "%s exists", o.Dir)
	}
	c, err := kubeadm.Open(o)
	if err != nil {
		return err
	}
	if args[0] == "down" {
		return c.Delete(ctx)
	}
	if err := create(ctx, c, s); err != nil {
		return hint.Errorf("remove what is there, by down", "%w", err)
	}
	return nil
}

// create makes a cluster. All machines boot first, while each of them imports its images.
func create(ctx context.Context, c *kubeadm.Cluster, s size) error {
	controlPlanes, workers := names("cp", s.controlPlanes), names("worker", s.workers)
	fmt.Printf("machines %s boot, and import their images\n", strings.Join(slices.Concat(controlPlanes, workers), ", "))
	for _, name := range controlPlanes {
		if err := c.Start(ctx, name, kubeadm.ControlPlane); err != nil {
			return err
		}
	}
	for _, name := range workers {
		if err := c.Start(ctx, name, kubeadm.Worker); err != nil {
			return err
		}
	}
	fmt.Printf("%s: kubeadm init\n", controlPlanes[0])
	if err := c.Init(ctx, controlPlanes[0]); err != nil {
		return err
	}
	if others := slices.Concat(controlPlanes[1:], workers); len(others) > 0 {
		fmt.Printf("%s: kubeadm join\n", strings.Join(others, ", "))
	}
	return c.JoinAll(ctx, controlPlanes[1:], workers)
}

// names returns the names of machines of one kind.
func names(kind string, number int) (names []string) {
	for i := range number {
		names = append(names, fmt.Sprintf("%s-%d", kind, i+1))
	}
	return names
}
