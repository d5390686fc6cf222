// Command keyturn-capi is an infrastructure provider of Cluster API whose machines are sandboxes of this host. It runs
// as root on the host, and is there to develop and to test with.
package main

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"

	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/keyturn/keyturn/tools/capi/provider"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "keyturn-capi:", err)
		os.Exit(1)
	}
}

func run() error {
	host := &provider.Host{}
	flag.StringVar(&host.DataDir, "data-dir", "/var/lib/keyturn-capi", "directory of the machines, on a disk, no overlay file system")
	flag.StringVar(&host.KubeBinDir, "kube-bin-dir", "", "directory of the Kubernetes programs, kubeadm and coredns among them")
	flag.StringVar(&host.BinDir, "bin-dir", "", "directory of keyturn-machine and keyturn-pause")
	flag.StringVar(&host.Images, "images", "", "directory of image archives (*.tar) that every machine imports")
	flag.TextVar(&host.Networks, "networks", netip.MustParsePrefix("10.95.0.0/16"), "range of which each cluster gets a free /24")
	flag.Parse()
	if host.KubeBinDir == "" || host.BinDir == "" {
		return errors.New("--kube-bin-dir and --bin-dir are required")
	}
	if err := host.ReadVersion(); err != nil {
		return err
	}
	ctrl.SetLogger(klog.Background())
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	scheme, err := provider.Scheme()
	if err != nil {
		return err
	}
	manager, err := ctrl.NewManager(config, ctrl.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		return err
	}
	ctx := ctrl.SetupSignalHandler()
	if err := provider.Setup(ctx, manager, host); err != nil {
		return err
	}
	return manager.Start(ctx)
}
