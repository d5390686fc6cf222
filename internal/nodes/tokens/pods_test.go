package tokens

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

func TestSubPathToken(t *testing.T) {
	tests := []struct {
		name   string
		change func(*corev1.Pod)
		want   string
	}{
		{"no subPath", nil, ""},
		{"of the file", func(p *corev1.Pod) { p.Spec.Containers[0].VolumeMounts[0].SubPath = "token" }, "api"},
		{"of another volume", func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts[0] = corev1.VolumeMount{Name: "scratch", SubPath: "token"}
		}, ""},
		{"by an init container that has ended", func(p *corev1.Pod) {
			p.Spec.InitContainers[0].VolumeMounts = []corev1.VolumeMount{{Name: "api", SubPath: "token"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{
				Name: "first", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}},
			}}
		}, ""},
	}
	for _, test := range tests {
		if got, found := subPathToken(tokenPod(test.change)); got != test.want || found != (test.want != "") {
			t.Errorf("%s: %q, %t, want %q", test.name, got, found, test.want)
		}
	}
}

// TestTokenMounts leaves out what no API server issues for the pod.
func TestTokenMounts(t *testing.T) {
	pod := tokenPod(func(p *corev1.Pod) {
		p.Spec.Volumes[2].VolumeSource = corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "legacy"}}
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "scratch"})
	})
	var volumes []string
	for _, m := range tokenMounts(pod) {
		volumes = append(volumes, m.Volume)
	}
	if !slices.Equal(volumes, []string{"api", "vault"}) {
		t.Errorf("tokens are mounted from the volumes %v", volumes)
	}
}

func TestRenewal(t *testing.T) {
	if got, want := Renewal(tokenPod(nil)), 48*time.Minute+5600*time.Millisecond+RenewalSlack; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	long := func(p *corev1.Pod) {
		*p.Spec.Volumes[1].Projected.Sources[1].ServiceAccountToken.ExpirationSeconds = 1 << 32
	}
	if got, want := Renewal(tokenPod(long)), maxRenewal+RenewalSlack; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := Renewal(&corev1.Pod{}); got != 0 {
		t.Errorf("%s of a pod without tokens", got)
	}
}
