package config

import (
	"cmp"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// The limits of a cluster.
const (
	maxPools    = 32
	maxReplicas = 100
	maxLabels   = 64
	maxTaints   = 32
	// nodeBits is the prefix length of the address range that each node gets out of podCIDR.
	nodeBits = 24
	// kube-controller-manager refuses ranges of more than 2^16 nodes.
	minPodBits = nodeBits - 16
	// kube-apiserver refuses service ranges of more than 2^20 addresses. In fewer than 16, the first services of a
	// cluster do not fit.
	minServiceBits, maxServiceBits = 12, 28
)

var namePattern = regexp.MustCompile(`^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$`)

const nameRule = "must be 1 to 40 lower-case letters, digits and dashes, begin with a letter and not end with a dash"

func (c *UserCluster) setDefaults() {
	if c.Adopts() {
		c.adoptDefaults()
	} else {
		c.localDefaults()
	}
	if c.KSASigningKey.Retire == "" {
		c.KSASigningKey.Retire = string(v1alpha1.RetireAfterRefresh)
	}
	if g := c.GKEConnect; g != nil && g.Location == "" {
		g.Location = "global"
		c.notes = append(c.notes, "gkeConnect.location is not set: the membership is in global, and cannot be moved later")
	}
	setDefault(&c.KSASigningKey.TokenReload, 5*time.Minute)
	setDefault(&c.KSASigningKey.RetireTimeout, 24*time.Hour)
	setDefault(&c.KSASigningKey.PublishMaxAge, time.Minute)
}

// adoptDefaults leaves what the file does not set to the adopted cluster.
func (c *UserCluster) adoptDefaults() {
	c.keyDefault("source", &c.KSASigningKey.Source, "")
	c.keyDefault("algorithm", &c.KSASigningKey.Algorithm, "")
	c.keyDefault("issuer", &c.KSASigningKey.Issuer, "")
	refresh := v1alpha1.NodeRefreshEvict
	if on := c.Infrastructure.ClusterAPI; on != nil {
		if on.Method = cmp.Or(on.Method, string(v1alpha1.MethodInPlace)); on.Method == string(v1alpha1.MethodRollout) {
			refresh = v1alpha1.NodeRefreshReplace
		}
		setDefault(&on.ShutdownSendRetryAfter, true)
	}
	c.keyDefault("nodeRefresh", &c.KSASigningKey.NodeRefresh, string(refresh))
	if k := c.Infrastructure.Kubeadm; k != nil {
		k.CertificatesDir = cmp.Or(k.CertificatesDir, v1alpha1.DefaultCertificatesDir)
		setDefault(&k.ShutdownSendRetryAfter, true)
	}
}

func (c *UserCluster) localDefaults() {
	setDefault(&c.EnableControlplaneV2, true)
	setDefault(&c.MasterNode.Replicas, 1)
	c.keyDefault("source", &c.KSASigningKey.Source, string(v1alpha1.KeySourceExternal))
	c.keyDefault("algorithm", &c.KSASigningKey.Algorithm, string(v1alpha1.RS256))
	c.keyDefault("issuer", &c.KSASigningKey.Issuer, v1alpha1.DefaultIssuer)
	c.keyDefault("nodeRefresh", &c.KSASigningKey.NodeRefresh, string(v1alpha1.NodeRefreshReplace))
	for i := range c.NodePools {
		setDefault(&c.NodePools[i].UpdateStrategy.RollingUpdate.MaxSurge, 1)
	}
}

// keyDefault sets a default for a field of ksaSigningKey that the file does not set.
func (c *UserCluster) keyDefault(name string, field *string, value string) {
	if *field == "" {
		*field = value
		c.defaulted = append(c.defaulted, name)
	}
}

func setDefault[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}

// validate records every problem of a decoded file with its defaults.
func validate(c *UserCluster, d *decoder) {
	d.oneOf("apiVersion", c.APIVersion)
	d.oneOf("kind", c.Kind)
	d.name("name", c.Name)
	_, named := d.lines["infrastructure"]
	switch {
	case c.Adopts():
		d.adopted(c)
	case named:
		d.problem("infrastructure", "is empty; name kubeadm or clusterAPI, or omit it for a cluster that Keyturn creates")
		return
	default:
		d.local(c)
	}
	d.between("ksaSigningKey.tokenReload", *c.KSASigningKey.TokenReload)
	d.published(c.KSASigningKey)
	if c.GKEConnect != nil {
		d.gkeConnect(*c.GKEConnect)
	}
}

// local validates the fields of a cluster that Keyturn creates.
func (d *decoder) local(c *UserCluster) {
	d.version("gkeOnPremVersion", c.GKEOnPremVersion)
	if !*c.EnableControlplaneV2 {
		d.problem("enableControlplaneV2", "must be true: a control plane inside the admin cluster is not supported")
	}
	const replicas = "masterNode.replicas"
	if r := strconv.Itoa(int(*c.MasterNode.Replicas)); !slices.Contains(values[replicas], r) {
		d.problem(replicas, "must be %s, not %s", Rule(replicas), r)
	}
	d.nodePools(c)
	d.network(c)
	d.oneOf("ksaSigningKey.source", c.KSASigningKey.Source)
	d.oneOf("ksaSigningKey.algorithm", c.KSASigningKey.Algorithm)
	d.oneOf("ksaSigningKey.nodeRefresh", c.KSASigningKey.NodeRefresh)
	d.retire(c.KSASigningKey, v1alpha1.KeySource(c.KSASigningKey.Source))
}

// retire validates when the old key is taken away, with the source that the cluster has.
func (d *decoder) retire(k KSASigningKey, source v1alpha1.KeySource) {
	const path = "ksaSigningKey.retire"
	d.oneOf(path, k.Retire)
	if k.Retire == string(v1alpha1.RetireWhenUnused) && source == v1alpha1.KeySourceFiles {
		d.problem(path, "%s needs ksaSigningKey.source external: without a signer nobody knows which tokens live", k.Retire)
	}
	d.between("ksaSigningKey.retireTimeout", *k.RetireTimeout)
}

func (d *decoder) required(path, value string) bool {
	if value == "" {
		d.problem(path, "is missing")
	}
	return value != ""
}

func (d *decoder) name(path, value string) {
	if d.required(path, value) && !namePattern.MatchString(value) {
		d.problem(path, "%q "+nameRule, value)
	}
}

func (d *decoder) nodePools(c *UserCluster) {
	if n := len(c.NodePools); n > maxPools {
		d.problem("nodePools", "has %d pools; a cluster has at most %d", n, maxPools)
	}
	seen := map[string]bool{}
	for i, p := range c.NodePools {
		path := fmt.Sprintf("nodePools[%d]", i)
		d.name(path+".name", p.Name)
		if p.Name != "" && seen[p.Name] {
			d.problem(path+".name", "duplicate %q", p.Name)
		}
		seen[p.Name] = true
		d.nodePool(path, c, p)
	}
}

func (d *decoder) nodePool(path string, c *UserCluster, p NodePool) {
	if p.Replicas == nil {
		d.problem(path+".replicas", "is missing")
	} else {
		d.count(path+".replicas", *p.Replicas, "")
	}
	d.count(path+".updateStrategy.rollingUpdate.maxSurge", *p.UpdateStrategy.RollingUpdate.MaxSurge,
		": a new node is added before an old one is removed")
	if v := p.GKEOnPremVersion; v != "" && v != c.GKEOnPremVersion {
		d.noEffect(path + ".gkeOnPremVersion")
	}
	d.labels(path+".labels", p.Labels)
	d.taints(path+".taints", p.Taints)
}

func (d *decoder) labels(path string, labels map[string]string) {
	if n := len(labels); n > maxLabels {
		d.problem(path, "has %d labels; a pool has at most %d", n, maxLabels)
	}
	for key, value := range labels {
		path := join(path, key)
		for _, message := range validation.IsQualifiedName(key) {
			d.problem(path, "%s", message)
		}
		for _, message := range validation.IsValidLabelValue(value) {
			d.problem(path, "%s", message)
		}
		if prefix, _, ok := strings.Cut(key, "/"); ok && reserved(prefix) {
			d.problem(path, "labels of %s are reserved", prefix)
		}
	}
}

// reserved reports whether nodes cannot have labels with this prefix: a kubelet refuses those of Kubernetes that it may
// not set on its own node, and Keyturn uses the rest.
func reserved(prefix string) bool {
	for _, own := range []string{"kubelet.kubernetes.io", "node.kubernetes.io"} {
		if prefix == own || strings.HasSuffix(prefix, "."+own) {
			return false
		}
	}
	for _, domain := range []string{"kubernetes.io", "k8s.io", v1alpha1.GroupVersion.Group} {
		if prefix == domain || strings.HasSuffix(prefix, "."+domain) {
			return true
		}
	}
	return false
}

func (d *decoder) taints(path string, taints []Taint) {
	if n := len(taints); n > maxTaints {
		d.problem(path, "has %d taints; a pool has at most %d", n, maxTaints)
	}
	seen := map[Taint]bool{}
	for i, t := range taints {
		path := fmt.Sprintf("%s[%d]", path, i)
		if d.required(path+".key", t.Key) {
			for _, message := range validation.IsQualifiedName(t.Key) {
				d.problem(path+".key", "%s", message)
			}
		}
		for _, message := range validation.IsValidLabelValue(t.Value) {
			d.problem(path+".value", "%s", message)
		}
		d.oneOf(path+".effect", t.Effect)
		id := Taint{Key: t.Key, Effect: t.Effect}
		if seen[id] {
			d.problem(path, "duplicate %s:%s", t.Key, t.Effect)
		}
		seen[id] = true
	}
}

func (d *decoder) network(c *UserCluster) {
	const servicePath, podPath = "network.serviceCIDR", "network.podCIDR"
	service, serviceOK := d.prefix(servicePath, c.Network.ServiceCIDR)
	pod, podOK := d.prefix(podPath, c.Network.PodCIDR)
	if serviceOK && (service.Bits() < minServiceBits || service.Bits() > maxServiceBits) {
		d.problem(servicePath, "%s must be between a /%d and a /%d", service, minServiceBits, maxServiceBits)
	}
	if podOK {
		d.podRange(podPath, pod, c.NodePools)
	}
	if serviceOK && podOK && service.Overlaps(pod) {
		d.problem(podPath, "%s overlaps with %s %s", pod, servicePath, service)
	}
}

// podRange requires room for every node, including those that are added before old ones are removed.
func (d *decoder) podRange(path string, pod netip.Prefix, pools []NodePool) {
	if pod.Bits() < minPodBits || pod.Bits() > nodeBits {
		d.problem(path, "%s must be between a /%d and a /%d: every node gets a /%d of it", pod, minPodBits, nodeBits,
			nodeBits)
		return
	}
	var nodes int64
	for _, p := range pools {
		if p.Replicas != nil && *p.Replicas > 0 {
			nodes += int64(*p.Replicas) + int64(*p.UpdateStrategy.RollingUpdate.MaxSurge)
		}
	}
	if room := int64(1) << (nodeBits - pod.Bits()); nodes > room {
		d.problem(path, "%s is too small: it has room for %d nodes, each with a /%d, and nodePools have up to %d while "+
			"nodes are replaced", pod, room, nodeBits, nodes)
	}
}

func (d *decoder) prefix(path, value string) (p netip.Prefix, ok bool) {
	if !d.required(path, value) {
		return p, false
	}
	p, err := netip.ParsePrefix(value)
	switch a := p.Addr(); {
	case err != nil || !a.Is4():
		d.problem(path, "%q is not an IPv4 range like 10.96.0.0/20", value)
		return p, false
	case p != p.Masked():
		d.problem(path, "%s does not begin at its first address; write %s", p, p.Masked())
		return p, false
	case a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified():
		d.problem(path, "%s is reserved and cannot be used by a cluster", p)
		return p, false
	}
	return p, true
}
