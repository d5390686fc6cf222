package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli/adoption"
	"github.com/keyturn/keyturn/internal/cli/diagnose"
	"github.com/keyturn/keyturn/internal/kubeconfig"
)

// adoptOptions are the flags of adopt.
type adoptOptions struct {
	skipPrompt, dryRun bool
	output             output
	waiting            waiting
}

func (a *app) adopt() *cobra.Command {
	var from source
	var o adoptOptions
	cmd := adoptCommand(&o)
	cmd.Example = `  gkectl adopt --config prod.yaml --kubeconfig kubeconfig --dry-run
  gkectl adopt --config prod.yaml --kubeconfig kubeconfig
  gkectl adopt --config prod.yaml --kubeconfig kubeconfig --dry-run -o json`
	a.sourceFlags(cmd, &from)
	return a.verb(cmd, func(ctx context.Context) error { return a.adoptFile(ctx, from, o) })
}

// adoptCommand returns the adopt command of both programs, without the flags for the file and the admin cluster.
func adoptCommand(o *adoptOptions) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Adopt a cluster that kubeadm or Cluster API made, so that Keyturn rotates its keys",
		Long: `Adopt a cluster that kubeadm or Cluster API made. Keyturn then rotates its KSA signing keys. The key that the
cluster signs with becomes key version 1. Adopting changes no file on a node and restarts nothing.

The configuration file has infrastructure.kubeadm instead of the fields that describe a cluster to create:

  apiVersion: v1
  kind: UserCluster
  name: prod
  infrastructure:
    kubeadm:
      kubeconfigPath: admin.conf   # or kubeconfigSecret; neither for the admin cluster itself

A cluster of Cluster API is named by its Cluster object in the admin cluster. The controller must run with
--cluster-api-namespace=default for this example:

  infrastructure:
    clusterAPI: {namespace: default, cluster: prod}

A kubeconfig file is stored in Secret NAME-adopted-kubeconfig of the admin cluster. Deleting the UserCluster deletes
it.

The command first asks each API server directly which key it signs with and which keys it accepts, and shows the
result. With --dry-run it stops there; the result is also available as JSON or YAML. If the command is interrupted,
run it again.`,
	}
	skipPromptFlag(cmd, &o.skipPrompt)
	cmd.Flags().BoolVar(&o.dryRun, "dry-run", false, "show what was found and what would happen, and change nothing")
	outputFlag(cmd, &o.output, "text", "json", "yaml")
	waitFlags(cmd, &o.waiting, true)
	return cmd
}

// adoptFile adopts the cluster that the configuration file names.
func (a *app) adoptFile(ctx context.Context, from source, o adoptOptions) error {
	if err := onlyDryRun(o.dryRun, o.output); err != nil {
		return err
	}
	w, c, err := a.openWanted(from)
	if err != nil {
		return err
	}
	if !w.file.Adopts() {
		return usage(a.program.noCluster, "%s describes a cluster that Keyturn creates", from.path)
	}
	return a.adoptCluster(ctx, c, w, o)
}

func (a *app) adoptCluster(ctx context.Context, c admin, w wanted, o adoptOptions) error {
	old, err := c.get(ctx, w.Name)
	switch {
	case err == nil:
		w.keep(old)
		if err := a.sameObject(ctx, c, old, w); err != nil || o.dryRun {
			return err
		}
	case !isMissing(err):
		return err
	default:
		if err := a.adoptNew(ctx, c, w, o); err != nil || o.dryRun {
			return err
		}
	}
	if !o.waiting.wait {
		fmt.Fprintf(a.Out, "User cluster %s is being adopted.\n", w.Name)
		return nil
	}
	if err := a.follow(ctx, c, w.Name, o.waiting, untilReady); err != nil {
		return err
	}
	uc, err := c.existing(ctx, w.Name)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "User cluster %s is adopted%s.\n", w.Name, newestKey(uc))
	return nil
}

// newestKey describes the newest key version of an adopted cluster.
func newestKey(uc *v1alpha1.UserCluster) string {
	keys := uc.Status.KSASigningKey.Keys
	if len(keys) == 0 {
		return ""
	}
	k := keys[len(keys)-1]
	return fmt.Sprintf("; it signs with key version %d, %s (%s)", k.Version, k.KeyID, k.Algorithm)
}

