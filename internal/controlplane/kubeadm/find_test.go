package kubeadm

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// ofKubeadm is a cluster whose certificatesDir is kubeadm's default.
var ofKubeadm = v1alpha1.Infrastructure{Kubeadm: &v1alpha1.KubeadmInfrastructure{}}

// world is a control plane as kubeadm makes it, with nodes a and b.
func world() objects {
	var o objects
	addresses := map[string]string{"a": "10.0.0.1", "b": "10.0.0.2"}
	endpoints := discoveryv1.EndpointSlice{}
	for _, node := range []string{"a", "b"} {
		o.nodes = append(o.nodes, corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: node}})
		o.pods = append(o.pods, mirror(apiServer, node,
			"--advertise-address="+addresses[node],
			"--secure-port=6443",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file=/etc/kubernetes/pki/sa.pub",
			"--service-account-signing-key-file=/etc/kubernetes/pki/sa.key",
			"--tls-private-key-file=/etc/kubernetes/pki/apiserver.key",
		), mirror(controllerManager, node, "--service-account-private-key-file=/etc/kubernetes/pki/sa.key"))
		endpoints.Endpoints = append(endpoints.Endpoints, discoveryv1.Endpoint{Addresses: []string{addresses[node]}})
	}
	o.endpoints = []discoveryv1.EndpointSlice{endpoints}
	return o
}

// mirror is the mirror pod of a component.
func mirror(component, node string, flags ...string) corev1.Pod {
	directory := corev1.HostPathDirectoryOrCreate
	return corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: component + "-" + node, Labels: map[string]string{componentLabel: component},
			Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "0123"},
		},
		Spec: corev1.PodSpec{
			NodeName: node,
			Containers: []corev1.Container{{
				Name: component, Command: append([]string{component}, flags...),
				VolumeMounts: []corev1.VolumeMount{{Name: "k8s-certs", MountPath: "/etc/kubernetes/pki", ReadOnly: true}},
			}},
			Volumes: []corev1.Volume{{Name: "k8s-certs", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: "/etc/kubernetes/pki", Type: &directory},
			}}},
		},
	}
}

// replace replaces flags in the pods of a component.
func (o objects) replace(component, old, now string) objects {
	for _, p := range o.of(component) {
		command := p.Spec.Containers[0].Command
		for i := range command {
			command[i] = strings.Replace(command[i], old, now, 1)
		}
	}
	return o
}

func TestExamine(t *testing.T) {
	f := world().examine()
	if len(f.Problems) > 0 {
		t.Errorf("a control plane of kubeadm has the problems %q", f.Problems)
	}
	if len(f.Servers) != 2 {
		t.Fatalf("found %+v", f.Servers)
	}
	s := f.Servers[1]
	if s.Node != "b" || s.Address != "10.0.0.2" || s.Port != 6443 || s.SignFile != "/etc/kubernetes/pki/sa.key" ||
		!slices.Equal(s.VerifyFiles, []string{"/etc/kubernetes/pki/sa.pub"}) || len(s.Issuers) != 1 {
		t.Errorf("found %+v", s)
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		name, want string
		world      objects
	}{
		{"an endpoint of nobody", "10.0.0.9 is on no node", func() objects {
			o := world()
			o.endpoints[0].Endpoints[1].Addresses[0] = "10.0.0.9"
			return o
		}()},
		{"no static pods", "was not made by kubeadm", objects{}},
		{
			"no key of its own", "no service account key of its own",
			world().replace(apiServer, "--service-account-signing-key-file=", "--other="),
		},
		{
			"the key of the certificate", "with the key of its serving certificate",
			world().replace(apiServer, "pki/sa.key", "pki/apiserver.key").
				replace(controllerManager, "pki/sa.key", "pki/apiserver.key"),
		},
		{
			"a key in no directory of the host", "in no directory of the host",
			world().replace(apiServer, "/etc/kubernetes/pki/sa.pub", "/etc/sa.pub"),
		},
		{
			"another key of kube-controller-manager", "must share one key",
			world().replace(controllerManager, "sa.key", "kcm.key"),
		},
		{"a wrapper", "does not run kube-apiserver directly", world().replace(apiServer, "kube-apiserver", "sh")},
		{"an argument that is no flag", "is not a flag", world().replace(apiServer, "--secure-port=6443", "serve")},
		{"a port that is none", "--secure-port=https", world().replace(apiServer, "port=6443", "port=https")},
		{"issuers that differ", "they must be the same", func() objects {
			o := world()
			o.pods[0].Spec.Containers[0].Command[3] += ".example"
			return o
		}()},
	} {
		problems := test.world.examine().Problems
		if !slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, test.want) }) {
			t.Errorf("%s: the problems are %q, want one with %q", test.name, problems, test.want)
		}
	}
}

