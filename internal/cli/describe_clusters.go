package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

func (a *app) describeClusters() *cobra.Command {
	var name, kubeconfig, namespace string
	var o output
	var tokens, all bool
	cmd := &cobra.Command{
		Use:     "clusters [NAME]",
		Aliases: []string{"cluster"},
		Short:   "Show the details of user clusters",
		Long: `Show the details of user clusters: their keys and the progress of rotations, where public keys are published
and which versions are accepted there, API servers, conditions, and the node pools of clusters that Keyturn created.

With --tokens: which service account tokens are valid, who holds them, which key signed them, when they expire, and
what gives their holders new ones. The controller finds this out when asked, and names what it cannot know.`,
		Example: `  gkectl describe clusters
  gkectl describe clusters --cluster my-cluster --kubeconfig kubeconfig
  gkectl describe clusters my-cluster -o yaml
  gkectl describe clusters my-cluster --tokens
  gkectl describe clusters --all-namespaces`,
		Args: cobra.MaximumNArgs(1),
	}
	a.clusterFlag(cmd, &name, &kubeconfig)
	cmd.ValidArgsFunction = a.completeClusters(&kubeconfig)
	kubeconfigFlag(cmd, &kubeconfig)
	namespaceFlag(cmd, &namespace)
	allNamespacesFlag(cmd, &all)
	outputFlag(cmd, &o, "text", "json", "yaml")
	cmd.Flags().BoolVar(&tokens, "tokens", false, "show which tokens are valid, and who holds them")
	return a.verb(cmd, func(ctx context.Context) error {
		if args := cmd.Flags().Args(); len(args) == 1 {
			if name != "" && name != args[0] {
				return usage("name only one", "two clusters are named, %s and %s", name, args[0])
			}
			name = args[0]
		}
		if all && name != "" {
			return usage("name its namespace with --namespace", "a cluster is named, and --all-namespaces means all clusters")
		}
		c, err := a.connect(kubeconfig)
		if err != nil {
			return err
		}
		if c = c.in(namespace); all {
			c = c.in("")
		}
		list, err := c.named(ctx, name)
		if err != nil {
			return err
		}
		if tokens {
			return a.describeTokens(ctx, c, list.Items, o)
		}
		return o.write(a.Out, asData(list), func(w io.Writer) error { return a.describeAll(w, list.Items) })
	})
}

// named returns one cluster, or all if name is empty.
func (c admin) named(ctx context.Context, name string) (*v1alpha1.UserClusterList, error) {
	if name == "" {
		return c.list(ctx)
	}
	uc, err := c.existing(ctx, name)
	if err != nil {
		return nil, err
	}
	return &v1alpha1.UserClusterList{Items: []v1alpha1.UserCluster{*uc}}, nil
}

