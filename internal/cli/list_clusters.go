package cli

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	kubelabels "k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

func (a *app) listClusters() *cobra.Command {
	var kubeconfig, namespace string
	var o output
	var which selection
	cmd := &cobra.Command{
		Use:     "clusters",
		Aliases: []string{"cluster"},
		Short:   "List the user clusters",
		Example: `  gkectl list clusters
  gkectl list clusters --all-namespaces
  gkectl list clusters --kubeconfig kubeconfig -o json`,
	}
	kubeconfigFlag(cmd, &kubeconfig)
	namespaceFlag(cmd, &namespace)
	outputFlag(cmd, &o, "table", "json", "yaml")
	selectionFlags(cmd, &which)
	return a.verb(cmd, func(ctx context.Context) error {
		c, err := a.connect(kubeconfig)
		if err != nil {
			return err
		}
		return a.listSelected(ctx, c.in(namespace), which, o)
	})
}

// selection are the flags that select clusters to list.
type selection struct {
	allNamespaces bool
	labels        string
}

func selectionFlags(cmd *cobra.Command, s *selection) {
	allNamespacesFlag(cmd, &s.allNamespaces)
	cmd.Flags().StringVarP(&s.labels, "selector", "l", "", "only clusters with these `labels`, such as stage=test")
}

// listSelected is `list clusters` of gkectl and `list` of the plugin.
func (a *app) listSelected(ctx context.Context, c admin, which selection, o output) error {
	if which.allNamespaces {
		c = c.in("")
	}
	selector, err := kubelabels.Parse(which.labels)
	if err != nil {
		return usage("for example --selector stage=test", "reading --selector: %w", err)
	}
	list, err := c.list(ctx, client.MatchingLabelsSelector{Selector: selector})
	if err != nil {
		return err
	}
	if len(list.Items) == 0 && o.form == "table" {
		a.note("%s", a.noneFound(c.namespace, which.labels))
		return nil
	}
	return o.write(a.Out, asData(list), func(w io.Writer) error {
		return a.clusterTable(w, list.Items, which.allNamespaces)
	})
}

// noneFound returns a sentence for an empty list, with what to do next.
func (a *app) noneFound(namespace, labels string) string {
	text := "There is no user cluster"
	if labels != "" {
		text += " with these labels"
	}
	if namespace != "" {
		text += " in namespace " + namespace + "; --all-namespaces lists those of all"
	}
	if labels != "" || a.program.begin == "" {
		return text + "."
	}
	return text + ". Next: " + a.program.begin
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
		rows = withoutFirst(rows)
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
