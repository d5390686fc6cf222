package reference

import (
	"flag"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyturn/keyturn/internal/agent/agentcmd"
	"github.com/keyturn/keyturn/internal/cli"
	"github.com/keyturn/keyturn/internal/controllercmd"
	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/localcmd"
	"github.com/keyturn/keyturn/internal/signer/signercmd"
)

// Programs returns the programs that have a reference, as trees of commands: those that people run, and those that
// serve on hosts and in clusters.
func Programs() []*cobra.Command {
	return append(cli.Commands(), controllerProgram(), signerProgram(), localProgram(), agentProgram(), fleetProgram())
}

// section is the section of the manual that a program belongs to: 1 for commands, 8 for what administrators run.
func section(root *cobra.Command) string {
	if strings.HasPrefix(root.Name(), "keyturn-") {
		return "8"
	}
	return "1"
}

// runsAlone annotates programs with subcommands that also run without one.
const runsAlone = "runs-alone"

// served completes the command of a program with its flags, which it parses by package flag. It takes no arguments,
// unless the command has a rule for them.
func served(c *cobra.Command, flags *flag.FlagSet) *cobra.Command {
	if c.Args == nil {
		c.Args = cobra.NoArgs
	}
	c.Run = func(*cobra.Command, []string) {}
	c.Flags().AddGoFlagSet(flags)
	return c
}

// codes is the help topic about the exit codes of a program.
func codes(lines string) *cobra.Command {
	return &cobra.Command{
		Use: exitCodes, Short: "What the exit codes mean", Long: "The exit codes are:\n\n" + lines,
	}
}

// codesOfDaemon are the exit codes of package daemon.
func codesOfDaemon() *cobra.Command {
	return codes(`  0  a signal stopped the program, or it printed its help
  1  the program failed; the last line of its log has the reason
  2  the flags are invalid`)
}

func controllerProgram() *cobra.Command {
	c := served(&cobra.Command{
		Use:   "keyturn-controller",
		Short: "Rotate the signing keys of the user clusters of an admin cluster",
		Long: `keyturn-controller watches the UserClusters of an admin cluster and rotates their KSA signing keys. The Helm
chart runs it as a Deployment. gkectl create admin starts it on the host of local clusters. Several controllers can run
at the same time; one of them works, and the others wait.

The author of a UserCluster chooses what the controller connects to, within bounds: the flags --allow-…,
--cluster-api-namespace and --own-cluster set them. By default the controller connects to clusters whose
kubeconfigs are beside their UserClusters, and to Google Cloud with the credentials that a UserCluster names.

The log goes to standard error as JSON.`,
	}, controllercmd.Flags())
	c.AddCommand(codesOfDaemon())
	return c
}

func signerProgram() *cobra.Command {
	c := served(&cobra.Command{
		Use:         "keyturn-signer",
		Short:       "Sign the service account tokens of one kube-apiserver",
		Annotations: map[string]string{runsAlone: ""},
		Long: `keyturn-signer signs the service account tokens of one kube-apiserver by the ExternalJWTSigner API. The API
server holds no private key, and no rotation restarts it.

A parent process holds the socket and no key. A child reads the keys and signs. When a private key is retired, the
parent replaces the child, so that no copy of the key stays in memory. With --supervise=false one process does all of
this: it serves no metrics, and retired keys stay in its memory until it restarts.

SIGHUP replaces the child by one of the program that is on disk, for an upgrade that refuses no request. SIGTERM and
SIGINT end both processes. The log goes to standard error as JSON; it never has a claim, a token or a key.`,
	}, signercmd.Flags())
	c.AddCommand(codesOfDaemon(), served(&cobra.Command{
		Use:   signercmd.LedgerCommand,
		Short: "Print which tokens of a signer are valid",
		Long: `Print the ledger of a signer as JSON: until when the tokens that it signed are valid, by key, account,
audiences and bound object. The signer does not have to run.`,
		Example: "  keyturn-signer ledger --ledger-file /run/keyturn/signer/ledger",
	}, signercmd.LedgerFlags()))
	return c
}

func localProgram() *cobra.Command {
	c := served(&cobra.Command{
		Use:   "keyturn-local [flags] [-- FLAGS]",
		Args:  cobra.ArbitraryArgs,
		Short: "Run the admin cluster and the user clusters of this host",
		Long: `keyturn-local runs the admin cluster of this Linux host and what belongs to it, restarts what dies, and serves
the user clusters of this host to controllers. gkectl create admin starts it.

The arguments after -- are flags of the keyturn-controller that it starts. The log goes to standard error as JSON.`,
	}, localcmd.Flags())
	c.AddCommand(codesOfDaemon())
	return c
}

func agentProgram() *cobra.Command {
	c := &cobra.Command{
		Use:   "keyturn-agent",
		Args:  cobra.ArbitraryArgs,
		Short: "Change the signing keys of a control-plane node",
		Long: `keyturn-agent changes the signing keys of the control-plane node on which its pod runs. The controller creates
these pods in clusters of kubeadm and Cluster API while something has to change, and deletes them afterwards. The agent
has no credential and listens nowhere: the controller runs the command apply in the pod.`,
	}
	c.AddCommand(codes(`  0  the command succeeded; apply wrote a report, which may have an error
  1  the command failed
  2  the arguments are invalid`))
	for _, command := range agentcmd.Commands() {
		c.AddCommand(served(&cobra.Command{Use: command.Name, Short: command.Short}, command.Flags()))
	}
	return c
}

func fleetProgram() *cobra.Command {
	c := served(&cobra.Command{
		Use:   "keyturn-fleet",
		Short: "Serve the local fleet",
		Long: `keyturn-fleet is the local fleet, which stands in for GKE Hub and for the Google STS. It keeps the memberships
of clusters, and exchanges service account tokens for access tokens. keyturn-local starts it beside the admin cluster.
It serves TLS, on loopback and private addresses only.

The flags for faults and delays are for tests. The log goes to standard error as JSON.`,
	}, fleetserver.Flags())
	c.AddCommand(codesOfDaemon())
	return c
}
