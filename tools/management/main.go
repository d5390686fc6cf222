// Command management makes a management cluster of Cluster API with Keyturn's controller out of processes of this host,
// and removes it. `make demo-capi` runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"syscall"

	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/internal/hint"
	"github.com/keyturn/keyturn/internal/local/capi"
	"github.com/keyturn/keyturn/internal/local/management"
)

const usage = `usage: management [flags] VERB
  up                        make the management cluster, and start Cluster API in it
  controller [flags]        start keyturn-controller with these flags
  cluster                   print the objects of a cluster with real nodes, for kubectl apply
  down                      remove all of it, and the machines of all clusters
`

func main() {
	var o management.Options
	c := capi.Cluster{Namespace: "default"}
	set := flag.NewFlagSet("management", flag.ExitOnError)
	set.StringVar(&o.Dir, "dir", "", "directory of the management cluster, which holds kubeconfig once it is made")
	set.StringVar(&o.Version, "version", "", "version of Kubernetes, such as v1.36.4")
	set.StringVar(&o.KubeBinDir, "kube", "", "directory of the Kubernetes programs")
	set.StringVar(&o.CAPIBinDir, "capi", "", "directory of Cluster API, as `make capi` makes it")
	set.StringVar(&o.ProgramDir, "bin", "bin", "directory of Keyturn's programs")
	set.StringVar(&o.Images, "images", "", "directory of image archives that every machine imports")
	set.TextVar(&o.Network, "network", netip.Prefix{}, "/16 of the management cluster and its clusters; only up needs it")
	set.StringVar(&c.Name, "name", "prod", "name of the cluster to print")
	set.IntVar(&c.ControlPlanes, "control-planes", 1, "number of its control-plane machines")
	set.IntVar(&c.Workers, "workers", 1, "number of its other machines")
	set.Usage = func() {
		fmt.Fprint(set.Output(), usage)
		set.PrintDefaults()
	}
	_ = set.Parse(os.Args[1:]) // it exits
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	c.Version = o.Version
	if err := run(ctx, o, c, set.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		if advice := hint.Of(err); advice != "" {
			fmt.Fprintln(os.Stderr, "hint:", advice)
		}
		os.Exit(1) //nolint:gocritic // nothing is left for stop to do
	}
}

func run(ctx context.Context, o management.Options, c capi.Cluster, args []string) error {
	if len(args) == 0 || o.Dir == "" || o.Version == "" || o.KubeBinDir == "" || o.CAPIBinDir == "" {
		return hint.Errorf("see management -help", "a verb is needed, and -dir, -version, -kube and -capi")
	}
	verb, rest := args[0], args[1:]
	if verb == "cluster" {
		return printManifests(os.Stdout, c)
	}
	cluster, err := management.Open(o)
	if err != nil {
		return err
	}
	switch verb {
	case "up":
		if _, err := os.Stat(cluster.Kubeconfig()); err == nil {
			return hint.Errorf("remove it first, by down", "there is a management cluster in %s", o.Dir)
		}
		if err := cluster.Create(ctx); err != nil {
			return hint.Errorf("remove what is there, by down", "%w", err)
		}
		return nil
	case "controller":
		return cluster.StartController(rest...)
	case "down":
		return cluster.Delete(ctx)
	}
	return hint.Errorf("see management -help", "%q is no verb", verb)
}

// printManifests writes the objects of a cluster as YAML.
func printManifests(w io.Writer, c capi.Cluster) error {
	objects, err := c.Manifests()
	if err != nil {
		return err
	}
	var errs []error
	for _, o := range objects {
		text, err := yaml.Marshal(o.Object)
		if err == nil {
			_, err = fmt.Fprintf(w, "---\n%s", text)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
