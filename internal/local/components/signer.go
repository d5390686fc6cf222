package components

import (
	"fmt"
	"net"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/local/process"
)

const (
	signerLocal = 40
	signerPort  = "9402"
	// SignerSocket is relative to the directory of the API server, in which both run, since the path of a socket has at
	// most 107 bytes.
	SignerSocket = "signer/socket"
)

// SignerName returns the name of the process of the i-th API server's signer.
func SignerName(i int) string { return fmt.Sprintf("signer-%d", i) }

// ServerDir returns the working directory of an API server and its signer.
func (l Layout) ServerDir(i int) string { return l.Path(APIServerName(i)) }

// SignerProcess serves the keys of one API server on a socket that nobody else reaches. Its metrics are for this host.
func (l Layout) SignerProcess(binary string, i int) process.Spec {
	return process.Spec{Name: SignerName(i), Path: binary, Dir: l.ServerDir(i), Args: []string{
		"--socket=" + SignerSocket,
		"--key-dir=" + l.APIServerKeys(i).SignerDir,
		"--metrics-bind-address=" + net.JoinHostPort(l.Local(signerLocal+byte(i)).String(), signerPort),
	}}
}

// RunningKeys returns the keys of an API server that was started with the keys of its stamp. Its signer may have got
// others since.
func (l Layout) RunningKeys(i int, stamp string, configured controlplane.Keys) (controlplane.Keys, error) {
	k, err := keysOfStamp(stamp)
	switch {
	case err != nil || !k.External:
		return k, err
	case configured.External:
		return configured, nil
	}
	if served, ok := l.APIServerKeys(i).Served(); ok {
		return served, nil
	}
	return k, nil
}
