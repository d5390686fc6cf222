package local

import (
	"fmt"
	"net/netip"
	"os"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/pki"
)

const masters = "system:masters"

// authorities are the three of a cluster: for API servers and their clients, for aggregation, and for etcd.
type authorities struct {
	cluster, frontProxy, etcd *pki.Authority
}

func (l layout) authorities() (a authorities, err error) {
	dir := l.Path("pki")
	if a.cluster, err = pki.EnsureAuthority(dir, "ca", l.Name+"-ca"); err != nil {
		return a, err
	}
	if a.frontProxy, err = pki.EnsureAuthority(dir, "front-proxy-ca", l.Name+"-front-proxy-ca"); err != nil {
		return a, err
	}
	a.etcd, err = pki.EnsureAuthority(dir, "etcd-ca", l.Name+"-etcd-ca")
	return a, err
}

// certificate is one that a cluster needs.
type certificate struct {
	by   *pki.Authority
	name string
	pki.Request
}

// certificates lists what API servers and etcd need. Where only the load balancer stands between, every API server's
// certificate is good for its address too.
func (l layout) certificates(a authorities) []certificate {
	local := func(last byte) []netip.Addr { return []netip.Addr{l.Local(last)} }
	list := []certificate{
		{a.etcd, "etcd", pki.Request{CommonName: "etcd", Addresses: local(etcdLocal), Server: true, Client: true}},
		{a.etcd, "apiserver-etcd-client", pki.Request{CommonName: "kube-apiserver", Client: true}},
		{a.cluster, "apiserver-kubelet-client", pki.Request{CommonName: kubeletClientUser, Client: true}},
		{a.frontProxy, "front-proxy-client", pki.Request{CommonName: "front-proxy-client", Client: true}},
		{a.cluster, "admin", pki.Request{CommonName: "kubernetes-admin", Organizations: []string{masters}, Client: true}},
		{a.cluster, "keyturn", pki.Request{CommonName: "keyturn-controller", Organizations: []string{masters}, Client: true}},
	}
	for i := range l.Replicas {
		list = append(list, certificate{a.cluster, apiServerName(i), pki.Request{
			CommonName: "kube-apiserver", Server: true,
			Names: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
				"kubernetes.default.svc.cluster.local", "localhost"},
			Addresses: []netip.Addr{l.APIServer(i), l.LoadBalancer(), l.ServiceCIDR.Masked().Addr().Next()},
		}})
	}
	return list
}

// controllerCertificates lists what kube-controller-managers and kube-schedulers need.
func (l layout) controllerCertificates(a authorities) []certificate {
	addresses := func(first byte) (list []netip.Addr) {
		for i := range l.secondaries() {
			list = append(list, l.Local(first+byte(i)))
		}
		return list
	}
	return []certificate{
		{a.cluster, "controller-manager", pki.Request{CommonName: "system:kube-controller-manager", Client: true}},
		{a.cluster, "scheduler", pki.Request{CommonName: "system:kube-scheduler", Client: true}},
		{a.cluster, "controller-manager-serving", pki.Request{
			CommonName: "kube-controller-manager", Addresses: addresses(managerLocal), Server: true}},
		{a.cluster, "scheduler-serving", pki.Request{
			CommonName: "kube-scheduler", Addresses: addresses(schedulerLocal), Server: true}},
	}
}

func (l layout) ensureCertificates(list []certificate) error {
	for _, c := range list {
		if _, err := c.by.Ensure(l.Path("pki"), c.name, c.Request); err != nil {
			return err
		}
	}
	return nil
}

// ensureKubeconfigs writes those of the components that reach the API servers by the load balancer.
func (l layout) ensureKubeconfigs(a authorities, names ...string) error {
	for _, name := range names {
		raw, err := pki.Kubeconfig(l.endpoint(), l.Name, name, a.cluster.CertificatePEM(), l.pair(name))
		if err != nil {
			return err
		}
		if err := atomicfile.Ensure(l.kubeconfig(name), raw); err != nil {
			return err
		}
	}
	return nil
}

func (l layout) pair(name string) pki.Pair {
	return pki.Pair{CertFile: l.pki(name + ".crt"), KeyFile: l.pki(name + ".key")}
}

// restConfig reaches a URL of the cluster as Keyturn itself, by client certificate and with no limit on requests. All
// of it is in memory: it stays good when the files are replaced.
func (l layout) restConfig(url string) (*rest.Config, error) {
	cfg := &rest.Config{Host: url, QPS: -1, UserAgent: "keyturn"}
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{"ca.crt", &cfg.CAData}, {"keyturn.crt", &cfg.CertData}, {"keyturn.key", &cfg.KeyData}} {
		raw, err := os.ReadFile(l.pki(f.name))
		if err != nil {
			return nil, fmt.Errorf("reading credentials of cluster %s: %w", l.Name, err)
		}
		*f.to = raw
	}
	return cfg, nil
}