// TestSpellings has flags with other spellings of the addresses that Service kubernetes has.
func TestSpellings(t *testing.T) {
	o := world().replace(apiServer, "10.0.0.1", "2001:DB8:0:0:0:0:0:1").replace(apiServer, "10.0.0.2", "::ffff:10.0.0.2")
	o.endpoints[0].Endpoints[0].Addresses[0] = "2001:db8::1"
	if f := o.examine(); len(f.Problems) > 0 || !f.Servers[0].Listed || !f.Servers[1].Listed {
		t.Errorf("found %+v", f)
	}
}

// A node whose API server does not show itself counts, and a node that is gone does not.
func TestNodesWithout(t *testing.T) {
	o := world()
	o.nodes = append(o.nodes[:1], corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "c"}})
	f := o.examine()
	if len(f.Servers) != 3 || f.Servers[0].Leaving || !f.Servers[1].Leaving || f.Servers[2].Leaving {
		t.Fatalf("found %+v", f.Servers)
	}
	if !strings.Contains(f.Servers[2].Waiting, "node c has the label") || f.Servers[0].Waiting != "" {
		t.Errorf("found %+v", f.Servers)
	}
	if !f.Servers[0].Listed || !f.Servers[1].Listed || f.Servers[2].Listed {
		t.Errorf("found %+v", f.Servers)
	}
	o.others = []string{"b"} // it only lacks the label
	f = o.examine()
	if f.Servers[1].Leaving {
		t.Errorf("found %+v", f)
	}
	// Any node can show a pod as if it had an API server. It gets no credentials, and no token to sign.
	if _, err := Config(&rest.Config{Host: "https://cluster.test"}, f.Servers[1]); err == nil ||
		!strings.Contains(err.Error(), "kubectl label node b "+controlPlaneLabel+"=") {
		t.Errorf("an API server on a node that is none of the control plane is asked: %v", err)
	}
}

// A mirror pod comes later than what it mirrors.
func TestLateMirrors(t *testing.T) {
	o := world()
	o.pods = nil
	f := o.examine()
	if len(f.Servers) != 2 || f.Servers[0].Waiting == "" || slices.ContainsFunc(f.Problems, func(p string) bool {
		return strings.Contains(p, "was not made by kubeadm")
	}) {
		t.Errorf("found %+v", f)
	}
}

// A signer in place of the key files is what Keyturn makes of a cluster.
func TestSigner(t *testing.T) {
	o := world().replace(apiServer, "--service-account-signing-key-file=/etc/kubernetes/pki/sa.key",
		"--service-account-signing-endpoint=/var/lib/keyturn/signer/socket")
	f := o.replace(apiServer, "--service-account-key-file=/etc/kubernetes/pki/sa.pub", "--v=2").examine()
	if len(f.Problems) > 0 || f.Servers[0].SignerSocket != "/var/lib/keyturn/signer/socket" ||
		len(f.unwritable(ofKubeadm)) > 0 {
		t.Errorf("found %+v", f)
	}
}

// TestUnwritableKeys finds API servers that have their keys from where the agent does not write.
func TestUnwritableKeys(t *testing.T) {
	for old, now := range map[string]string{
		"service-account-key-file=/etc/kubernetes/pki/sa.pub":      "service-account-key-file=/etc/kubernetes/pki/a.pub",
		"signing-key-file=/etc/kubernetes/pki/sa.key":              "signing-key-file=/etc/sa.key",
		"--secure-port=6443":                                       "--service-account-key-file=/etc/kubernetes/pki/more.pub",
		"--tls-private-key-file=/etc/kubernetes/pki/apiserver.key": "--service-account-signing-endpoint=/run/kms",
	} {
		f := world().replace(apiServer, old, now).examine()
		if got := f.unwritable(ofKubeadm); len(got) != 2 || !strings.Contains(got[1], "node b signs with") {
			t.Errorf("%s: %q", now, got)
		}
		f.Servers[0].Leaving = true
		if got := f.unwritable(ofKubeadm); len(got) != 1 {
			t.Errorf("%s, and one is to go: %q", now, got)
		}
	}
	if got := world().examine().unwritable(ofKubeadm); len(got) > 0 {
		t.Errorf("of kubeadm: %q", got)
	}
}

