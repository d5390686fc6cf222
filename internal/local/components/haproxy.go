package components

import (
	"fmt"
	"net"
	"strings"
)

// LoadBalancerName is the name of HAProxy's process, and AdminSocket the name of the socket that controls it.
const (
	LoadBalancerName = "haproxy"
	AdminSocket      = "haproxy.sock"
)

// HAProxyConfig balances TCP connections over the API servers whose /readyz is ok. TLS ends at the API servers. A
// refused connection goes to another server at once, so a killed server costs nothing.
func (l Layout) HAProxyConfig() string {
	var b strings.Builder
	fmt.Fprintf(&b, `global
    nbthread 1
    maxconn 8192
    stats socket unix@%s mode 600 level admin

defaults
    mode tcp
    timeout connect 2s
    timeout client 1h
    timeout server 1h
    timeout check 2s
    retries 3
    option redispatch 1

frontend clients
    bind %s
    default_backend apiservers

backend apiservers
    balance roundrobin
    option httpchk
    http-check send meth GET uri %s ver HTTP/1.1 hdr Host kubernetes
    http-check expect status 200
    default-server check check-ssl verify required ca-file '%s' inter 250ms fastinter 100ms fall 2 rise 1
`, AdminSocket, net.JoinHostPort(l.LoadBalancer().String(), APIServerPort), ReadyPath, l.PKI("ca.crt"))
	for i := range l.Replicas {
		fmt.Fprintf(&b, "    server %s %s\n", APIServerName(i), net.JoinHostPort(l.APIServer(i).String(), APIServerPort))
	}
	return b.String()
}
