package config

import (
	"errors"
	"regexp"
	"strings"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// secretName is the pattern of the CustomResourceDefinition.
var secretName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

// ofLocal are the fields that describe how Keyturn makes a cluster, and why an adopted cluster has none of them.
var ofLocal = []struct{ field, why string }{
	{"gkeOnPremVersion", "kubeadm decides which version the cluster has"},
	{"enableControlplaneV2", "the control plane is there already"},
	{"enableAdvancedCluster", "a cluster that kubeadm made is none"},
	{"network", "kubeadm chose the address ranges"},
	{"masterNode", "the API servers are there already"},
	{"nodePools", "Keyturn makes no nodes of this cluster"},
}

// adopted validates the fields of a cluster that somebody else made, and refuses those of a local one.
func (d *decoder) adopted(c *UserCluster) {
	for _, f := range ofLocal {
		if _, there := d.lines[f.field]; there {
			d.problem(f.field, "is only for clusters that Keyturn makes: %s", f.why)
		}
	}
	for _, field := range d.withoutEffect {
		if !strings.HasPrefix(field, "gkeConnect.") {
			d.problem(field, "is only for clusters that Keyturn makes")
		}
	}
	k := c.KSASigningKey
	if c.Names("source") {
		d.source(k)
	}
	if c.Names("algorithm") {
		d.algorithm(k)
	}
	if how := v1alpha1.NodeRefresh(k.NodeRefresh); how != v1alpha1.NodeRefreshEvict && how != v1alpha1.NodeRefreshWait {
		d.problem("ksaSigningKey.nodeRefresh", "must be %s or %s, not %q: Keyturn does not make the nodes of this cluster",
			v1alpha1.NodeRefreshEvict, v1alpha1.NodeRefreshWait, k.NodeRefresh)
	}
	if d.kubeadm(c.Infrastructure.Kubeadm) {
		d.retire(k, c.source())
	}
}

// source is the one that an adopted cluster has if it is made from the file.
func (c *UserCluster) source() v1alpha1.KeySource {
	spec := v1alpha1.UserClusterSpec{
		Infrastructure: c.infrastructure(),
		KSASigningKey:  v1alpha1.KSASigningKey{Source: v1alpha1.KeySource(c.KSASigningKey.Source)},
	}
	return spec.KeySource()
}

// kubeadm reports false when there is nothing to validate.
func (d *decoder) kubeadm(k *Kubeadm) bool {
	const path = "infrastructure.kubeadm"
	if k == nil {
		d.problem(path, "is missing; write `kubeadm: {}` for the cluster that the controller runs in")
		return false
	}
	if k.KubeconfigSecret != "" && k.KubeconfigPath != "" {
		d.problem(path+".kubeconfigPath", "is not needed beside kubeconfigSecret: remove one of them")
	}
	if name := k.KubeconfigSecret; name != "" && (len(name) > maxSecretName || !secretName.MatchString(name)) {
		d.problem(path+".kubeconfigSecret", "%.40q is not the name of a Secret", name)
	}
	return true
}

// maxSecretName is the longest name of a Secret.
const maxSecretName = 253

// CheckIssuer reports what is wrong with an issuer that was found in a cluster.
func CheckIssuer(issuer string) error {
	d := &decoder{}
	d.httpsURL("", issuer)
	if len(d.problems) == 0 {
		return nil
	}
	return errors.New(d.problems[0].Message)
}
