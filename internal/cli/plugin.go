package cli

import (
	"cmp"
	"context"
	"io"

	"github.com/spf13/cobra"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// pluginVerbs makes the commands of the plugin. They reach the admin cluster with the flags of kubectl.
type pluginVerbs struct {
	*app
	flags *genericclioptions.ConfigFlags
}

func (a *app) pluginRoot() *cobra.Command {
	p := pluginVerbs{app: a, flags: genericclioptions.NewConfigFlags(true)}
	p.flags.CacheDir, p.flags.DisableCompression = nil, nil
	root := group(&cobra.Command{
		Use:         "kubectl-keyturn",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl keyturn"},
		Short:       "Rotate the keys that clusters sign service account tokens with",
		Long: `Rotate the key pairs that Kubernetes clusters sign service account (KSA) tokens with. Everything that uses a
token keeps working.

UserClusters are in the cluster in which Keyturn is installed, the current context. Their namespace comes
from --namespace or the context; if neither names one, it is keyturn-system. That of a cluster of Cluster API is always
the namespace of its Cluster.`,
		Example: `  # Have Keyturn rotate the keys of a cluster that kubeadm made, then rotate its key.
  kubectl keyturn adopt --filename prod.yaml
  kubectl keyturn rotate prod --wait

  # What runs, and which tokens live.
  kubectl keyturn list --all-namespaces
  kubectl keyturn tokens prod`,
		SilenceErrors: true,
		SilenceUsage:  true,
	}, p.adopt(), p.checkConfig(), p.update(), p.release(), p.rotate(), p.status(), p.tokens(), p.list(), p.describe(),
		p.diagnose(), p.snapshot(), p.dashboard(), a.version(), exitCodes())
	p.flags.AddFlags(root.PersistentFlags())
	p.completeKubectlFlags(root)
	return root
}

// connect returns the admin cluster that the flags name. It makes no request.
func (p pluginVerbs) connect() (admin, error) {
	const advice = "name the cluster in which Keyturn is installed with --context or --kubeconfig"
	loader := p.flags.ToRawKubeConfigLoader()
	raw, err := loader.RawConfig()
	if err != nil {
		return admin{}, usage(advice, "reading the kubeconfig: %w", err)
	}
	config, err := loader.ClientConfig()
	if err != nil {
		return admin{}, usage(advice, "using the kubeconfig: %w", err)
	}
	usual := p.contextNamespace(raw)
	return p.adminOf(config, cmp.Or(*p.flags.Namespace, usual), usual)
}

// source returns where to find the user cluster that a configuration file describes. It reads the flags.
func (p pluginVerbs) source(path string) source {
	return source{path: path, connect: p.connect, namespace: *p.flags.Namespace}
}

func filenameFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVarP(path, "filename", "f", "", "configuration `file` of the user cluster")
	must(cmd.MarkFlagFilename("filename", "yaml", "yml"))
}

// contextNamespace returns the namespace of the context, or of Keyturn.
func (p pluginVerbs) contextNamespace(raw api.Config) string {
	name := raw.CurrentContext
	if *p.flags.Context != "" {
		name = *p.flags.Context
	}
	if c := raw.Contexts[name]; c != nil && c.Namespace != "" {
		return c.Namespace
	}
	return v1alpha1.SystemNamespace
}

// of makes a command act on the user cluster that its argument names.
func (p pluginVerbs) of(cmd *cobra.Command, act func(ctx context.Context, c admin, name string) error) *cobra.Command {
	cmd.Use += " NAME"
	cmd.Args = cobra.ExactArgs(1)
	cmd.ValidArgsFunction = p.completeClusters
	return p.verb(cmd, func(ctx context.Context) error {
		c, err := p.connect()
		if err != nil {
			return err
		}
		return act(ctx, c, cmd.Flags().Arg(0))
	})
}

