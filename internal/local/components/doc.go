// Package components determines how the processes of a control plane are started: their command lines, configuration
// files, certificates and addresses. They all depend on a Layout, and nothing here starts a process.
package components
