// Package remote lets a controller reach adapters that run in a program on another host.
//
// Server has the adapters, and Client is their ports again: controlplane.Adapter, nodes.Machines and nodes.Refresher of
// one UserCluster. A call is a POST of JSON to /v1/PORT/METHOD over HTTP/2 and TLS 1.3, in which both sides show a
// certificate of one authority. It carries the whole UserCluster, and the server keeps nothing of a call: two
// controllers may call it, and it may be killed at any time.
//
// What a port guarantees crosses with it. An error keeps its text, and what callers test with errors.Is. A private key
// crosses as PKCS #8, in bodies that nobody logs and that both sides clear. Both sides refuse what they do not know, so
// they have to be of one release.
package remote
