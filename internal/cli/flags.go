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

// allNamespacesFlag is the flag that kubectl has for this. It overrides --namespace.
func allNamespacesFlag(cmd *cobra.Command, all *bool) {
	cmd.Flags().BoolVarP(all, "all-namespaces", "A", false, "the user clusters of all namespaces")
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

// source is where commands find a user cluster: its configuration file, the admin cluster, and the namespace if a flag
// names one.
type source struct {
	path      string
	connect   func() (admin, error)
	namespace string
}

// sourceFlags adds the flags of gkectl that name a source.
func (a *app) sourceFlags(cmd *cobra.Command, s *source) {
	configFlag(cmd, &s.path)
	var kubeconfig string
	kubeconfigFlag(cmd, &kubeconfig)
	s.connect = func() (admin, error) { return a.connect(kubeconfig) }
	fileNamespaceFlag(cmd, &s.namespace)
}

// fileNamespaceFlag is for commands that read a configuration file.
func fileNamespaceFlag(cmd *cobra.Command, namespace *string) {
	cmd.Flags().StringVarP(namespace, "namespace", "n", "", "`namespace` of the user cluster (default \""+
		v1alpha1.SystemNamespace+"\"; with Cluster API always that of its Cluster)")
}

// of returns the admin cluster with the namespace of the user cluster that a file describes. A cluster of Cluster API
// is in the namespace of its Cluster, and others are where the flag says, or where commands look without it.
func (s source) of(file *config.UserCluster) (admin, error) {
	c, err := s.connect()
	if err != nil {
		return c, err
	}
	own := file.ClusterNamespace()
	switch {
	case own == "" && s.namespace != "":
		return c.in(s.namespace), nil
	case own == "":
		return c, nil
	case s.namespace != "" && s.namespace != own:
		return c, usage("omit --namespace", "--namespace names %s, and user cluster %s is in namespace %s, with its Cluster",
			s.namespace, file.Name, own)
	}
	return c.in(own), nil
}

// open reads the configuration file of a source, and connects to its admin cluster.
func (a *app) open(s source) (*config.UserCluster, admin, error) {
	c, err := a.loadConfig(s.path)
	if err != nil {
		return nil, admin{}, err
	}
	to, err := s.of(c)
	return c, to, err
}

// loadConfig reads a configuration file.
func (a *app) loadConfig(path string) (*config.UserCluster, error) {
	if path == "" {
		return nil, usage("for example "+a.program.file+" "+defaultConfigFile, "no configuration file given")
	}
	c, err := config.Load(path)
	if err != nil {
		return nil, a.invalidConfig(path, err)
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

// loadWanted reads a configuration file and the files named there, and prints notes about them.
func (a *app) loadWanted(path string) (wanted, error) {
	c, err := a.loadConfig(path)
	if err != nil {
		return wanted{}, err
	}
	files, err := c.Files()
	if err != nil {
		return wanted{}, a.invalidConfig(path, err)
	}
	a.noteFile(path, c, files)
	return wanted{c.Object(files), files.ServiceAccountKey, files.Kubeconfig, c}, nil
}

// openWanted does what loadWanted does, and connects to the admin cluster of a source.
func (a *app) openWanted(s source) (wanted, admin, error) {
	w, err := a.loadWanted(s.path)
	if err != nil {
		return wanted{}, admin{}, err
	}
	to, err := s.of(w.file)
	w.Namespace = to.namespace
	return w, to, err
}

// must panics on errors that only a wrong name in this package can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}
