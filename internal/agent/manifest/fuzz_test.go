package manifest_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/internal/agent/manifest"
)

// small is all that an edit needs.
const small = `apiVersion: v1
kind: Pod
metadata:
  name: kube-apiserver
spec:
  containers:
  - command:
    - kube-apiserver
    - --service-account-key-file=/etc/kubernetes/pki/sa.pub
    - --service-account-signing-key-file=/etc/kubernetes/pki/sa.key
    name: kube-apiserver
    volumeMounts:
    - mountPath: /etc/kubernetes/pki
      name: k8s-certs
  volumes:
  - hostPath: {path: /etc/kubernetes/pki}
    name: k8s-certs
`

// FuzzEdit edits any text. What comes out must decode, as a Pod of the Kubernetes API, to the Pod of before with that
// one change, and every line that was not asked for must still be there.
func FuzzEdit(f *testing.F) {
	f.Add(file(f, "by-hand.yaml"))
	for _, seed := range []string{
		small, strings.ReplaceAll(small, "- --", "- '--"),
		"", "a", "kind: Pod\napiVersion: v1\nspec: {containers: [{name: kube-apiserver, command: [kube-apiserver, " +
			"--a=b]}]}\n",
		"*metadata : {}\nkind: Pod\napiVersion: v1\n", "? metadata\n: annotations: \n", "a: &a [*a]\n", "!!binary bWV0: x\n",
		"spec:\n  containers:\n  - &c\n    name: kube-apiserver\n    command:\n    - kube-apiserver\n    - --x=y\nkind: " +
			"Pod\napiVersion: v1\n" +
			"metadata:\n  <<: {annotations: {a.b/c: d}}\n  name: x\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		m, err := manifest.Parse(text)
		if err != nil {
			return
		}
		for _, w := range []manifest.Want{{Restart: "aaaa-1"}, {Restart: "aaaa-1", RetryAfter: true, External: true}} {
			next, err := m.With(w, kubeadmKeys)
			if err != nil {
				continue
			}
			checkMeaning(t, m, next, w)
			if !subsequence(lines(m), lines(next), allowed(w)) {
				t.Errorf("%+v changed more than its lines:\n%s", w, next.Text())
			}
		}
	})
}

func lines(m *manifest.Manifest) []string { return strings.Split(string(m.Text()), "\n") }

// allowed is how many lines may be missing: those of a value and of flags that are replaced.
func allowed(w manifest.Want) int {
	if w.External {
		return 3
	}
	return 1
}

// subsequence reports whether all lines but a few come in the other text, in their order.
func subsequence(before, after []string, missing int) bool {
	for _, line := range before {
		if i := slices.Index(after, line); i >= 0 {
			after = after[i+1:]
		} else if missing--; missing < 0 {
			return false
		}
	}
	return true
}

// checkMeaning does to the decoded Pod what the edit has to do to its text.
func checkMeaning(t *testing.T, before, after *manifest.Manifest, w manifest.Want) {
	t.Helper()
	var want, got corev1.Pod
	if yaml.Unmarshal(before.Text(), &want) != nil {
		return // not a Pod: the kubelet would not start it
	}
	if err := yaml.Unmarshal(after.Text(), &got); err != nil {
		t.Fatalf("not a Pod any more: %v", err)
	}
	if want.Annotations == nil {
		want.Annotations = map[string]string{}
	}
	want.Annotations[manifest.RestartAnnotation] = w.Restart
	c := &want.Spec.Containers[slices.IndexFunc(want.Spec.Containers,
		func(c corev1.Container) bool { return c.Name == manifest.Container })]
	if w.RetryAfter && len(before.Flag("shutdown-send-retry-after")) == 0 {
		want.Annotations["keyturn.dev/added-flag"] = "shutdown-send-retry-after"
		insertFirstFlag(c, "--shutdown-send-retry-after=true")
	}
	if external, _ := before.External(kubeadmKeys); w.External && !external {
		convert(&c.Command)
		convert(&c.Args)
		c.VolumeMounts = slices.Insert(c.VolumeMounts, 0, corev1.VolumeMount{
			Name: "keyturn-signer", MountPath: "/var/lib/keyturn/signer", ReadOnly: true,
		})
		directory := corev1.HostPathDirectory
		want.Spec.Volumes = slices.Insert(want.Spec.Volumes, 0, corev1.Volume{
			Name: "keyturn-signer", VolumeSource: corev1.VolumeSource{
				HostPath: &corev1.HostPathVolumeSource{Path: "/var/lib/keyturn/signer", Type: &directory},
			},
		})
	}
	if !w.RetryAfter {
		if value, ok := before.Annotation("keyturn.dev/added-flag"); ok && value == "shutdown-send-retry-after" {
			return // it takes its own flag out, which the golden files show
		}
	}
	if !reflect.DeepEqual(want, got) {
		t.Errorf("%+v: the Pod changed otherwise:\n%s\n---\n%s", w, before.Text(), after.Text())
	}
}

func insertFirstFlag(c *corev1.Container, flag string) {
	for _, list := range []struct {
		items *[]string
		from  int
	}{{&c.Command, 1}, {&c.Args, 0}} {
		for i := list.from; i < len(*list.items); i++ {
			if strings.HasPrefix((*list.items)[i], "--") {
				*list.items = slices.Insert(*list.items, i, flag)
				return
			}
		}
	}
}

func convert(items *[]string) {
	var kept []string
	for _, item := range *items {
		name, _, _ := strings.Cut(strings.ReplaceAll(strings.TrimPrefix(item, "--"), "_", "-"), "=")
		switch {
		case !strings.HasPrefix(item, "--"):
			kept = append(kept, item)
		case name == "service-account-signing-key-file":
			kept = append(kept, "--service-account-signing-endpoint=/var/lib/keyturn/signer/socket")
		case name != "service-account-key-file":
			kept = append(kept, item)
		}
	}
	if *items != nil && kept == nil {
		kept = []string{}
	}
	*items = kept
}