func (a *app) describeAll(w io.Writer, clusters []v1alpha1.UserCluster) error {
	for i := range clusters {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if err := a.describeOne(w, &clusters[i]); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) describeOne(w io.Writer, uc *v1alpha1.UserCluster) error {
	for _, part := range []func(io.Writer, *v1alpha1.UserCluster) error{
		a.describeCluster, a.describeKey, a.describeRotations, a.describeFleet, a.describePublications, a.describeServers,
		a.describeLeftovers, a.describePools, a.describeConditions,
	} {
		if err := part(w, uc); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) describeCluster(w io.Writer, uc *v1alpha1.UserCluster) error {
	rows := [][]string{
		{"Name:", uc.Name},
		{"Namespace:", orDash(uc.Namespace)},
		{"Infrastructure:", orDash(uc.Spec.Infrastructure.Name())},
		{"Kubernetes:", kubernetesVersion(uc)},
		{"Age:", a.age(uc.CreationTimestamp.Time)},
		{"Endpoint:", orDash(uc.Status.Endpoint)},
	}
	if local := uc.Spec.Infrastructure.Local; local != nil {
		rows = append(rows, []string{"Services:", local.Network.ServiceCIDR}, []string{"Pods:", local.Network.PodCIDR})
	}
	if kubeadm := uc.Spec.Infrastructure.Kubeadm; kubeadm != nil {
		return table(w, "", append(rows, []string{"Kubeconfig:", kubeconfigOfAdopted(kubeadm)})...)
	}
	if on := uc.Spec.Infrastructure.ClusterAPI; on != nil {
		return table(w, "", append(rows,
			[]string{"Cluster:", uc.Namespace + "/" + on.Cluster}, []string{"Method:", string(on.Method)})...)
	}
	return table(w, "", append(rows, []string{"Advanced:", fmt.Sprint(uc.Spec.EnableAdvancedCluster)})...)
}

// kubeconfigOfAdopted describes where the controller gets the kubeconfig of a cluster from.
func kubeconfigOfAdopted(k *v1alpha1.KubeadmInfrastructure) string {
	if k.KubeconfigSecret == "" {
		return "none: it is the cluster that the controller runs in"
	}
	return "Secret " + k.KubeconfigSecret
}

func (a *app) describeKey(w io.Writer, uc *v1alpha1.UserCluster) error {
	s := rotationOf(uc)
	fmt.Fprintln(w, "KSA signing key:")
	rows := [][]string{
		{"Wanted version:", fmt.Sprintf("%d, from %s, %s", s.KSASigningKeyVersion, uc.Spec.KeySource(),
			uc.Spec.KSASigningKey.Algorithm)},
		{"Rotation:", rotationWord(uc)},
		{"Versions:", fmt.Sprintf("tokens %d, private key %d, public keys %v", s.TokenVersion, s.PrivateKeyVersion,
			s.PublicKeyVersions)},
		{"Legacy tokens:", fmt.Sprintf("%d, of them %d not of the wanted version", s.LegacyTokens.Total,
			s.LegacyTokens.Stale)},
		{"Started:", a.ago(s.StartedAt)},
		{"Completed:", a.ago(s.CompletedAt)},
	}
	if s.Step != "" {
		rows = append(rows, []string{"Step:", fmt.Sprintf("%s, since %s", s.Step, a.ago(s.StepSince))},
			[]string{"Waiting for:", orDash(s.WaitingFor)})
	}
	if err := table(w, "  ", rows...); err != nil {
		return err
	}
	rows = [][]string{{"VERSION", "ALGORITHM", "AGE", "KID"}}
	for _, k := range uc.Status.KSASigningKey.Keys {
		rows = append(rows, []string{fmt.Sprint(k.Version), string(k.Algorithm), a.age(k.CreatedAt.Time), k.KeyID})
	}
	return table(w, "  ", rows...)
}

func (a *app) describeFleet(w io.Writer, uc *v1alpha1.UserCluster) error {
	g := uc.Spec.GKEConnect
	if g == nil {
		return table(w, "", []string{"Fleet:", "none"})
	}
	fmt.Fprintln(w, "Fleet:")
	credentials := "application default credentials of the controller"
	if g.CredentialsSecret != "" {
		credentials = "Secret " + g.CredentialsSecret
	}
	return table(w, "  ",
		[]string{"Project:", g.ProjectID},
		[]string{"Location:", g.Location},
		[]string{"Membership:", uc.Name},
		[]string{"Credentials:", credentials},
		[]string{"Endpoint:", ofGoogle(g.Endpoint)},
		[]string{"STS endpoint:", ofGoogle(g.STSEndpoint)},
		[]string{"Propagation:", fmt.Sprint(inSeconds(g.PropagationSeconds))},
	)
}

func (a *app) describePublications(w io.Writer, uc *v1alpha1.UserCluster) error {
	fmt.Fprintln(w, "Publications:")
	key := uc.Spec.KSASigningKey
	if err := table(w, "  ", []string{"Issuer:", key.Issuer},
		[]string{"Maximal age:", fmt.Sprint(inSeconds(key.PublishMaxAgeSeconds))}); err != nil {
		return err
	}
	rows := [][]string{{"NAME", "KEY VERSIONS", "PUBLISHED", "WAITING FOR"}}
	for _, p := range uc.Status.Publications {
		published := "-"
		if p.PublishedAt != nil {
			published = a.age(p.PublishedAt.Time)
		}
		rows = append(rows, []string{p.Name, fmt.Sprint(p.AcceptedVersions), published, orDash(p.WaitingFor)})
	}
	return table(w, "  ", rows...)
}

func (a *app) describeServers(w io.Writer, uc *v1alpha1.UserCluster) error {
	fmt.Fprintln(w, "API servers:")
	rows := [][]string{{"NAME", "READY", "SIGNS", "ACCEPTS", "ENDPOINT"}}
	for _, s := range uc.Status.APIServers {
		rows = append(rows, []string{s.Name, fmt.Sprint(s.Ready), fmt.Sprint(s.SigningVersion),
			fmt.Sprint(s.AcceptedVersions), s.Endpoint})
	}
	return table(w, "  ", rows...)
}

// leftovers returns the files of control-plane nodes with private keys that Keyturn does not delete.
func leftovers(uc *v1alpha1.UserCluster) []v1alpha1.LeftoverKey {
	if k := uc.Status.Infrastructure.Adopted(); k != nil {
		return k.Leftovers
	}
	return nil
}

// leftoverSecrets returns the Secrets that may hold a retired private key.
func leftoverSecrets(uc *v1alpha1.UserCluster) []string {
	if k := uc.Status.Infrastructure.Adopted(); k != nil {
		return k.LeftoverSecrets
	}
	return nil
}

// describeLeftovers shows nothing if there are none.
func (a *app) describeLeftovers(w io.Writer, uc *v1alpha1.UserCluster) error {
	if secrets := leftoverSecrets(uc); len(secrets) > 0 {
		fmt.Fprintln(w, "Secrets that may hold a retired private key, until their machines are replaced:")
		fmt.Fprintf(w, "  %s\n", strings.Join(secrets, "\n  "))
	}
	all := leftovers(uc)
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(w, "Private keys left on nodes:")
	rows := [][]string{{"NODE", "FILE", "KID"}}
	for _, l := range all {
		rows = append(rows, []string{l.Node, l.Path, l.KeyID})
	}
	return table(w, "  ", rows...)
}

// describePools shows nothing if Keyturn does not make the nodes.
func (a *app) describePools(w io.Writer, uc *v1alpha1.UserCluster) error {
	if uc.Spec.Infrastructure.Adopted() {
		return nil
	}
	fmt.Fprintln(w, "Node pools:")
	observed := map[string]v1alpha1.NodePoolStatus{}
	for _, p := range uc.Status.NodePools {
		observed[p.Name] = p
	}
	rows := [][]string{{"NAME", "WANTED", "NODES", "READY", "UPDATED", "SURGE", "LABELS", "TAINTS"}}
	for _, p := range uc.Spec.Infrastructure.NodePools() {
		o := observed[p.Name]
		rows = append(rows, []string{
			p.Name, fmt.Sprint(p.Replicas), fmt.Sprint(o.Replicas), fmt.Sprint(o.Ready), fmt.Sprint(o.Updated),
			fmt.Sprint(p.MaxSurge), labels(p), taints(p),
		})
	}
	return table(w, "  ", rows...)
}

func (a *app) describeConditions(w io.Writer, uc *v1alpha1.UserCluster) error {
	fmt.Fprintln(w, "Conditions:")
	rows := [][]string{{"TYPE", "STATUS", "REASON", "AGE", "MESSAGE"}}
	for _, c := range uc.Status.Conditions {
		rows = append(rows, []string{c.Type, string(c.Status), c.Reason, a.age(c.LastTransitionTime.Time), c.Message})
	}
	return table(w, "  ", rows...)
}

// ago returns a time and how long ago it was.
func (a *app) ago(t *metav1.Time) string {
	if t.IsZero() {
		return "-"
	}
	return fmt.Sprintf("%s (%s ago)", t.UTC().Format(time.RFC3339), a.age(t.Time))
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
