// Command kubeadm makes a cluster by kubeadm on machines of this host, and removes it. `make demo-kubeadm` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/local/kubeadm"
)

func main() {
	var o kubeadm.Options
	var workers int
	set := flag.NewFlagSet("kubeadm", flag.ExitOnError)
	set.StringVar(&o.Name, "name", "demo", "name of the cluster")
	set.StringVar(&o.Dir, "dir", "", "directory of the cluster, which holds admin.conf once it is made")
	set.StringVar(&o.Version, "version", "", "version of Kubernetes, such as v1.36.4")
	set.StringVar(&o.KubeBinDir, "kube", "", "directory of the Kubernetes programs")
	set.StringVar(&o.BinDir, "bin", "bin", "directory of Keyturn's programs")
	set.StringVar(&o.Images, "images", "", "directory of image archives that every machine imports")
	set.TextVar(&o.Network, "network", netip.MustParsePrefix("10.87.0.0/24"), "/24 of the cluster")
	set.IntVar(&workers, "workers", 2, "number of machines besides the control-plane node")
	set.Usage = func() {
		fmt.Fprintln(set.Output(), "usage: kubeadm [flags] up|down")
		set.PrintDefaults()
	}
	_ = set.Parse(os.Args[1:]) // it exits
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o, workers, set.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		if advice := hint.Of(err); advice != "" {
			fmt.Fprintln(os.Stderr, "hint:", advice)
		}
		os.Exit(1) //nolint:gocritic // nothing is left for stop to do
	}
}

func run(ctx context.Context, o kubeadm.Options, workers int, args []string) (err error) {
	if len(args) != 1 || args[0] != "up" && args[0] != "down" || o.Dir == "" || o.Version == "" || o.KubeBinDir == "" {
		return hint.Errorf("see kubeadm -help", "up or down is needed, and -dir, -version and -kube")
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
	if err := create(ctx, c, workers); err != nil {
		return hint.Errorf("remove what is there, by down", "%w", err)
	}
	return nil
}

// create makes a cluster of one control-plane node and others.
func create(ctx context.Context, c *kubeadm.Cluster, workers int) error {
	const first = "cp-1"
	names := make([]string, workers)
	err := c.Start(ctx, first, kubeadm.ControlPlane)
	for i := range names {
		names[i] = fmt.Sprintf("worker-%d", i+1)
		err = errors.Join(err, c.Start(ctx, names[i], kubeadm.Worker))
	}
	if err != nil {
		return err
	}
	if err := c.Init(ctx, first); err != nil {
		return err
	}
	for _, name := range names {
		if err := c.Join(ctx, name, kubeadm.Worker); err != nil {
			return err
		}
	}
	return nil
}
