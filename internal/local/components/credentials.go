package components

import (
	"fmt"
	"net/netip"
	"os"

	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/internal/atomicfile"
	"github.com/keyturn/keyturn/internal/local/pki"
)

const (
	masters = "system:masters"
	// KubeletClientUser is the user that API servers are for kubelets.
	KubeletClientUser = "kube-apiserver-kubelet-client"
)

// Authorities are the authorities of a cluster: for API servers and their clients, for aggregation, and for etcd.
type Authorities struct {
	Cluster, frontProxy, etcd *pki.Authority
}

// Authorities creates the authorities of the cluster, or reads them.
func (l Layout) Authorities() (a Authorities, err error) {
	dir := l.Path("pki")
	if a.Cluster, err = pki.EnsureAuthority(dir, "ca", l.Name+"-ca"); err != nil {
		return a, err
	}
	if a.frontProxy, err = pki.EnsureAuthority(dir, "front-proxy-ca", l.Name+"-front-proxy-ca"); err != nil {
		return a, err
	}
	a.etcd, err = pki.EnsureAuthority(dir, "etcd-ca", l.Name+"-etcd-ca")
	return a, err
}

// Certificate is a certificate that a cluster needs.
type Certificate struct {
	By   *pki.Authority
	Name string
	pki.Request
}

// Certificates lists the certificates of API servers and etcd. The certificate of every API server is also valid for
// the load balancer's address, since that only forwards.
func (l Layout) Certificates(a Authorities) []Certificate {
	local := func(last byte) []netip.Addr { return []netip.Addr{l.Local(last)} }
	list := []Certificate{
		{a.etcd, "etcd", pki.Request{CommonName: "etcd", Addresses: local(etcdLocal), Server: true, Client: true}},
		{a.etcd, "apiserver-etcd-client", pki.Request{CommonName: "kube-apiserver", Client: true}},
		{a.Cluster, "apiserver-kubelet-client", pki.Request{CommonName: KubeletClientUser, Client: true}},
		{a.frontProxy, "front-proxy-client", pki.Request{CommonName: "front-proxy-client", Client: true}},
		{a.Cluster, "admin", pki.Request{CommonName: "kubernetes-admin", Organizations: []string{masters}, Client: true}},
		{a.Cluster, "keyturn", pki.Request{CommonName: "keyturn-controller", Organizations: []string{masters}, Client: true}},
	}
	for i := range l.Replicas {
		list = append(list, Certificate{a.Cluster, APIServerName(i), pki.Request{
			CommonName: "kube-apiserver", Server: true,
			Names: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
				"kubernetes.default.svc.cluster.local", "localhost"},
			Addresses: []netip.Addr{l.APIServer(i), l.LoadBalancer(), l.ServiceCIDR.Masked().Addr().Next()},
		}})
	}
	return list
}

// ControllerCertificates lists the certificates of kube-controller-managers and kube-schedulers.
func (l Layout) ControllerCertificates(a Authorities) []Certificate {
	addresses := func(first byte) (list []netip.Addr) {
		for i := range l.Secondaries() {
			list = append(list, l.Local(first+byte(i)))
		}
		return list
	}
	return []Certificate{
		{a.Cluster, "controller-manager", pki.Request{CommonName: "system:kube-controller-manager", Client: true}},
		{a.Cluster, "scheduler", pki.Request{CommonName: "system:kube-scheduler", Client: true}},
		{a.Cluster, "controller-manager-serving", pki.Request{
			CommonName: "kube-controller-manager", Addresses: addresses(ControllerManagerLocal), Server: true}},
		{a.Cluster, "scheduler-serving", pki.Request{
			CommonName: "kube-scheduler", Addresses: addresses(schedulerLocal), Server: true}},
	}
}

// EnsureCertificates issues the certificates that are missing.
func (l Layout) EnsureCertificates(list []Certificate) error {
	for _, c := range list {
		if _, err := c.By.Ensure(l.Path("pki"), c.Name, c.Request); err != nil {
			return err
		}
	}
	return nil
}

// EnsureKubeconfigs writes the kubeconfigs of components that reach the API servers through the load balancer.
func (l Layout) EnsureKubeconfigs(a Authorities, names ...string) error {
	for _, name := range names {
		raw, err := pki.Kubeconfig(l.Endpoint(), l.Name, name, a.Cluster.CertificatePEM(), l.Pair(name))
		if err != nil {
			return err
		}
		if err := atomicfile.Ensure(l.Kubeconfig(name), raw); err != nil {
			return err
		}
	}
	return nil
}

// Pair returns a certificate of the cluster, and its key.
func (l Layout) Pair(name string) pki.Pair {
	return pki.Pair{CertFile: l.PKI(name + ".crt"), KeyFile: l.PKI(name + ".key")}
}

// RESTConfig reaches a URL of the cluster as Keyturn itself, with a client certificate and no rate limit. It is
// completely in memory, so it stays valid if the files are replaced.
func (l Layout) RESTConfig(url string) (*rest.Config, error) {
	cfg := &rest.Config{Host: url, QPS: -1, UserAgent: "keyturn"}
	for _, f := range []struct {
		name string
		to   *[]byte
	}{{"ca.crt", &cfg.CAData}, {"keyturn.crt", &cfg.CertData}, {"keyturn.key", &cfg.KeyData}} {
		raw, err := os.ReadFile(l.PKI(f.name))
		if err != nil {
			return nil, fmt.Errorf("reading credentials of cluster %s: %w", l.Name, err)
		}
		*f.to = raw
	}
	return cfg, nil
}
