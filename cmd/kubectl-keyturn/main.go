// Command kubectl-keyturn is a plugin of kubectl that rotates the KSA signing keys of clusters.
package main

import "github.com/keyturn/keyturn/internal/cli"

func main() { cli.Main(cli.RunPlugin) }
