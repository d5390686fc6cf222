package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

func (a *app) listClusters() *cobra.Command {
	var kubeconfig, namespace string
	var o output
	cmd := &cobra.Command{
		Use:     "clusters",
		Aliases: []string{"cluster"},
		Short:   "List the user clusters",
		Example: `  gkectl list clusters
  gkectl list clusters --kubeconfig kubeconfig -o json`,
	}
	kubeconfigFlag(cmd, &kubeconfig)
	namespaceFlag(cmd, &namespace)
	outputFlag(cmd, &o, "table", "json", "yaml")
	return a.verb(cmd, func(ctx context.Context) error {
		c, err := a.connect(kubeconfig)
		if err != nil {
			return err
		}
		c.namespace = namespace
		list, err := c.list(ctx)
		if err != nil {
			return err
		}
		if len(list.Items) == 0 && o.form == "table" {
			a.note("There is no user cluster yet. Next: gkectl create-config cluster")
			return nil
		}
		return o.write(a.Out, asData(list), func(w io.Writer) error { return a.clusterTable(w, list.Items, false) })
	})
}

// clusterTable writes a line for each cluster, with namespaces if there are several.
func (a *app) clusterTable(w io.Writer, clusters []v1alpha1.UserCluster, namespaces bool) error {
	rows := [][]string{{"NAMESPACE", "NAME", "VERSION", "READY", "API SERVERS", "NODES", "KEY", "ROTATION", "AGE"}}
	for _, uc := range clusters {
		rows = append(rows, []string{
			uc.Namespace,
			uc.Name, kubernetesVersion(&uc), string(readyOf(&uc).Status), readyServers(&uc), readyNodes(&uc),
			fmt.Sprint(uc.Spec.KSASigningKey.Version), rotationWord(&uc), a.age(uc.CreationTimestamp.Time),
		})
	}
	if !namespaces {
		for i := range rows {
			rows[i] = rows[i][1:]
		}
	}
	return table(w, "", rows...)
}

func readyServers(uc *v1alpha1.UserCluster) string {
	var ready int
	for _, s := range uc.Status.APIServers {
		if s.Ready {
			ready++
		}
	}
	return fmt.Sprintf("%d/%d", ready, wantedServers(uc))
}

// readyNodes counts nodes in pools; a dash if Keyturn does not make the nodes.
func readyNodes(uc *v1alpha1.UserCluster) string {
	if uc.Spec.Infrastructure.Adopted() {
		return "-"
	}
	var ready, wanted int32
	for _, p := range uc.Status.NodePools {
		ready += p.Ready
	}
	for _, p := range uc.Spec.Infrastructure.NodePools() {
		wanted += p.Replicas
	}
	return fmt.Sprintf("%d/%d", ready, wanted)
}

// rotationWord returns the state of the key in one word.
func rotationWord(uc *v1alpha1.UserCluster) string {
	s := rotationOf(uc)
	switch {
	case blocked(uc):
		return "Blocked"
	case s.done():
		return "Completed"
	case s.Step != "":
		return s.Step
	}
	return "Pending"
}

// asData prepares a list for programs: it adds the kind, and removes fields that only the API server needs.
func asData(list *v1alpha1.UserClusterList) *v1alpha1.UserClusterList {
	list.APIVersion, list.Kind = v1alpha1.GroupVersion.String(), "UserClusterList"
	list.Items = append([]v1alpha1.UserCluster{}, list.Items...)
	for i := range list.Items {
		list.Items[i].APIVersion, list.Items[i].Kind = v1alpha1.GroupVersion.String(), "UserCluster"
		list.Items[i].ManagedFields = nil
	}
	return list
}
