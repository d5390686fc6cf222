package config

import (
	"cmp"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// Object returns the API object that the file describes, with key version 1. Of the named files, the object holds the
// certificates, and only references to the service account key and the kubeconfig. For an adopted cluster, the
// algorithm and the issuer are empty unless the file sets them. Its namespace is keyturn-system, unless it has to be
// another one.
func (c *UserCluster) Object(f Files) *v1alpha1.UserCluster {
	uc := &v1alpha1.UserCluster{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "UserCluster"},
		ObjectMeta: metav1.ObjectMeta{Namespace: cmp.Or(c.ClusterNamespace(), v1alpha1.SystemNamespace), Name: c.Name},
		Spec: v1alpha1.UserClusterSpec{
			Infrastructure:        c.infrastructure(),
			EnableAdvancedCluster: c.EnableAdvancedCluster,
			KSASigningKey:         c.KSASigningKey.object(),
		},
	}
	if c.GKEConnect != nil {
		uc.Spec.GKEConnect = c.GKEConnect.object(c.Name, f)
	}
	return uc
}

func (c *UserCluster) infrastructure() v1alpha1.Infrastructure {
	if !c.Adopts() {
		return v1alpha1.Infrastructure{Local: c.local()}
	}
	if on := c.Infrastructure.ClusterAPI; on != nil {
		return v1alpha1.Infrastructure{ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{
			Cluster: on.Cluster, Method: v1alpha1.ClusterAPIMethod(on.Method),
			ShutdownSendRetryAfter: *on.ShutdownSendRetryAfter,
		}}
	}
	k := c.Infrastructure.Kubeadm
	kubeadm := &v1alpha1.KubeadmInfrastructure{
		KubeconfigSecret: k.KubeconfigSecret, CertificatesDir: k.CertificatesDir,
		ShutdownSendRetryAfter: *k.ShutdownSendRetryAfter,
	}
	if k.KubeconfigPath != "" {
		kubeadm.KubeconfigSecret = v1alpha1.AdoptedKubeconfigSecretName(c.Name)
	}
	return v1alpha1.Infrastructure{Kubeadm: kubeadm}
}

func (c *UserCluster) local() *v1alpha1.LocalInfrastructure {
	local := &v1alpha1.LocalInfrastructure{
		KubernetesVersion: c.KubernetesVersion(),
		Network:           v1alpha1.Network{ServiceCIDR: c.Network.ServiceCIDR, PodCIDR: c.Network.PodCIDR},
		ControlPlane:      v1alpha1.ControlPlane{Replicas: *c.MasterNode.Replicas},
	}
	for _, p := range c.NodePools {
		local.NodePools = append(local.NodePools, p.object())
	}
	return local
}

func (k KSASigningKey) object() v1alpha1.KSASigningKey {
	return v1alpha1.KSASigningKey{
		Version:              1,
		NodeRefresh:          v1alpha1.NodeRefresh(k.NodeRefresh),
		TokenReloadSeconds:   seconds(*k.TokenReload),
		Retire:               v1alpha1.RetirePolicy(k.Retire),
		RetireTimeoutSeconds: seconds(*k.RetireTimeout),
		Source:               v1alpha1.KeySource(k.Source),
		Algorithm:            v1alpha1.Algorithm(k.Algorithm),
		Issuer:               k.Issuer,
		Publish:              k.Publish,
		PublishMaxAgeSeconds: seconds(*k.PublishMaxAge),
	}
}

func (g GKEConnect) object(cluster string, f Files) *v1alpha1.GKEConnect {
	connect := &v1alpha1.GKEConnect{
		ProjectID:          g.ProjectID,
		Location:           g.Location,
		Endpoint:           g.Endpoint,
		STSEndpoint:        g.STSEndpoint,
		CABundle:           f.Certificates,
		PropagationSeconds: seconds(g.PropagationTime),
	}
	if g.RegisterServiceAccountKeyPath != "" {
		connect.CredentialsSecret = v1alpha1.CredentialsSecretName(cluster)
	}
	return connect
}

func (p NodePool) object() v1alpha1.NodePool {
	pool := v1alpha1.NodePool{
		Name:     p.Name,
		Replicas: *p.Replicas,
		Labels:   p.Labels,
		MaxSurge: *p.UpdateStrategy.RollingUpdate.MaxSurge,
	}
	for _, t := range p.Taints {
		pool.Taints = append(pool.Taints, corev1.Taint{Key: t.Key, Value: t.Value, Effect: corev1.TaintEffect(t.Effect)})
	}
	return pool
}

func seconds(d time.Duration) int32 { return int32(d / time.Second) }
