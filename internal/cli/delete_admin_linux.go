package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keyturn/keyturn/internal/local/admincluster"
)

// deleteHost deletes, after a question, the admin cluster of this host.
func (a *app) deleteHost(ctx context.Context, h hostFlags, d hostDeletion) error {
	cluster, err := a.adminCluster(h)
	if err != nil {
		return err
	}
	question, err := deletionOf(cluster, d.force)
	if err != nil {
		return err
	}
	if err := a.confirm(ctx, d.skipPrompt, question); err != nil {
		return err
	}
	return a.deleteConfirmed(ctx, cluster, d)
}

// deletionOf returns the question that names what is deleted with the admin cluster.
func deletionOf(cluster *admincluster.Cluster, force bool) (question string, err error) {
	names, err := cluster.UserClusters()
	if err != nil {
		return "", err
	}
	switch {
	case len(names) == 0:
		return "Delete the admin cluster?", nil
	case !force:
		return "", refused("delete them first with `gkectl delete cluster`, or together with the admin cluster by --force",
			"there are user clusters: %s", strings.Join(names, ", "))
	}
	return fmt.Sprintf("Delete the admin cluster, its user clusters %s, and all that runs in them?",
		strings.Join(names, ", ")), nil
}

// deleteConfirmed deletes the admin cluster, and the files that createHost wrote.
func (a *app) deleteConfirmed(ctx context.Context, cluster *admincluster.Cluster, d hostDeletion) error {
	var written []string
	files := hostFiles(d.kubeconfig)
	if sameCluster(d.kubeconfig, cluster.Site().Path("controller.kubeconfig")) {
		written = append(cluster.FilesLike(files), d.kubeconfig)
	}
	p := a.progress()
	defer p.end()
	if err := cluster.Delete(ctx, admincluster.DeleteOptions{Force: d.force,
		Progress: func(step string) { p.show(step, "") }}); err != nil {
		return err
	}
	p.leave(markDone, p.stepBegun)
	fmt.Fprintln(a.Out, "The admin cluster is deleted.")
	for _, path := range written {
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("removing a file of the admin cluster: %w", err)
		}
	}
	if len(written) > 0 {
		_ = os.Remove(files.LocalCredentials) // it stays if it holds anything else
	}
	return nil
}

// sameCluster reports whether two kubeconfig files exist and reach the same cluster.
func sameCluster(path, other string) bool {
	a, errA := reach(path)
	b, errB := reach(other)
	return errA == nil && errB == nil && a.Host == b.Host && len(a.CAData) > 0 && bytes.Equal(a.CAData, b.CAData)
}

func reach(kubeconfig string) (*rest.Config, error) {
	return clientcmd.BuildConfigFromFlags("", kubeconfig)
}
