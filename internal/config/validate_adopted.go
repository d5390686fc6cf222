package config

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// secretName is the pattern of the CustomResourceDefinition.
var secretName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`)

// Names of a namespace, and of a Cluster by the pattern of the CustomResourceDefinition.
var (
	namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	clusterName   = regexp.MustCompile(`^[a-z]([-a-z0-9.]*[a-z0-9])?$`)
)

// directory is the pattern of the CustomResourceDefinition: an absolute path in which no element begins with a dot.
var directory = regexp.MustCompile(`^(/[A-Za-z0-9_-][A-Za-z0-9._-]*)+$`)

// maxDirectory is the longest path of a directory.
const maxDirectory = 255

// maxClusterName is the longest name of either.
const maxClusterName = 63

// ofLocal are the fields that describe how Keyturn makes a cluster, and why an adopted cluster has none of them.
var ofLocal = []localField{
	{"gkeOnPremVersion", "an adopted cluster has its own version"},
	{"enableControlplaneV2", "the control plane exists already"},
	{"enableAdvancedCluster", "an adopted cluster is not an advanced cluster"},
	{"network", "an adopted cluster has its own address ranges"},
	{"masterNode", "the API servers exist already"},
	{"nodePools", "Keyturn creates no nodes for this cluster"},
}

type localField struct{ field, why string }

// adopted validates the fields of a cluster that somebody else made, and refuses those of a local one.
func (d *decoder) adopted(c *UserCluster) {
	for _, f := range ofLocal {
		if _, there := d.lines[f.field]; there {
			d.problem(f.field, "is only for clusters that Keyturn creates: %s", f.why)
		}
	}
	k := c.KSASigningKey
	if c.Names("source") {
		d.oneOf("ksaSigningKey.source", k.Source)
	}
	if c.Names("algorithm") {
		d.oneOf("ksaSigningKey.algorithm", k.Algorithm)
	}
	if allowed := c.nodeRefreshes(); !slices.Contains(allowed, k.NodeRefresh) {
		d.problem("ksaSigningKey.nodeRefresh", "must be %s, not %q: Keyturn does not make the nodes of this cluster",
			strings.Join(allowed, " or "), k.NodeRefresh)
	}
	if d.infrastructure(*c.Infrastructure) {
		d.retire(k, c.source())
		if on := c.infrastructure(); on.RollsOut() && c.source() != v1alpha1.KeySourceFiles {
			d.problem("ksaSigningKey.source", "must be files with infrastructure.clusterAPI.method Rollout: a signer would "+
				"run on the machines")
		}
	}
}

// nodeRefreshes returns the ways in which the pods of an adopted cluster can get new tokens.
func (c *UserCluster) nodeRefreshes() []string {
	all := []string{string(v1alpha1.NodeRefreshEvict), string(v1alpha1.NodeRefreshWait)}
	if c.Infrastructure.ClusterAPI != nil {
		all = append(all, string(v1alpha1.NodeRefreshReplace))
	}
	return all
}

// source returns the key source of an adopted cluster that is created from the file.
func (c *UserCluster) source() v1alpha1.KeySource {
	spec := v1alpha1.UserClusterSpec{
		Infrastructure: c.infrastructure(),
		KSASigningKey:  v1alpha1.KSASigningKey{Source: v1alpha1.KeySource(c.KSASigningKey.Source)},
	}
	return spec.KeySource()
}

// infrastructure reports whether the infrastructure is valid enough to continue.
func (d *decoder) infrastructure(i Infrastructure) bool {
	switch {
	case i.Kubeadm != nil && i.ClusterAPI != nil:
		d.problem("infrastructure.clusterAPI", "cannot be combined with kubeadm: remove one of them")
	case i.Kubeadm != nil:
		d.kubeadm(i.Kubeadm)
	case i.ClusterAPI != nil:
		d.clusterAPI(i.ClusterAPI)
	default:
		d.problem("infrastructure", "names no cluster; write `kubeadm: {}` for the cluster that the controller runs in")
		return false
	}
	return true
}

func (d *decoder) clusterAPI(c *ClusterAPI) {
	const path = "infrastructure.clusterAPI"
	if len(c.Namespace) > maxClusterName || !namespaceName.MatchString(c.Namespace) {
		d.problem(path+".namespace", "%.70q is not the name of a namespace; use the namespace of the Cluster", c.Namespace)
	}
	if len(c.Cluster) > maxClusterName || !clusterName.MatchString(c.Cluster) {
		d.problem(path+".cluster", "%.70q is not the name of a Cluster", c.Cluster)
	}
	d.oneOf(path+".method", c.Method)
}

func (d *decoder) kubeadm(k *Kubeadm) {
	const path = "infrastructure.kubeadm"
	if k.KubeconfigSecret != "" && k.KubeconfigPath != "" {
		d.problem(path+".kubeconfigPath", "cannot be combined with kubeconfigSecret: remove one of them")
	}
	if name := k.KubeconfigSecret; name != "" && (len(name) > maxSecretName || !secretName.MatchString(name)) {
		d.problem(path+".kubeconfigSecret", "%.40q is not the name of a Secret", name)
	}
	dir := k.CertificatesDir
	inside := func(other string) bool { return strings.HasPrefix(dir+"/", other+"/") }
	switch {
	case len(dir) > maxDirectory || !directory.MatchString(dir):
		d.problem(path+".certificatesDir", "%.70q is not the path of a directory, such as %s", dir,
			v1alpha1.DefaultCertificatesDir)
	case dir == "/etc/kubernetes/manifests" || inside("/var/lib/keyturn") || inside("/run/keyturn"):
		d.problem(path+".certificatesDir", "%s is a directory of other files", dir)
	}
}

// maxSecretName is the longest name of a Secret.
const maxSecretName = 253

// CheckIssuer returns an error if an issuer that was found in a cluster is not usable.
func CheckIssuer(issuer string) error {
	d := &decoder{}
	d.httpsURL("", issuer)
	if len(d.problems) == 0 {
		return nil
	}
	return errors.New(d.problems[0].Message)
}