// ofOptional is of, where the name can be left out.
func (p pluginVerbs) ofOptional(
	cmd *cobra.Command, act func(ctx context.Context, c admin, name string) error,
) *cobra.Command {
	cmd = p.of(cmd, act)
	cmd.Use, cmd.Args = cmd.Name()+" [NAME]", cobra.MaximumNArgs(1)
	return cmd
}

func (p pluginVerbs) completeClusters(
	cmd *cobra.Command, args []string, _ string,
) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return namesOf(cmd.Context(), p.connect), cobra.ShellCompDirectiveNoFileComp
}

func (p pluginVerbs) adopt() *cobra.Command {
	var path string
	var o adoptOptions
	cmd := adoptCommand(&o)
	cmd.Example = `  kubectl keyturn adopt --filename prod.yaml --dry-run
  kubectl keyturn adopt --filename prod.yaml`
	filenameFlag(cmd, &path)
	return p.verb(cmd, func(ctx context.Context) error { return p.adoptFile(ctx, p.source(path), o) })
}

func (p pluginVerbs) checkConfig() *cobra.Command {
	var path string
	cmd := checkConfigCommand()
	cmd.Example = "  kubectl keyturn check-config --filename prod.yaml"
	filenameFlag(cmd, &path)
	return p.verb(cmd, func(context.Context) error { return p.checkFile(path) })
}

func (p pluginVerbs) update() *cobra.Command {
	var path string
	var w waiting
	cmd := updateCommand(&w)
	cmd.Example = `  kubectl keyturn update --filename prod.yaml
  kubectl keyturn update --filename prod.yaml --wait=false`
	filenameFlag(cmd, &path)
	return p.verb(cmd, func(ctx context.Context) error { return p.updateFile(ctx, p.source(path), w) })
}

func (p pluginVerbs) release() *cobra.Command {
	var skipPrompt bool
	var w waiting
	cmd := &cobra.Command{
		Use: "release", Short: "Release a cluster that was adopted, so that Keyturn no longer rotates its keys",
		Long: `Release a cluster that was adopted: delete its UserCluster, and wait until that is gone. The cluster keeps
running with its current key. Keyturn removes only what it added to the cluster, and the copies of its keys in the
admin cluster. The cluster can be adopted again.`,
		Example: "  kubectl keyturn release prod\n  kubectl keyturn release prod --skip-prompt",
	}
	skipPromptFlag(cmd, &skipPrompt)
	waitFlags(cmd, &w, true)
	return p.of(cmd, func(ctx context.Context, c admin, name string) error {
		uc, err := c.existing(ctx, name)
		if err != nil {
			return err
		}
		if !uc.Spec.Infrastructure.Adopted() {
			return refused("to delete it, run `kubectl --namespace "+uc.Namespace+" delete userclusters "+name+"`",
				"user cluster %s was not adopted: Keyturn created it, and would delete it with all that runs in it", name)
		}
		if err := p.confirm(ctx, skipPrompt, deletion(uc)); err != nil {
			return err
		}
		return p.deleteObject(ctx, c, uc, "", w)
	})
}

func (p pluginVerbs) rotate() *cobra.Command {
	var how rotateFlags
	cmd := rotateCommand(&how)
	cmd.Example = `  kubectl keyturn rotate prod --dry-run
  kubectl keyturn rotate prod --wait
  kubectl keyturn rotate --all --all-namespaces --older-than 90d --skip-prompt`
	one := p.of(cmd, func(ctx context.Context, c admin, name string) error { return p.rotateOne(ctx, c, name, how) }).RunE
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if how.many.all {
			return cobra.NoArgs(cmd, args)
		}
		return cobra.ExactArgs(1)(cmd, args)
	}
	return p.verb(cmd, func(ctx context.Context) error {
		if err := how.check(cmd); err != nil {
			return err
		}
		if !how.many.all {
			return one(cmd, cmd.Flags().Args())
		}
		c, err := p.connect()
		if err != nil {
			return err
		}
		return p.rotateAll(ctx, c, how)
	})
}

