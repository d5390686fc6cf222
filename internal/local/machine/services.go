package machine

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/local/image"
	"github.com/keyturn/keyturn/internal/local/machine/guest"
)

// More paths inside a machine.
const (
	kubeletBinary   = "/opt/keyturn/kubelet"
	kubeProxyBinary = "/opt/keyturn/kube-proxy"
	kubeadmBinary   = "/opt/keyturn/kubeadm"
	coreDNSBinary   = "/opt/keyturn/coredns"
	// kubeadmKubeconfig is the kubeconfig of the kubelet if kubeadm made the node.
	kubeadmKubeconfig = "/etc/kubernetes/kubelet.conf"
	// kubeletDropIns is the directory, in /etc, of what such a kubelet gets in addition to the configuration of
	// kubeadm.
	kubeletDropIns = "keyturn/kubelet.d"
	imageDir       = "/opt/keyturn/images"
	criSocket      = "/run/containerd/containerd.sock"
)

// services returns what a machine runs: containerd, then the import of images in parallel to the kubelet and, as soon
// as the kubelet has a certificate, kube-proxy and CoreDNS with the same certificate.
func services(spec Spec, archives []string) []guest.Service {
	list := []guest.Service{
		{Name: "containerd", Path: "/usr/bin/containerd", Args: []string{"--config=/etc/containerd/config.toml"}},
		{Name: "masquerade", Path: "/usr/sbin/nft", Args: []string{"-f", "/etc/masquerade.nft"}, Once: true},
	}
	var imported []string
	for _, archive := range archives {
		name := "image-" + strings.TrimSuffix(filepath.Base(archive), ".tar")
		imported = append(imported, guest.Done(name))
		list = append(list, guest.Service{
			Name: name, Path: "/usr/bin/ctr", Once: true, After: []string{criSocket},
			Args: []string{"--namespace=k8s.io", "images", "import", filepath.Join(imageDir, filepath.Base(archive))},
		})
	}
	if spec.UserData {
		list = append(list, firstBoot(imported))
	}
	if spec.Kubeadm {
		return append(list, kubeletOfKubeadm(imported), kubeProxy(kubeadmKubeconfig))
	}
	return append(list, kubelet(spec, imported), kubeProxy(kubeconfigPath), coreDNS())
}

// kubelet starts after the images were imported, since a pod that comes first would wait for its next attempt.
func kubelet(spec Spec, imported []string) guest.Service {
	return guest.Service{
		Name: "kubelet", Path: kubeletBinary, After: append([]string{criSocket}, imported...),
		Args: []string{
			"--config=/etc/kubernetes/kubelet.json",
			"--kubeconfig=" + kubeconfigPath,
			"--bootstrap-kubeconfig=" + varPath + bootstrapPath,
			"--hostname-override=" + spec.Name,
			"--node-ip=" + spec.Port.Address.Addr().String(),
			"--node-labels=" + nodeLabels(spec),
		},
	}
}

// kubeletOfKubeadm starts once kubeadm has configured it, with the arguments of the systemd unit in the Kubernetes
// packages. What it needs in a machine is in the directory of drop-in files: neither kubeadm's configuration nor other
// tools that change it must know about machines.
func kubeletOfKubeadm(imported []string) guest.Service {
	const config, flags = "/var/lib/kubelet/config.yaml", "/var/lib/kubelet/kubeadm-flags.env"
	return guest.Service{
		Name: "kubelet", Path: "/bin/sh", After: append([]string{criSocket, config, flags}, imported...),
		Args: []string{"-c", ". " + flags + "; exec " + kubeletBinary + " --config=" + config +
			" --config-dir=/etc/" + kubeletDropIns + " --kubeconfig=" + kubeadmKubeconfig +
			" --bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf" +
			" $KUBELET_KUBEADM_ARGS"},
	}
}

func kubeProxy(kubeconfig string) guest.Service {
	return guest.Service{
		Name: "kube-proxy", Path: kubeProxyBinary, After: []string{kubeconfig, varPath + certificatePath},
		Args: []string{"--config=/etc/keyturn/kube-proxy.json"},
	}
}

// coreDNS answers the pods of its own machine, so that no pod of the cluster is needed for that. Clusters of kubeadm
// have the pods that kubeadm makes.
func coreDNS() guest.Service {
	return guest.Service{
		Name: "coredns", Path: coreDNSBinary, After: []string{kubeconfigPath, varPath + certificatePath},
		Args: []string{"-conf=/etc/keyturn/Corefile"},
	}
}

// corefile is the configuration of CoreDNS. It knows the names of the cluster; a machine reaches nothing else that has
// one.
const corefile = `.:53 {
	errors
	kubernetes cluster.local in-addr.arpa ip6.arpa {
		kubeconfig ` + kubeconfigPath + `
	}
}
`

func nodeLabels(spec Spec) string {
	labels := maps.Clone(spec.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	labels[v1alpha1.LabelNodePool] = spec.Pool
	labels[v1alpha1.LabelKeyVersion] = fmt.Sprint(spec.KeyVersion)
	var pairs []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		pairs = append(pairs, key+"="+labels[key])
	}
	return strings.Join(pairs, ",")
}

