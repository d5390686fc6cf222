// Package agentpod has the objects that run keyturn-agent on the control-plane nodes of a cluster: a Namespace and a
// DaemonSet in it. They are there only while something on these nodes has to change.
//
// The pods have no service account token, no port and no network of their own. They are root on their nodes by three
// directories of the host, and have no more of it: not privileged, no process or IPC namespace of the host, and two
// capabilities, to keep the owners of files and to read files of other owners.
package agentpod

import (
	"path"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/keyturn/keyturn/internal/agent/agentcmd"
)

// The names of the objects.
const (
	Name = "keyturn-agent"
	// KeyContainer is the init container whose termination message is the public key of a pod's start.
	KeyContainer = "key"
	// Container is where a controller runs `keyturn-agent apply`.
	Container = "agent"
)

// Options are where the agent runs.
type Options struct {
	Namespace string
	Image     string
	// PKI is kubeadm's certificatesDir, Manifests the directory of static pods, and StateDir the one of agent and signer.
	PKI, Manifests, StateDir string
}

// Kubeadm returns where the agent runs on nodes that kubeadm made with a certificatesDir.
func Kubeadm(namespace, image, certificatesDir string) Options {
	return Options{namespace, image, certificatesDir, "/etc/kubernetes/manifests", stateDir}
}

const (
	program  = "/keyturn-agent"
	keyDir   = "/run/keyturn"
	stateDir = "/var/lib/keyturn"
)

// SignerDir is the directory of the signer's socket and ledger on such nodes.
const SignerDir = stateDir + "/signer"

func (o Options) flags(command string) []string {
	return []string{
		program, command, "--key-file=" + path.Join(keyDir, "key"),
		"--pki-dir=" + o.PKI, "--manifest-dir=" + o.Manifests, "--state-dir=" + o.StateDir,
	}
}

// Apply returns the command that a controller runs in Container, with an order on standard input.
func (o Options) Apply() []string { return o.flags("apply") }

// NamespaceObject returns the namespace, in which pods may see directories of the host.
func (o Options) NamespaceObject() *corev1.Namespace {
	return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{
		Name: o.Namespace,
		Labels: map[string]string{
			"app.kubernetes.io/managed-by":       "keyturn",
			"pod-security.kubernetes.io/enforce": "privileged",
		},
	}}
}

// DaemonSet returns the DaemonSet.
func (o Options) DaemonSet() *appsv1.DaemonSet {
	labels := map[string]string{"app.kubernetes.io/name": Name}
	everywhere := intstr.FromString("100%") // an agent that is missing is out of nobody's way
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: o.Namespace, Name: Name, Labels: labels},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: o.pod()},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type:          appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxUnavailable: &everywhere},
			},
		},
	}
}

func (o Options) pod() corev1.PodSpec {
	init := o.container(KeyContainer, []string{program, "key", "--key-file=" + path.Join(keyDir, "key")})
	init.SecurityContext.Capabilities.Add = nil
	init.TerminationMessagePolicy = corev1.TerminationMessageReadFile // never the log
	init.VolumeMounts = []corev1.VolumeMount{{Name: "key", MountPath: keyDir}}
	main := o.container(Container, o.flags("run"))
	main.VolumeMounts = []corev1.VolumeMount{
		{Name: "key", MountPath: keyDir, ReadOnly: true},
		{Name: "pki", MountPath: o.PKI},
		{Name: "manifests", MountPath: o.Manifests},
		{Name: "state", MountPath: o.StateDir},
	}
	return corev1.PodSpec{
		Affinity:                     controlPlane(),
		Tolerations:                  []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		PriorityClassName:            "system-node-critical",
		HostNetwork:                  true, // it starts without a network for pods, and asks kube-apiserver on this node
		DNSPolicy:                    corev1.DNSDefault,
		AutomountServiceAccountToken: new(false),
		EnableServiceLinks:           new(false),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsUser: new(int64(0)), RunAsGroup: new(int64(0)), RunAsNonRoot: new(false),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
			SELinuxOptions: &corev1.SELinuxOptions{Type: "spc_t"},
		},
		TerminationGracePeriodSeconds: new(int64(10)),
		InitContainers:                []corev1.Container{init},
		Containers:                    []corev1.Container{main},
		Volumes: []corev1.Volume{
			{Name: "key", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{
				Medium: corev1.StorageMediumMemory,
			}}},
			hostDirectory("pki", o.PKI, corev1.HostPathDirectory),
			hostDirectory("manifests", o.Manifests, corev1.HostPathDirectory),
			hostDirectory("state", o.StateDir, corev1.HostPathDirectoryOrCreate),
		},
	}
}

// controlPlane has pods run on the nodes with the label of the control plane, which others may have given a value.
func controlPlane() *corev1.Affinity {
	return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
		RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
			NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{
				{Key: "node-role.kubernetes.io/control-plane", Operator: corev1.NodeSelectorOpExists},
			}}},
		},
	}}
}

func (o Options) container(name string, command []string) corev1.Container {
	return corev1.Container{
		Name: name, Image: o.Image, ImagePullPolicy: corev1.PullIfNotPresent, Command: command,
		Env: []corev1.EnvVar{{Name: agentcmd.PodUIDVariable, ValueFrom: &corev1.EnvVarSource{
			FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"},
		}}},
		SecurityContext: &corev1.SecurityContext{
			Privileged: new(false), AllowPrivilegeEscalation: new(false), ReadOnlyRootFilesystem: new(true),
			Capabilities: &corev1.Capabilities{
				Drop: []corev1.Capability{"ALL"},
				Add:  []corev1.Capability{"CHOWN", "DAC_READ_SEARCH"},
			},
		},
	}
}

func hostDirectory(name, path string, kind corev1.HostPathType) corev1.Volume {
	source := &corev1.HostPathVolumeSource{Path: path, Type: &kind}
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: source}}
}