// adoptNew inspects a cluster, shows what it found, asks, and creates the UserCluster.
func (a *app) adoptNew(ctx context.Context, c admin, w wanted, o adoptOptions) error {
	p, err := c.previewAdoption(ctx, w)
	if err != nil {
		return err
	}
	if o.dryRun {
		err = o.output.write(a.Out, p, p.write)
	} else {
		err = p.write(a.Err)
	}
	if err != nil {
		return err
	}
	if !p.Ready() {
		return refused("fix the problems listed above, and run the command again",
			"user cluster %s cannot be adopted yet; nothing was changed", w.Name)
	}
	if o.dryRun {
		return nil
	}
	if err := a.confirm(ctx, o.skipPrompt, fmt.Sprintf("Adopt this cluster as user cluster %s in namespace %s?", w.Name,
		w.Namespace)); err != nil {
		return err
	}
	return a.createObject(ctx, c, w)
}

// adoptionPreview is what was found in a cluster, and what adopting it will do. It is the output of `adopt --dry-run -o
// json`.
type adoptionPreview struct {
	// Namespace is the namespace of the UserCluster.
	Namespace string `json:"namespace"`
	Cluster   string `json:"cluster"`
	adoption.Report
	KeySource v1alpha1.KeySource `json:"keySource"`
	// KubeconfigSecret is empty for the admin cluster itself. KubeconfigExpires is when its client certificate expires.
	KubeconfigSecret  string     `json:"kubeconfigSecret"`
	KubeconfigExpires *time.Time `json:"kubeconfigExpires,omitempty"`

	// storesKubeconfig means that this program writes KubeconfigSecret.
	storesKubeconfig bool
	// update is the command that changes the key source.
	update string
	// material is the Secret that has the private key already; empty if the nodes alone have it. rollsOut means that no
	// agent may run.
	material string
	rollsOut bool
}

// previewAdoption inspects a cluster, and adds the issuer and the algorithm that it found to w, unless the file names
// them.
func (c admin) previewAdoption(ctx context.Context, w wanted) (p adoptionPreview, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	var reach *rest.Config
	if w.kubeconfig != nil {
		var access kubeconfig.Access
		if access, err = kubeconfig.Parse(w.kubeconfig); err == nil {
			reach = access.Config()
			reach.Wrap(kubeconfig.Bound)
		}
	} else {
		reach, err = c.clientConfig(ctx, w.UserCluster)
	}
	if err != nil {
		return p, err
	}
	report, err := adoption.Inspect(ctx, reach, w.Spec.Infrastructure)
	if err != nil {
		return p, failed("check with `kubectl` and the same kubeconfig that the cluster responds; nothing was changed",
			"inspecting the cluster at %s: %w", reach.Host, err)
	}
	key := &w.Spec.KSASigningKey
	report.CompareIssuer(key.Issuer)
	report.CompareSource(w.Spec.KeySource() == v1alpha1.KeySourceExternal)
	if key.Issuer == "" {
		key.Issuer = report.Issuer
	}
	if key.Algorithm == "" {
		key.Algorithm = nextAlgorithm(report.Algorithm)
	}
	return adoptionPreview{
		Namespace: w.Namespace, Cluster: w.Name, Report: report, KeySource: w.Spec.KeySource(), update: c.program.update,
		KubeconfigSecret:  secretOfKubeconfig(w.Spec.Infrastructure),
		KubeconfigExpires: diagnose.Expires(reach.CertData), storesKubeconfig: w.kubeconfig != nil,
		material: secretOfMaterial(w.Spec.Infrastructure), rollsOut: w.Spec.Infrastructure.RollsOut(),
	}, nil
}

// secretOfKubeconfig returns the name of the Secret with the kubeconfig of an adopted cluster; empty for the admin
// cluster itself.
func secretOfKubeconfig(on v1alpha1.Infrastructure) string {
	if on.ClusterAPI != nil {
		return on.ClusterAPI.Cluster + "-kubeconfig"
	}
	return on.Kubeadm.KubeconfigSecret
}