// TestCertificatesDir has kubeadm's files in the directory that kubespray has them in.
func TestCertificatesDir(t *testing.T) {
	elsewhere := world().replace(apiServer, "/etc/kubernetes/pki", "/etc/kubernetes/ssl").
		replace(controllerManager, "/etc/kubernetes/pki", "/etc/kubernetes/ssl")
	for i := range elsewhere.pods {
		elsewhere.pods[i].Spec.Containers[0].VolumeMounts[0].MountPath = "/etc/kubernetes/ssl"
		elsewhere.pods[i].Spec.Volumes[0].HostPath.Path = "/etc/kubernetes/ssl"
	}
	f := elsewhere.examine()
	const advice = "so set infrastructure.kubeadm.certificatesDir to /etc/kubernetes/ssl"
	if got := f.unwritable(ofKubeadm); len(f.Problems) > 0 || len(got) != 2 || !strings.Contains(got[0], advice) {
		t.Errorf("as kubeadm has it by default: %q, %q", f.Problems, got)
	}
	there := v1alpha1.Infrastructure{Kubeadm: &v1alpha1.KubeadmInfrastructure{CertificatesDir: "/etc/kubernetes/ssl"}}
	if got := f.unwritable(there); len(got) > 0 {
		t.Errorf("as it is configured: %q", got)
	}
	ofMachines := v1alpha1.Infrastructure{ClusterAPI: &v1alpha1.ClusterAPIInfrastructure{Cluster: "prod"}}
	if got := f.unwritable(ofMachines); len(got) != 2 || !strings.Contains(got[0], "so put the keys there") {
		t.Errorf("of Cluster API: %q", got)
	}
}

// Anybody who may create pods may label them.
func TestMirrors(t *testing.T) {
	forged := mirror(apiServer, "b")
	forged.Annotations = nil
	renamed := mirror(apiServer, "b")
	renamed.Name = "another"
	got := mirrors([]corev1.Pod{mirror(apiServer, "a"), forged, renamed})
	if len(got) != 1 || got[0].Spec.NodeName != "a" {
		t.Errorf("mirror pods are %v", got)
	}
}

func TestFlags(t *testing.T) {
	p := mirror(apiServer, "a", "--v", "3", "--one=x", "--one=y=z", "--profiling", "--last")
	p.Spec.Containers[0].Args = []string{"--more=1"}
	flags, err := flagsOf(p, apiServer)
	if err != nil {
		t.Fatal(err)
	}
	if flags.last("v") != "3" || !slices.Equal(flags["one"], []string{"x", "y=z"}) || flags.last("profiling") != "true" ||
		flags.last("last") != "true" || flags.last("more") != "1" || flags.last("none") != "" {
		t.Errorf("flags are %v", flags)
	}
}

// TestNoSigner names what would keep a kube-apiserver from running with a signer.
func TestNoSigner(t *testing.T) {
	yes, no, user, root := true, false, int64(1000), int64(0)
	pod := func(change func(*corev1.PodSpec)) objects {
		o := world()
		change(&o.pods[0].Spec)
		return o
	}
	const old = "--secure-port=6443"
	life := func(value string) objects {
		return world().replace(apiServer, old, "--service-account-max-token-expiration="+value)
	}
	for name, test := range map[string]struct {
		world objects
		want  string
	}{
		"as kubeadm makes it": {world(), ""},
		"root": {pod(func(s *corev1.PodSpec) {
			s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &root, RunAsNonRoot: &no}
			s.HostUsers = &yes
		}), ""},
		"a user of its pod": {pod(func(s *corev1.PodSpec) {
			s.SecurityContext = &corev1.PodSecurityContext{RunAsUser: &user}
		}), "node a does not run as root"},
		"a user of its container": {pod(func(s *corev1.PodSpec) {
			s.Containers[0].SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &yes}
		}), "node a does not run as root"},
		"a user namespace": {pod(func(s *corev1.PodSpec) { s.HostUsers = &no }), "node a does not run as root"},
		"a year":           {life("8760h"), ""},
		"more than a year": {life("8761h"), "node a has --service-account-max-token-expiration=8761h, and a signer signs"},
		"no time":          {life("soon"), "node a has --service-account-max-token-expiration=soon"},
	} {
		got := test.world.examine().Servers[0].NoSigner
		if (got != "") != (test.want != "") || !strings.Contains(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}
