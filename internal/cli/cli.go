// Package cli implements gkectl, and the kubectl plugin: one file for each command, and what the commands share. The
// commands of the plugin are in plugin.go.
//
// Start with Run. Data goes to standard output, and everything else to standard error: progress, notes, questions and
// errors. An error that the user can act on ends in a line that begins with "hint:", and the exit code is the class of
// the error (errors.go). Commands reach the admin cluster through connect, without a cache, and watch the controller's
// progress through follow.
package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// Env is the environment that a command runs in.
type Env struct {
	In       io.Reader
	Out, Err io.Writer
	// Getenv returns the value of an environment variable; empty if it is not set.
	Getenv func(string) string
	// IsTerminal reports whether In, Out or Err is a terminal.
	IsTerminal func(stream any) bool
	Now        func() time.Time
}

// System returns the environment of this process.
func System() Env {
	return Env{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr,
		Getenv:     os.Getenv,
		IsTerminal: isTerminal,
		Now:        time.Now,
	}
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Main runs one of the two programs in the environment of this process, and exits with its exit code.
func Main(run func(ctx context.Context, env Env, args []string) int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// A second signal ends the process at once, in case it does not react to the first.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, System(), arguments()))
}

// Run runs gkectl with its arguments, without the program's name, and returns the exit code.
func Run(ctx context.Context, env Env, args []string) int {
	a := &app{Env: env, program: gkectl}
	return a.run(ctx, a.root(), args)
}

// RunPlugin is Run for kubectl-keyturn, the plugin of kubectl.
func RunPlugin(ctx context.Context, env Env, args []string) int {
	a := &app{Env: env, program: plugin}
	return a.run(ctx, a.pluginRoot(), args)
}

// Commands returns the commands of gkectl and of kubectl-keyturn as trees, for their references.
func Commands() []*cobra.Command {
	a, p := &app{Env: System(), program: gkectl}, &app{Env: System(), program: plugin}
	return []*cobra.Command{a.completed(a.root()), p.completed(p.pluginRoot())}
}

// completed adds to a tree of commands what shells need to complete them.
func (a *app) completed(root *cobra.Command) *cobra.Command {
	addCompletion(root, a.program)
	a.completeFlags(root)
	return root
}

func (a *app) run(ctx context.Context, root *cobra.Command, args []string) int {
	// Logs of libraries are not meant for users of the command.
	log.SetLogger(logr.Discard())
	root.SetArgs(args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	a.completed(root)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !a.started {
		// An error before the command starts is one of the command line.
		err = usage("run `"+cmd.CommandPath()+" --help` to see how it is used", "%w", err)
	}
	return a.report(ctx, err)
}

// app is one run of gkectl or of the plugin.
type app struct {
	Env
	program program
	// started means that the command line was valid and a command is running.
	started bool
}

func (a *app) root() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "gkectl",
		Short: "Create clusters and rotate their KSA signing keys",
		Long: `gkectl creates clusters and rotates the keys that they sign Kubernetes service account (KSA) tokens with.
Everything that uses a token keeps working.

An admin cluster holds the user clusters. A configuration file describes each user cluster. A user cluster is either
created by gkectl, or made by kubeadm or Cluster API and adopted by gkectl.`,
		Example: `  # From nothing to a user cluster.
  gkectl create admin
  gkectl create-config cluster
  gkectl create cluster --config user-cluster.yaml

  # Or have Keyturn rotate the keys of a cluster that kubeadm made.
  gkectl adopt --config prod.yaml --kubeconfig kubeconfig

  # Rotate its KSA signing key, and look how far that is.
  gkectl update credentials ksa-signing-key rotate --config user-cluster.yaml --kubeconfig kubeconfig
  gkectl update credentials ksa-signing-key status --config user-cluster.yaml --kubeconfig kubeconfig`,
		SilenceErrors: true,
		SilenceUsage:  true,
	},
		a.create(), a.adopt(), a.createConfig(), a.checkConfig(), a.update(), a.delete(), a.list(), a.describe(),
		a.diagnose(), a.dashboard(), a.version(), exitCodes())
	return root
}

func (a *app) create() *cobra.Command {
	return group(&cobra.Command{
		Use: "create", Short: "Create the admin cluster or a user cluster",
		Example: "  gkectl create admin\n  gkectl create cluster --config user-cluster.yaml",
	}, a.createAdmin(), a.createCluster())
}

func (a *app) update() *cobra.Command {
	key := group(&cobra.Command{
		Use: "ksa-signing-key", Short: "Rotate the KSA signing key of a user cluster, or show its state",
		Example: `  gkectl update credentials ksa-signing-key rotate --config user-cluster.yaml --kubeconfig kubeconfig
  gkectl update credentials ksa-signing-key status --config user-cluster.yaml --kubeconfig kubeconfig`,
	}, a.rotate(), a.status())
	credentials := group(&cobra.Command{
		Use: "credentials", Short: "Rotate the credentials of a user cluster",
		Example: "  gkectl update credentials ksa-signing-key rotate --config user-cluster.yaml --kubeconfig kubeconfig",
	}, key)
	return group(&cobra.Command{
		Use: "update", Short: "Change a user cluster or rotate its credentials",
		Example: `  gkectl update cluster --config user-cluster.yaml
  gkectl update credentials ksa-signing-key rotate --config user-cluster.yaml --kubeconfig kubeconfig`,
	}, a.updateCluster(), credentials)
}

func (a *app) delete() *cobra.Command {
	return group(&cobra.Command{
		Use: "delete", Short: "Delete a user cluster or the admin cluster",
		Example: "  gkectl delete cluster --cluster my-cluster\n  gkectl delete admin",
	}, a.deleteAdmin(), a.deleteCluster())
}

func (a *app) list() *cobra.Command {
	return group(&cobra.Command{
		Use: "list", Short: "List the user clusters", Example: "  gkectl list clusters",
	}, a.listClusters())
}

func (a *app) describe() *cobra.Command {
	return group(&cobra.Command{
		Use: "describe", Short: "Show the details of user clusters",
		Example: "  gkectl describe clusters --cluster my-cluster",
	}, a.describeClusters())
}
