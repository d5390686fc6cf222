package podtokens

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// inVolumes returns the tokens in the volumes that some container mounts. Kubelets set up no other volume.
func (c Cluster) inVolumes(pod *corev1.Pod) []Token {
	var tokens []Token
	used := usedVolumes(pod)
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !slices.Contains(used, v.Name) {
			continue
		}
		for _, t := range c.inVolume(pod, v) {
			t.Volume = v.Name
			tokens = appendNew(tokens, t)
		}
	}
	return tokens
}

// usedVolumes returns the names of the volumes that a kubelet sets up: those of all containers, including ended ones.
func usedVolumes(pod *corev1.Pod) []string {
	var names []string
	for _, one := range containers(pod) {
		for _, m := range one.VolumeMounts {
			names = append(names, m.Name)
		}
		for _, d := range one.VolumeDevices {
			names = append(names, d.Name)
		}
	}
	return names
}

func (c Cluster) inVolume(pod *corev1.Pod, v *corev1.Volume) []Token {
	switch {
	case v.Secret != nil:
		return inSecret(v.Secret.SecretName, v.Secret.Items)
	case v.Projected != nil:
		return c.inProjection(v.Projected)
	case v.CSI != nil:
		return append(secretOfDriver(v.CSI.NodePublishSecretRef), c.ofDriver(v.CSI.Driver)...)
	case v.PersistentVolumeClaim != nil:
		return c.ofClaim(pod.Namespace, v.PersistentVolumeClaim.ClaimName)
	case v.Ephemeral != nil:
		return c.ofClaim(pod.Namespace, pod.Name+"-"+v.Name)
	}
	return secretOfDriver(driverSecret(v))
}

// inSecret returns the file with a Secret's token. No items means all.
func inSecret(secret string, items []corev1.KeyToPath) []Token {
	if len(items) == 0 {
		items = []corev1.KeyToPath{{Key: corev1.ServiceAccountTokenKey, Path: corev1.ServiceAccountTokenKey}}
	}
	var tokens []Token
	for _, item := range items {
		if item.Key == corev1.ServiceAccountTokenKey {
			tokens = append(tokens, Token{Kind: Legacy, Secret: secret, Way: File, Path: item.Path, Refresh: ByKubelet})
		}
	}
	return tokens
}

func (c Cluster) inProjection(p *corev1.ProjectedVolumeSource) []Token {
	var tokens []Token
	for _, source := range p.Sources {
		if s := source.Secret; s != nil {
			tokens = append(tokens, inSecret(s.Name, s.Items)...)
		}
		if s := source.ServiceAccountToken; s != nil {
			t := c.issued(s.Audience, Seconds(s.ExpirationSeconds))
			t.Way, t.Path, t.Refresh = File, s.Path, ByKubelet
			tokens = append(tokens, t)
		}
	}
	return tokens
}

// issued returns a token that the API server issues for the pod.
func (c Cluster) issued(audience string, expiration time.Duration) Token {
	t := Token{Kind: ThirdParty, Audience: audience, Expiration: expiration}
	if audience == "" || slices.Contains(c.Audiences, audience) {
		t.Kind = Bound
	}
	return t
}

// Seconds returns the life of a token for a requested number of seconds or, with nil, for none.
func Seconds(n *int64) time.Duration {
	if n == nil {
		return defaultExpiration
	}
	return time.Duration(*n) * time.Second
}

// ofClaim returns the tokens that the driver of a claim gets.
func (c Cluster) ofClaim(namespace, claim string) []Token {
	return c.ofDriver(c.Claims[types.NamespacedName{Namespace: namespace, Name: claim}])
}

func (c Cluster) ofDriver(name string) []Token {
	var tokens []Token
	driver := c.Drivers[name]
	for _, r := range driver.TokenRequests {
		t := c.issued(r.Audience, r.Expiration)
		t.Way, t.Refresh = Driver, ByPod
		if driver.Republishes {
			t.Refresh = ByKubelet
		}
		tokens = append(tokens, t)
	}
	return tokens
}

// secretOfDriver returns the token of a Secret that a driver gets when it sets up a volume.
func secretOfDriver(ref *corev1.LocalObjectReference) []Token {
	if ref == nil || ref.Name == "" {
		return nil
	}
	return []Token{{Kind: Legacy, Secret: ref.Name, Way: Driver, Refresh: ByPod}}
}

// driverSecret returns the Secret that a volume of an in-tree driver or a FlexVolume names. Most drivers cannot use a
// token, but each gets everything in the Secret.
func driverSecret(v *corev1.Volume) *corev1.LocalObjectReference {
	switch {
	case v.AzureFile != nil:
		return &corev1.LocalObjectReference{Name: v.AzureFile.SecretName}
	case v.CephFS != nil:
		return v.CephFS.SecretRef
	case v.Cinder != nil:
		return v.Cinder.SecretRef
	case v.FlexVolume != nil:
		return v.FlexVolume.SecretRef
	case v.ISCSI != nil:
		return v.ISCSI.SecretRef
	case v.RBD != nil:
		return v.RBD.SecretRef
	case v.ScaleIO != nil:
		return v.ScaleIO.SecretRef
	case v.StorageOS != nil:
		return v.StorageOS.SecretRef
	}
	return nil
}
