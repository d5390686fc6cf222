// Package components says what the processes of a control plane are started with: their command lines, configuration
// files, certificates and addresses. All of it follows from a Layout, and nothing here starts a process.
package components
