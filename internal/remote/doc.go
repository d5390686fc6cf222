// Package remote lets a controller reach adapters that run in a program on another host.
//
// Server provides the adapters, and Client implements their interfaces: controlplane.Adapter, nodes.Machines and
// nodes.Refresher of one UserCluster. A call is a POST of JSON to /v1/PORT/METHOD over HTTP/2 and TLS 1.3, in which
// both sides show a certificate of one authority. It contains the whole UserCluster, and the server keeps no state
// between calls: two controllers may call it, and it may be killed at any time.
//
// All guarantees of an interface hold across the connection. An error keeps its text, and what callers test with
// errors.Is. A private key is sent as PKCS #8, in bodies that nobody logs and that both sides clear. Both sides refuse
// unknown content, so they must be of one release.
package remote
