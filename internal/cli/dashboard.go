package cli

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/dashboard"
)

func (a *app) dashboard() *cobra.Command {
	var kubeconfig, namespace string
	var port int
	cmd := dashboardCommand(&port, "list clusters and describe clusters")
	cmd.Example = `  gkectl dashboard --kubeconfig kubeconfig
  gkectl dashboard --namespace team-a --port 8080`
	kubeconfigFlag(cmd, &kubeconfig)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "`namespace` of the user clusters (default all namespaces)")
	return a.verb(cmd, func(ctx context.Context) error {
		c, err := a.connect(kubeconfig)
		if err != nil {
			return err
		}
		return a.serveDashboard(ctx, c.in(namespace), port)
	})
}

// dashboardCommand returns the dashboard command of both programs, without the flags that name the admin cluster and
// the namespace. same are the commands that show the same data.
func dashboardCommand(port *int, same string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dashboard",
		Short: "Serve a page on this machine that shows the user clusters",
		Long: `Serve a page on this machine that shows the user clusters of all namespaces, or of one that --namespace names,
their keys, and the progress of rotations. The command prints the URL, and serves until it is interrupted.

The page changes nothing, and loads nothing from other hosts. It is served on the loopback interface, only to those
who know the random token in the URL. They see the UserClusters that you may read. To view it from another machine,
forward the port: ssh -L 8080:127.0.0.1:8080 HOST, with --port 8080 here.

The commands ` + same + ` with -o json show the same data.`,
	}
	cmd.Flags().IntVar(port, "port", 0, "port of 127.0.0.1 to serve at; 0 chooses a free one")
	return cmd
}

// tryList checks that user clusters can be listed.
func (c admin) tryList(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	err := c.client.List(ctx, &v1alpha1.UserClusterList{}, client.InNamespace(c.namespace), client.Limit(1))
	if apierrors.IsForbidden(err) && c.namespace == "" {
		return failed("name a namespace whose user clusters you may list with --namespace",
			"listing the user clusters of all namespaces: %w", err)
	}
	return inWords(err, "listing user clusters")
}

func (a *app) serveDashboard(ctx context.Context, c admin, port int) error {
	if err := c.tryList(ctx); err != nil {
		return err
	}
	l, err := dashboard.Listen(ctx, port)
	if err != nil {
		return usage("name another one with --port, or none", "listening on port %d: %w", port, err)
	}
	token := dashboard.NewToken()
	fmt.Fprintln(a.Out, dashboard.URL(l, token))
	a.note("Open this URL in a browser of this machine. It is served until you press Ctrl-C.")
	s := &dashboard.Server{
		Client: c.client, Namespace: c.namespace, AdminCluster: c.config.Host, Row: rowOf, Detail: c.detailOf,
	}
	return s.Serve(ctx, l, token)
}

// rowOf returns the row of a cluster on the page.
func rowOf(uc *v1alpha1.UserCluster) dashboard.Row {
	row := dashboard.Row{
		Namespace: uc.Namespace, Name: uc.Name, Infrastructure: orDash(uc.Spec.Infrastructure.Name()),
		Kubernetes: kubernetesVersion(uc),
		Revision:   uc.ResourceVersion, Since: readySince(uc),
		KeyVersion: uc.Spec.KSASigningKey.Version, KeyCreatedAt: keyStoredAt(uc),
		APIServers: readyServers(uc), Nodes: readyNodes(uc),
	}
	k, ready := uc.Status.KSASigningKey, readyOf(uc)
	waits := k.WaitingFor
	switch {
	case blocked(uc):
		row.Phase, row.State = dashboard.PhaseBlocked, rotationWord(uc)
	case k.Step != "":
		row.Phase, row.State, row.Since = dashboard.PhaseRotating, k.Step, timeOf(k.StepSince)
	case ready.Status == metav1.ConditionTrue:
		row.Phase, row.State, waits = dashboard.PhaseReady, "Ready", ""
	default:
		row.Phase, row.State, waits = dashboard.PhasePending, "Not ready", ready.Message
	}
	if uc.DeletionTimestamp != nil {
		row.State = "Deleting"
	}
	row.WaitingFor = cut(waits, longestDetail)
	return row
}

// readySince returns when a cluster became ready, or stopped being ready.
func readySince(uc *v1alpha1.UserCluster) *time.Time {
	if c := meta.FindStatusCondition(uc.Status.Conditions, v1alpha1.ConditionReady); c != nil {
		return timeOf(&c.LastTransitionTime)
	}
	return timeOf(&uc.CreationTimestamp)
}

// keyStoredAt returns when the newest key of a cluster was stored.
func keyStoredAt(uc *v1alpha1.UserCluster) *time.Time {
	keys := uc.Status.KSASigningKey.Keys
	if len(keys) == 0 {
		return nil
	}
	newest := slices.MaxFunc(keys, func(a, b v1alpha1.KeyVersionStatus) int { return int(a.Version - b.Version) })
	return timeOf(&newest.CreatedAt)
}

// timeOf converts a time of the API; nil if unset.
func timeOf(t *metav1.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t.Time
}

// detailOf returns what the page shows of one cluster.
func (c admin) detailOf(uc *v1alpha1.UserCluster) dashboard.Detail {
	name := c.in(uc.Namespace).arguments(uc.Name)
	d := dashboard.Detail{
		Row: rowOf(uc), Status: uc.Status, Tokens: []dashboard.TokenRow{},
		Commands: dashboard.Commands{Describe: c.program.describe + name + " -o json", Tokens: c.program.tokens + name},
	}
	if uc.Status.KSASigningKey.Tokens == nil {
		return d
	}
	for _, r := range uc.Status.KSASigningKey.Tokens.Workloads {
		row := dashboard.TokenRow{
			Kind: string(r.Kind), Workload: orDash(r.Workload), Account: account(r), Audience: orDash(r.Audience),
			Key: versionOf(r.KeyVersion), Count: r.Count, ExpiresAt: timeOf(r.ExpiresAt), Refresh: refreshWords(r),
		}
		if row.ExpiresAt == nil {
			row.Expires = noExpiry(r)
		}
		d.Tokens = append(d.Tokens, row)
	}
	return d
}
