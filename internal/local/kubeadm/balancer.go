package kubeadm

import (
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/process"
)

// balancerName is the name of the load balancer's process.
const balancerName = "haproxy"

// startLoadBalancer starts HAProxy if it does not run. Its configuration never changes: it knows the address of each
// control-plane node that the cluster may get.
func (c *Cluster) startLoadBalancer() error {
	program, err := exec.LookPath(balancerName)
	if err != nil {
		return fmt.Errorf("starting the load balancer of cluster %s: %w", c.opts.Name, err)
	}
	run := process.New(c.path("run"))
	state, err := run.Observe(balancerName)
	if err != nil || state.Running {
		return err
	}
	config := c.path("haproxy.cfg")
	if err := atomicfile.Ensure(config, []byte(c.balancerConfig())); err != nil {
		return err
	}
	return run.Start(process.Spec{Name: balancerName, Path: program, Args: []string{"-db", "-f", config}})
}

// balancerConfig balances TCP connections over the API servers whose /readyz is ok, as a platform's load balancer does:
// it learns that an API server is away by its next check, not from Keyturn. It does not verify their certificates,
// since it is there before they are.
func (c *Cluster) balancerConfig() string {
	var b strings.Builder
	fmt.Fprintf(&b, `global
    nbthread 1
    maxconn 8192

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
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host kubernetes
    http-check expect status 200
    default-server check check-ssl verify none inter 1s fastinter 250ms fall 2 rise 1
`, c.Endpoint())
	for i := range maxControlPlanes {
		fmt.Fprintf(&b, "    server control-plane-%d %s\n", i, netip.AddrPortFrom(c.address(100+i), apiServerPort))
	}
	return b.String()
}
