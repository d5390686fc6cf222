package legacytoken

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// pod creates a pod that a node runs, as far as the API server can tell. Its container mounts the volumes of which it
// names none.
func (c *cluster) pod(t *testing.T, namespace, name string, change func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace},
		Spec: corev1.PodSpec{
			NodeName:   "node",
			Containers: []corev1.Container{{Name: "main", Image: "example.com/main"}},
		},
	}
	change(p)
	if main := &p.Spec.Containers[0]; len(main.VolumeMounts) == 0 {
		for _, v := range p.Spec.Volumes {
			main.VolumeMounts = append(main.VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
		}
	}
	p, err := c.client.CoreV1().Pods(namespace).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func secretVolume(name string, items ...string) corev1.Volume {
	v := corev1.Volume{Name: "v-" + name}
	v.Secret = &corev1.SecretVolumeSource{SecretName: name}
	for _, key := range items {
		v.Secret.Items = append(v.Secret.Items, corev1.KeyToPath{Key: key, Path: key})
	}
	return v
}

func projectedVolume(name string) corev1.Volume {
	yes := true
	v := corev1.Volume{Name: "v-" + name}
	v.Projected = &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{
		LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &yes,
	}}}}
	return v
}

// testPods has a pod for each way to use a Secret, or to have nothing to do with it.
func testPods(t *testing.T, c *cluster) {
	c.fill(t, "a", 1)
	c.fill(t, "b", 1)
	const secret = "token-00000"
	mount := func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{secretVolume(secret)} }
	pods := map[string]func(*corev1.Pod){
		"mounts":    mount,
		"projects":  func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{projectedVolume(secret)} },
		"item":      func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{secretVolume(secret, "token")} },
		"not-token": func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{secretVolume(secret, "ca.crt")} },
		"other":     func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{secretVolume("other")} },
		"unbound":   func(p *corev1.Pod) { mount(p); p.Spec.NodeName = "" },
		"finished":  mount,
		"env": func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "T",
				ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
					LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: "token",
				}}}}
		},
		"env-from": func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{
				LocalObjectReference: corev1.LocalObjectReference{Name: secret},
			}}}
		},
		"sub-path": func(p *corev1.Pod) {
			mount(p)
			p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{
				{Name: "v-" + secret, MountPath: "/token", SubPath: "token"},
			}
		},
	}
	for name, change := range pods {
		c.pod(t, "a", name, change)
	}
	c.finish(t, "a", "finished")
	c.pod(t, "b", "mounts-b", mount)

	result := pass(t, &Refresher{Client: c.client}, targetOf(t, c.new))
	if got, want := c.notified(t), "a/item a/mounts a/projects a/sub-path b/mounts-b"; got != want {
		t.Errorf("notified were %s, want %s", got, want)
	}
	if result.Notified != 5 || result.Copied != 3 {
		t.Errorf("result = %+v, want 5 notified and 3 with a copy", result)
	}
	var copied []string
	for _, c := range result.Copies {
		copied = append(copied, c.Pod+" "+string(c.By))
	}
	slices.Sort(copied)
	if got := strings.Join(copied, ", "); got != "env environment, env-from environment, sub-path subPath" {
		t.Errorf("copies = %s", got)
	}
}

func (c *cluster) finish(t *testing.T, namespace, name string) {
	t.Helper()
	p, err := c.client.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.Status.Phase = corev1.PodSucceeded
	if _, err := c.client.CoreV1().Pods(namespace).UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// told returns the pods that were annotated for version 2.
func (c *cluster) notified(t *testing.T) string {
	t.Helper()
	list, err := c.client.CoreV1().Pods("").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range list.Items {
		if strings.HasPrefix(p.Annotations[v1alpha1.AnnotationTokenRefreshed], "2.") {
			names = append(names, p.Namespace+"/"+p.Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// testPodOfTwoSecrets checks that a pod changes after each of its Secrets: that is what makes its kubelet act.
func testPodOfTwoSecrets(t *testing.T, c *cluster) {
	all := c.fill(t, "a", 2)
	p := c.pod(t, "a", "both", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{secretVolume(all[0].Name), projectedVolume(all[1].Name)}
	})
	changes, err := c.client.CoreV1().Pods("a").Watch(t.Context(), metav1.ListOptions{ResourceVersion: p.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	r := &Refresher{Client: c.client}
	if result := pass(t, r, targetOf(t, c.new)); result.Notified != 2 {
		t.Errorf("result = %+v, want 2 notifications", result)
	}
	timeout := time.After(time.Minute)
	for n := range 2 {
		select {
		case e := <-changes.ResultChan():
			if e.Type != watch.Modified {
				t.Fatalf("event %s, want the pod to be modified", e.Type)
			}
		case <-timeout:
			t.Fatalf("the pod changed %d times, want 2", n)
		}
	}
}

// testCrashBeforePods loses the notifications of a walk, as if its process had died. Another Refresher makes up for
// them, once, and leaves alone the pods that came later.
func testCrashBeforePods(t *testing.T, c *cluster) {
	all := c.fill(t, "a", 3)
	mount := func(s *corev1.Secret) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Volumes = []corev1.Volume{secretVolume(s.Name)} }
	}
	for i, s := range all {
		c.pod(t, "a", fmt.Sprint("early-", i), mount(s))
	}
	var patches atomic.Int64
	config := kubetest.Inject(c.config, func(r *http.Request) kubetest.Fault {
		if r.Method == http.MethodPatch && patches.Add(1) > 0 {
			return kubetest.LoseRequest
		}
		return kubetest.None
	})
	result := pass(t, &Refresher{Client: newClient(t, config)}, targetOf(t, c.new))
	if result.Resigned != 3 || result.Notified != 0 || patches.Load() != 3 {
		t.Fatalf("result = %+v with %d patches, want 3 re-signed and all notifications lost", result, patches.Load())
	}
	c.nextSecond(t, c.get(t, all[2]))
	c.pod(t, "a", "late", mount(all[0]))
	r := &Refresher{Client: c.client}
	result = pass(t, r, targetOf(t, c.new))
	if got, want := c.notified(t), "a/early-0 a/early-1 a/early-2"; result.Notified != 3 || !result.Proven() ||
		got != want {
		t.Errorf("result = %+v, notified were %s, want a proof and %s", result, got, want)
	}
	if result = pass(t, r, targetOf(t, c.new)); result.Notified != 0 {
		t.Errorf("result = %+v, want nobody notified twice", result)
	}
}

// nextSecond waits until the API server's clock, which objects tell in whole seconds, is past the time of a re-signing.
func (c *cluster) nextSecond(t *testing.T, s *corev1.Secret) {
	t.Helper()
	at, ok := resignedAt(s)
	if !ok {
		t.Fatal("managedFields do not tell when the Secret was re-signed")
	}
	for i := range 100 {
		now := c.pod(t, "a", fmt.Sprint("clock-", i), func(*corev1.Pod) {}).CreationTimestamp
		if now.After(at) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("the API server's clock stands still")
}
