// Command keyturn-machine is one machine of a local cluster: it runs a kubelet and its dependencies in a sandbox of
// this host. Only the host starts it.
package main

import (
	"fmt"
	"os"

	"github.com/keyturn/keyturn/internal/local/machine/guest"
)

func main() {
	if err := guest.Main(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "keyturn-machine:", err)
		os.Exit(1)
	}
}