// secretOfMaterial returns the name of the Secret with the keys that control-plane machines start with; empty if there
// is none.
func secretOfMaterial(on v1alpha1.Infrastructure) string {
	if on.ClusterAPI != nil {
		return on.ClusterAPI.Cluster + "-sa"
	}
	return ""
}

// nextAlgorithm returns the algorithm of the key that follows one that was found. Keyturn makes no P-384 keys.
func nextAlgorithm(found string) v1alpha1.Algorithm {
	if strings.HasPrefix(found, "ES") {
		return v1alpha1.ES256
	}
	return v1alpha1.RS256
}

// shortKeyID is how many characters of a kid a table shows.
const shortKeyID = 8

// write shows what was found and what will happen.
func (p adoptionPreview) write(w io.Writer) error {
	fmt.Fprintf(w, "The cluster at %s, as user cluster %s in namespace %s:\n", p.Endpoint, p.Cluster, p.Namespace)
	rows := [][]string{{"Issuer:", orDash(p.Issuer)}, {"Signing key:", orDash(p.SigningKeyID)}}
	if p.Algorithm != "" {
		rows[1][1] += " (" + p.Algorithm + ")"
	}
	if p.KubeconfigExpires != nil {
		rows = append(rows, []string{"Kubeconfig:", "valid until " + p.KubeconfigExpires.UTC().Format(time.DateOnly)})
	}
	if err := table(w, "  ", rows...); err != nil {
		return err
	}
	rows = [][]string{{"API SERVER ON", "ADDRESS", "VERSION", "SIGNS WITH", "ACCEPTS"}}
	for _, s := range p.Servers {
		var accepts []string
		for _, kid := range s.AcceptedKeyIDs {
			accepts = append(accepts, cut(kid, shortKeyID))
		}
		rows = append(rows, []string{
			s.Node, orDash(s.Address), orDash(s.Version), orDash(cut(s.SigningKeyID, shortKeyID)), orNone(accepts),
		})
	}
	if err := table(w, "  ", rows...); err != nil {
		return err
	}
	for _, line := range p.Problems {
		fmt.Fprintf(w, "problem: %s\n", line)
	}
	for _, line := range p.Warnings {
		fmt.Fprintf(w, "warning: %s\n", line)
	}
	if p.Ready() {
		p.writeActions(w)
	}
	return nil
}

// writeActions shows what adopting the cluster does.
func (p adoptionPreview) writeActions(w io.Writer) {
	fmt.Fprintln(w, "Adopting it:")
	switch {
	case p.KubeconfigSecret == "":
		fmt.Fprintf(w, "  waits until keyturn-controller runs with --own-cluster=%s/%s, since it is the admin cluster "+
			"itself\n",
			p.Namespace, p.Cluster)
	case p.storesKubeconfig:
		fmt.Fprintf(w, "  keeps the kubeconfig in Secret %s of the admin cluster\n", p.KubeconfigSecret)
	}
	const agent = "runs keyturn-agent on the control-plane nodes until one has handed over the private key, sealed to " +
		"the controller"
	switch {
	case p.rollsOut:
		fmt.Fprintf(w, "  takes the private key from Secret %s, which must have the one that the API servers sign with\n",
			p.material)
	case p.material != "":
		fmt.Fprintf(w, "  takes the private key from Secret %s or, if the API servers sign with another one, %s\n",
			p.material, agent)
	default:
		fmt.Fprintf(w, "  %s\n", agent)
	}
	fmt.Fprintln(w, "  keeps that key as key version 1 in a Secret of the admin cluster")
	fmt.Fprintln(w, "  writes to no file of a node and restarts nothing")
	n := len(p.Servers)
	if p.rollsOut {
		fmt.Fprintf(w, "Then each rotation makes Cluster API replace %s three times.\n", count(n, "control-plane machine"))
		return
	}
	if p.KeySource == v1alpha1.KeySourceExternal {
		fmt.Fprintf(w, "Then, for ksaSigningKey.source external, each API server gets a signer beside it. That %s.\n",
			convertsEach(n))
		return
	}
	fmt.Fprintf(w, "Recommended then: ksaSigningKey.source external and `%s`. That %s; no rotation restarts one after "+
		"that. With files, each rotation restarts each API server three times.\n", p.update, convertsEach(n))
}
