package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/config"
)

// defaultConfigFile is the name that `create-config cluster` gives to its file.
const defaultConfigFile = "user-cluster.yaml"

// defaultKubeconfig is where `create admin` writes the kubeconfig of the admin cluster.
const defaultKubeconfig = "kubeconfig"

func configFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "config", "", "configuration `file` of the user cluster")
	must(cmd.MarkFlagFilename("config", "yaml", "yml"))
}

func kubeconfigFlag(cmd *cobra.Command, path *string) {
	cmd.Flags().StringVar(path, "kubeconfig", defaultKubeconfig, "kubeconfig `file` of the admin cluster")
	must(cmd.MarkFlagFilename("kubeconfig"))
}

// namespaceFlag is for commands that read no configuration file.
func namespaceFlag(cmd *cobra.Command, namespace *string) {
	cmd.Flags().StringVarP(namespace, "namespace", "n", v1alpha1.SystemNamespace,
		"`namespace` of the user clusters; those of Cluster API are in the namespace of their Cluster")
}

// clusterFlag adds the flag for the name of a user cluster, with completion from the admin cluster.
func (a *app) clusterFlag(cmd *cobra.Command, name, kubeconfig *string) {
	cmd.Flags().StringVar(name, "cluster", "", "`name` of the user cluster")
	must(cmd.RegisterFlagCompletionFunc("cluster", a.completeClusters(kubeconfig)))
}

func (a *app) completeClusters(kubeconfig *string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		names := namesOf(cmd.Context(), func() (admin, error) { return a.connect(*kubeconfig) })
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// namesOf returns the names of the user clusters of an admin cluster; none if it does not answer in time.
func namesOf(ctx context.Context, connect func() (admin, error)) (names []string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	c, err := connect()
	if err != nil {
		return nil
	}
	list, err := c.list(ctx)
	if err != nil {
		return nil
	}
	for _, uc := range list.Items {
		names = append(names, uc.Name)
	}
	return names
}

func skipPromptFlag(cmd *cobra.Command, skip *bool) {
	cmd.Flags().BoolVar(skip, "skip-prompt", false, "do not ask for confirmation")
}

// waiting are the flags for how long a command waits for what it started.
type waiting struct {
	wait    bool
	timeout time.Duration
}

func waitFlags(cmd *cobra.Command, w *waiting, wait bool) {
	cmd.Flags().BoolVar(&w.wait, "wait", wait, "wait until it is done, and show progress")
	cmd.Flags().DurationVar(&w.timeout, "timeout", time.Hour, "how long to wait; 0 means no limit")
}

// context returns a context that ends with the timeout.
func (w waiting) context(ctx context.Context) (context.Context, context.CancelFunc) {
	if w.timeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, w.timeout, errWaitOver)
}

// open reads the file that --config names, and connects to the admin cluster that --kubeconfig names.
func (a *app) open(path, kubeconfig string) (*config.UserCluster, admin, error) {
	c, err := a.loadConfig(path)
	if err != nil {
		return nil, admin{}, err
	}
	to, err := a.connect(kubeconfig)
	to.namespace = c.Namespace()
	return c, to, err
}

// loadConfig reads the file that --config names.
func (a *app) loadConfig(path string) (*config.UserCluster, error) {
	if path == "" {
		return nil, usage("for example --config "+defaultConfigFile, "no configuration file given")
	}
	c, err := config.Load(path)
	if err != nil {
		return nil, invalidConfig(path, err)
	}
	return c, nil
}

// wanted is a user cluster as described by its configuration file and the files named there.
type wanted struct {
	*v1alpha1.UserCluster
	// key is the service account key for its fleet. kubeconfig reaches an adopted cluster. Each is nil if no file is
	// named.
	key, kubeconfig config.Secret
	file            *config.UserCluster
}

// keep copies fields that the file does not set from the existing cluster.
func (w wanted) keep(old *v1alpha1.UserCluster) {
	from, to := old.Spec.KSASigningKey, &w.Spec.KSASigningKey
	if !w.file.Names("source") {
		to.Source = from.Source
	}
	if w.file.Adopts() && !w.file.Names("algorithm") {
		to.Algorithm = from.Algorithm
	}
	if w.file.Adopts() && !w.file.Names("issuer") {
		to.Issuer = from.Issuer
	}
}

// loadWanted reads the file that --config names and the files named there, and prints notes about them.
func (a *app) loadWanted(path string) (wanted, error) {
	c, err := a.loadConfig(path)
	if err != nil {
		return wanted{}, err
	}
	files, err := c.Files()
	if err != nil {
		return wanted{}, invalidConfig(path, err)
	}
	a.noteFile(path, c, files)
	return wanted{c.Object(files), files.ServiceAccountKey, files.Kubeconfig, c}, nil
}

// openWanted does what loadWanted does, and connects to the admin cluster that --kubeconfig names.
func (a *app) openWanted(path, kubeconfig string) (wanted, admin, error) {
	w, err := a.loadWanted(path)
	if err != nil {
		return wanted{}, admin{}, err
	}
	to, err := a.connect(kubeconfig)
	to.namespace = w.Namespace
	return w, to, err
}

// must panics on errors that only a wrong name in this package can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