// containerdConfig: without CAP_SYS_RESOURCE, which root itself lacks in some virtual machines, nobody may lower a
// process's OOM score; restrict_oom_score_adj uses the lowest possible one. A containerd whose CRI plugin does not load
// is useless: it should exit, and is restarted.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
required_plugins = ["io.containerd.grpc.v1.cri"]
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]

[debug]
  level = "warn"

[grpc]
  address = "` + criSocket + `"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "` + image.Pause + `"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/opt/cni/bin"
    conf_dir = "/etc/cni/net.d"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
`

// cniConfig connects each pod by a route: no bridge, whose filtering would depend on a module of the host. Addresses
// are assigned again after a restart of the machine, like its pods.
func cniConfig(spec Spec) []byte {
	return encode(map[string]any{
		"cniVersion": "1.0.0",
		"name":       "keyturn",
		"plugins": []any{map[string]any{
			"type": "ptp",
			"ipam": map[string]any{
				"type":    "host-local",
				"dataDir": "/run/cni/addresses",
				"ranges":  []any{[]any{map[string]any{"subnet": spec.PodRange.String()}}},
				"routes":  []any{map[string]any{"dst": "0.0.0.0/0"}},
			},
		}},
	})
}

// masqueradeRules let pods send, as the machine, to addresses that have no route back to them. Pods see each other's
// own addresses.
func masqueradeRules(spec Spec) []byte {
	return fmt.Appendf(nil, `table ip keyturn
delete table ip keyturn
table ip keyturn {
	chain postrouting {
		type nat hook postrouting priority srcnat;
		ip saddr %s ip daddr != %s masquerade
	}
}
`, spec.PodRange, spec.PodCIDR)
}

// baseKubeletConfig returns what a KubeletConfiguration (kubelet.config.k8s.io/v1beta1) needs in a machine. The
// machine's control group already holds all of its pods, so the kubelet needs no groups for them.
func baseKubeletConfig() map[string]any {
	return map[string]any{
		"apiVersion":                "kubelet.config.k8s.io/v1beta1",
		"kind":                      "KubeletConfiguration",
		"rotateCertificates":        true,
		"containerRuntimeEndpoint":  "unix://" + criSocket,
		"resolvConf":                "/etc/resolv.conf",
		"cgroupDriver":              "cgroupfs",
		"cgroupsPerQOS":             false,
		"enforceNodeAllocatable":    []string{"none"},
		"failCgroupV1":              false,
		"failSwapOn":                false,
		"oomScoreAdj":               0,
		"makeIPTablesUtilChains":    false,
		"maxPods":                   110,
		"nodeStatusUpdateFrequency": "2s",
		"kubeAPIQPS":                100,
		"kubeAPIBurst":              200,
		"serializeImagePulls":       false,
		"configMapAndSecretChangeDetectionStrategy": "Watch",
		// The disk is the host's: the kubelet must not evict pods, or delete images that nobody can pull again.
		"evictionHard": map[string]any{
			"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%",
			"imagefs.inodesFree": "0%",
		},
		"imageGCHighThresholdPercent": 100,
		"volumePluginDir":             "/var/lib/kubelet/volume-plugins",
	}
}

// kubeletDropIn returns what the kubelet of a machine of kubeadm gets in addition to the configuration of kubeadm.
func kubeletDropIn(spec Spec) []byte {
	config := baseKubeletConfig()
	if spec.ProviderID != "" {
		config["providerID"] = spec.ProviderID
	}
	return encode(config)
}

// kubeletConfig is the configuration of a kubelet that joins without kubeadm.
func kubeletConfig(spec Spec) []byte {
	config := baseKubeletConfig()
	config["authentication"] = map[string]any{
		"anonymous": map[string]any{"enabled": false},
		"webhook":   map[string]any{"enabled": true},
		"x509":      map[string]any{"clientCAFile": caPath},
	}
	config["authorization"] = map[string]any{"mode": "Webhook"}
	config["clusterDNS"] = []string{spec.Port.Address.Addr().String()}
	config["clusterDomain"] = "cluster.local"
	if len(spec.Taints) > 0 {
		config["registerWithTaints"] = spec.Taints
	}
	return encode(config)
}

// kubeProxyConfig returns a KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1). It does not change the limits of
// connection tracking, which are the host's.
func kubeProxyConfig(spec Spec) []byte {
	kubeconfig := kubeconfigPath
	if spec.Kubeadm {
		kubeconfig = kubeadmKubeconfig
	}
	return encode(map[string]any{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"mode":               "nftables",
		"clusterCIDR":        spec.PodCIDR.String(),
		"hostnameOverride":   spec.Name,
		"bindAddress":        spec.Port.Address.Addr().String(),
		"healthzBindAddress": "127.0.0.1:10256",
		"metricsBindAddress": "127.0.0.1:10249",
		"clientConnection":   map[string]any{"kubeconfig": kubeconfig},
		"conntrack": map[string]any{
			"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s",
		},
		"nftables": map[string]any{"minSyncPeriod": "100ms"},
	})
}
