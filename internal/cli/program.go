package cli

import "github.com/keyturn/keyturn/internal/version"

// program is what one of the two programs calls its commands. Hints use these names, since users of one program may not
// have the other.
type program struct {
	// command is the name that people type, and agent the file name.
	command, agent string
	// list shows all user clusters. describe and tokens, followed by a name, show the details and the tokens of one.
	list, describe, tokens string
	// preview shows what a rotation will do.
	preview string
	// adopt, update and check take a configuration file, whose flag is file.
	adopt, update, check, file string
	// begin begins to make a user cluster; empty if the program cannot.
	begin string
	// noFile is how to get a configuration file, and noCluster how to get a cluster that the file could name.
	noFile, noCluster string
	// noAdmin is how to get an admin cluster, and down what to do when it does not answer.
	noAdmin, down string
	// started is the output of rotate, with the key version, and the name of the cluster as arguments of a command.
	started string
}

const nameCluster = "name the cluster with infrastructure.kubeadm or infrastructure.clusterAPI"

var (
	gkectl = program{
		command: "gkectl", agent: "gkectl", list: "gkectl list clusters -A",
		describe: "gkectl describe clusters --cluster ", tokens: "gkectl describe clusters --tokens --cluster ",
		preview: "gkectl update credentials ksa-signing-key rotate --dry-run",
		adopt:   "gkectl adopt", update: "gkectl update cluster", check: "gkectl check-config", file: "--config",
		begin:     "gkectl create-config cluster",
		noFile:    "give an existing file with --config, or make one with `gkectl create-config cluster`",
		noCluster: nameCluster + ", or make one with `gkectl create cluster`",
		noAdmin:   "does the kubeconfig name a cluster in which Keyturn is installed? `gkectl create admin` makes one",
		down:      "`gkectl create admin` starts what is missing of a local one",
		started: "successfully started the KSA signing key rotation with KSASigningKeyVersion %[1]d, use gkectl update " +
			"credentials ksa-signing-key status command to view the current state of KSA signing key rotation",
	}
	plugin = program{
		command: "kubectl keyturn", agent: "kubectl-keyturn",
		list: "kubectl keyturn list -A", describe: "kubectl keyturn describe ", tokens: "kubectl keyturn tokens ",
		preview: "kubectl keyturn rotate --dry-run",
		adopt:   "kubectl keyturn adopt", update: "kubectl keyturn update", check: "kubectl keyturn check-config",
		file:      "--filename",
		noFile:    "give an existing file with --filename",
		noCluster: nameCluster,
		noAdmin: "name the cluster in which Keyturn is installed with --context or --kubeconfig; its Helm chart installs " +
			"Keyturn",
		down:    "name another one with --context or --kubeconfig",
		started: "The rotation to key version %[1]d has started; `kubectl keyturn status %[2]s` shows the progress.",
	}
)

// userAgent returns the User-Agent header of its requests.
func (p program) userAgent() string { return p.agent + "/" + version.Get().Version }