func (p pluginVerbs) status() *cobra.Command {
	var o statusOptions
	cmd := statusCommand(&o)
	cmd.Example = `  kubectl keyturn status prod
  kubectl keyturn status prod --wait
  kubectl keyturn status prod -o json`
	return p.of(cmd, func(ctx context.Context, c admin, name string) error { return p.statusOf(ctx, c, name, o) })
}

func (p pluginVerbs) tokens() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use:   "tokens",
		Short: "Show which service account tokens of a cluster are valid, and who holds them",
		Long: `Show which service account tokens are valid, who holds them, which key signed them, when they expire, and
what gives their holders new ones. The controller finds this out when asked, and names what it cannot know.`,
		Example: "  kubectl keyturn tokens prod\n  kubectl keyturn tokens prod -o json",
	}
	outputFlag(cmd, &o, "text", "json", "yaml")
	return p.of(cmd, func(ctx context.Context, c admin, name string) error {
		uc, err := c.existing(ctx, name)
		if err != nil {
			return err
		}
		return p.describeTokens(ctx, c, []v1alpha1.UserCluster{*uc}, o)
	})
}

func (p pluginVerbs) list() *cobra.Command {
	var o output
	var which selection
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls", "get"}, Short: "List the clusters whose keys are rotated",
		Example: "  kubectl keyturn list\n  kubectl keyturn list --all-namespaces -o json\n" +
			"  kubectl keyturn list --selector stage=test",
	}
	outputFlag(cmd, &o, "table", "json", "yaml")
	selectionFlags(cmd, &which)
	return p.verb(cmd, func(ctx context.Context) error {
		c, err := p.connect()
		if err != nil {
			return err
		}
		return p.listSelected(ctx, c, which, o)
	})
}

func (p pluginVerbs) dashboard() *cobra.Command {
	var port int
	cmd := dashboardCommand(&port, "describe, tokens and list")
	cmd.Example = "  kubectl keyturn dashboard\n  kubectl keyturn dashboard --namespace team-a --port 8080"
	return p.verb(cmd, func(ctx context.Context) error {
		c, err := p.connect()
		if err != nil {
			return err
		}
		return p.serveDashboard(ctx, c.in(*p.flags.Namespace), port)
	})
}

func (p pluginVerbs) describe() *cobra.Command {
	var o output
	cmd := &cobra.Command{
		Use: "describe", Short: "Show the details of a cluster",
		Example: "  kubectl keyturn describe prod\n  kubectl keyturn describe prod -o yaml",
	}
	outputFlag(cmd, &o, "text", "json", "yaml")
	return p.of(cmd, func(ctx context.Context, c admin, name string) error {
		uc, err := c.existing(ctx, name)
		if err != nil {
			return err
		}
		list := &v1alpha1.UserClusterList{Items: []v1alpha1.UserCluster{*uc}}
		return o.write(p.Out, asData(list), func(w io.Writer) error { return p.describeAll(w, list.Items) })
	})
}

func (p pluginVerbs) diagnose() *cobra.Command {
	var o output
	cmd := diagnoseCommand(&o)
	cmd.Example = "  kubectl keyturn diagnose\n  kubectl keyturn diagnose prod\n  kubectl keyturn diagnose prod -o json"
	return p.ofOptional(cmd, func(ctx context.Context, c admin, name string) error {
		return p.diagnoseOne(ctx, c, name, o)
	})
}

func (p pluginVerbs) snapshot() *cobra.Command {
	var path string
	cmd := snapshotCommand(&path)
	cmd.Example = "  kubectl keyturn snapshot prod\n  kubectl keyturn snapshot --output snapshot.tar.gz"
	return p.ofOptional(cmd, func(ctx context.Context, c admin, name string) error {
		return p.app.snapshot(ctx, c, name, path)
	})
}
