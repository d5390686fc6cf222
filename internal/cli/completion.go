package cli

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/tools/clientcmd/api"

	"github.com/keyturn/keyturn/internal/config"
)

// completer is the name by which kubectl runs a program to complete the command line of the plugin: a link to it.
const completer = "kubectl_complete-keyturn"

// arguments returns the arguments of this process. Under the name of the completer, they are completed and not run.
func arguments() []string {
	args := os.Args[1:]
	if filepath.Base(os.Args[0]) == completer {
		return append([]string{cobra.ShellCompRequestCmd}, args...)
	}
	return args
}

// completeFlags makes shells complete the flags of a command and of the commands below it. File names are offered only
// for flags that take one.
func (a *app) completeFlags(c *cobra.Command) {
	complete := func(f *pflag.Flag) {
		_, file := f.Annotations[cobra.BashCompFilenameExt]
		_, directory := f.Annotations[cobra.BashCompSubdirsInDir]
		if _, done := c.GetFlagCompletionFunc(f.Name); done || file || directory || f.NoOptDefVal != "" {
			return
		}
		must(c.RegisterFlagCompletionFunc(f.Name, a.flagCompletion(c, f.Name)))
	}
	c.Flags().VisitAll(complete)
	c.PersistentFlags().VisitAll(complete)
	for _, child := range c.Commands() {
		a.completeFlags(child)
	}
}

// flagCompletion returns what completes a flag that takes no file.
func (a *app) flagCompletion(c *cobra.Command, flag string) cobra.CompletionFunc {
	switch {
	case flag == "namespace" && c.Flag("kubeconfig") != nil:
		return completeNamespaces(func() (admin, error) { return a.connect(c.Flag("kubeconfig").Value.String()) })
	case flag == "gke-on-prem-version":
		var versions []string
		for _, release := range config.Releases {
			versions = append(versions, strings.TrimPrefix(release, "v")+"-gke.1")
		}
		return cobra.FixedCompletions(versions, cobra.ShellCompDirectiveNoFileComp)
	}
	return cobra.NoFileCompletions
}

// completeNamespaces offers the namespaces that have user clusters; none if the admin cluster does not answer in time.
func completeNamespaces(connect func() (admin, error)) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
		defer cancel()
		c, err := connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		c.namespace = ""
		list, err := c.list(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		names := map[string]bool{}
		for _, uc := range list.Items {
			names[uc.Namespace] = true
		}
		return slices.Sorted(maps.Keys(names)), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeKubectlFlags makes shells complete the flags of kubectl: from the kubeconfig, and with files.
func (p pluginVerbs) completeKubectlFlags(root *cobra.Command) {
	must(root.RegisterFlagCompletionFunc("namespace", completeNamespaces(p.connect)))
	must(root.RegisterFlagCompletionFunc("context", p.fromKubeconfig(func(c api.Config) []string {
		return slices.Sorted(maps.Keys(c.Contexts))
	})))
	must(root.RegisterFlagCompletionFunc("cluster", p.fromKubeconfig(func(c api.Config) []string {
		return slices.Sorted(maps.Keys(c.Clusters))
	})))
	must(root.RegisterFlagCompletionFunc("user", p.fromKubeconfig(func(c api.Config) []string {
		return slices.Sorted(maps.Keys(c.AuthInfos))
	})))
	for _, file := range []string{"kubeconfig", "certificate-authority", "client-certificate", "client-key"} {
		must(root.MarkPersistentFlagFilename(file))
	}
}

// fromKubeconfig offers names in the kubeconfig that the flags before name.
func (p pluginVerbs) fromKubeconfig(names func(api.Config) []string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		c, err := p.flags.ToRawKubeConfigLoader().RawConfig()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return names(c), cobra.ShellCompDirectiveNoFileComp
	}
}
