package cli

import "github.com/keyturn/keyturn/internal/version"

// program is what one of the two programs calls its commands. Hints use these names.
type program struct {
	// command is the name that people type, and agent the file name.
	command, agent string
	// list shows all user clusters. describe, followed by a name, shows the details of one.
	list, describe string
	// preview shows what a rotation will do.
	preview string
	// started is the output of rotate, with the key version and the name of the cluster.
	started string
}

var (
	gkectl = program{
		command: "gkectl", agent: "gkectl", list: "gkectl list clusters", describe: "gkectl describe clusters --cluster ",
		preview: "gkectl update credentials ksa-signing-key rotate --dry-run",
		started: "successfully started the KSA signing key rotation with KSASigningKeyVersion %[1]d, use gkectl update " +
			"credentials ksa-signing-key status command to view the current state of KSA signing key rotation",
	}
	plugin = program{
		command: "kubectl keyturn", agent: "kubectl-keyturn",
		list: "kubectl keyturn list -A", describe: "kubectl keyturn describe ",
		preview: "kubectl keyturn rotate --dry-run",
		started: "The rotation to key version %[1]d has started; `kubectl keyturn status %[2]s` shows the progress.",
	}
)

// userAgent returns the User-Agent header of its requests.
func (p program) userAgent() string { return p.agent + "/" + version.Get().Version }
