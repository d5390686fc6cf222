// Command gkectl creates clusters and rotates their KSA signing keys.
package main

import "github.com/keyturn/keyturn/internal/cli"

func main() { cli.Main(cli.Run) }
