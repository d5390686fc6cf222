package podtokens_test

import (
	"fmt"
	"math/rand"
	"reflect"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/randfill"

	"github.com/keyturn/keyturn/internal/podtokens"
)

// FuzzOf has no pod hide a token: each mention of one that a walk over the pod finds, by the types of its fields and
// nothing else, is in the answer. The corpus is of seeds, so that a plain test covers some thousand pods.
func FuzzOf(f *testing.F) {
	for seed := range int64(3000) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed int64) {
		pod := randomPod(seed)
		tokens := podtokens.Of(pod, podtokens.Cluster{})
		for _, mention := range mentions(pod) {
			if !slices.ContainsFunc(tokens, mention.is) {
				t.Errorf("%+v is not in %+v", mention, tokens)
			}
		}
	})
}

// randomPod has few names, so that the parts of a pod often mean each other.
func randomPod(seed int64) *corev1.Pod {
	names := []string{"a", "b", "c"}
	paths := []string{"token", "deep/token", "..data", "a", "."}
	pod := &corev1.Pod{}
	filler := randfill.NewWithSeed(seed).NilChance(0.4).NumElements(0, 3).MaxDepth(14).Funcs(
		func(m *corev1.VolumeMount, r randfill.Continue) {
			m.Name = names[r.Intn(len(names))]
			if r.Bool() {
				m.SubPath = paths[r.Intn(len(paths))]
			}
		},
		func(s *corev1.ServiceAccountTokenProjection, r randfill.Continue) {
			s.Path, s.Audience = paths[r.Intn(2)], []string{"", "vault"}[r.Intn(2)]
		},
		func(s *corev1.SecretKeySelector, r randfill.Continue) { s.Name, s.Key = names[r.Intn(3)], "token" },
		func(i *corev1.KeyToPath, r randfill.Continue) { i.Key, i.Path = "token", paths[r.Intn(2)] },
	)
	filler.Fill(&pod.Spec)
	random := rand.New(rand.NewSource(seed))
	for i := range pod.Spec.Volumes {
		pod.Spec.Volumes[i].Name = names[i%len(names)]
		onlyOne(&pod.Spec.Volumes[i].VolumeSource, random)
	}
	return pod
}

// onlyOne leaves one source to a volume, as the API server does.
func onlyOne(source *corev1.VolumeSource, random *rand.Rand) {
	fields := reflect.ValueOf(source).Elem()
	kept := random.Intn(fields.NumField())
	if random.Intn(3) == 0 {
		projected, _ := fields.Type().FieldByName("Projected")
		kept = projected.Index[0]
	}
	for i := range fields.NumField() {
		if i != kept {
			fields.Field(i).SetZero()
		}
	}
}

// mention is one mention of a token in a pod.
type mention struct {
	secret    string // empty: an issued token
	volume    string // that has it; empty: the environment
	container string
}

// is reports whether a token is the one that is mentioned.
func (m mention) is(t podtokens.Token) bool {
	return t.Secret == m.secret && t.Volume == m.volume && (m.container == "" || t.Container == m.container)
}

// mentions walks over a pod.
func mentions(pod *corev1.Pod) []mention {
	var found []mention
	mounted := map[string]bool{}
	walk(reflect.ValueOf(pod.Spec), func(v any) {
		switch v := v.(type) {
		case corev1.VolumeMount:
			mounted[v.Name] = true
		case corev1.VolumeDevice:
			mounted[v.Name] = true
		}
	})
	for _, v := range pod.Spec.Volumes {
		if mounted[v.Name] {
			walk(reflect.ValueOf(v), func(x any) { found = append(found, inVolume(v.Name, x)...) })
		}
	}
	eachContainer(pod, func(name string, v reflect.Value) {
		walk(v, func(x any) { found = append(found, inContainer(name, x)...) })
	})
	return found
}

func eachContainer(pod *corev1.Pod, do func(name string, v reflect.Value)) {
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		do(c.Name, reflect.ValueOf(c))
	}
	for _, c := range pod.Spec.EphemeralContainers {
		do(c.Name, reflect.ValueOf(c))
	}
}

func inVolume(volume string, v any) []mention {
	switch v := v.(type) {
	case corev1.SecretVolumeSource:
		return []mention{{secret: v.SecretName, volume: volume}}
	case corev1.SecretProjection:
		return []mention{{secret: v.Name, volume: volume}}
	case corev1.ServiceAccountTokenProjection:
		return []mention{{volume: volume}}
	case corev1.AzureFileVolumeSource:
		return driverMention(volume, &corev1.LocalObjectReference{Name: v.SecretName})
	case corev1.CSIVolumeSource:
		return driverMention(volume, v.NodePublishSecretRef)
	}
	// Every other reference to a Secret is called SecretRef, in a struct that holds nothing else of that type.
	if s := reflect.ValueOf(v); s.Kind() == reflect.Struct {
		if f := s.FieldByName("SecretRef"); f.IsValid() && f.Type() == reflect.TypeFor[*corev1.LocalObjectReference]() {
			return driverMention(volume, f.Interface().(*corev1.LocalObjectReference))
		}
	}
	return nil
}

func driverMention(volume string, ref *corev1.LocalObjectReference) []mention {
	if ref == nil || ref.Name == "" {
		return nil
	}
	return []mention{{secret: ref.Name, volume: volume}}
}

func inContainer(container string, v any) []mention {
	switch v := v.(type) {
	case corev1.SecretKeySelector:
		return []mention{{secret: v.Name, container: container}}
	case corev1.SecretEnvSource:
		return []mention{{secret: v.Name, container: container}}
	}
	return nil
}

// walk calls do for every struct in v.
func walk(v reflect.Value, do func(any)) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			walk(v.Elem(), do)
		}
	case reflect.Slice:
		for i := range v.Len() {
			walk(v.Index(i), do)
		}
	case reflect.Struct:
		do(v.Interface())
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				walk(v.Field(i), do)
			}
		}
	}
}

// TestRandomPods sees to it that the random pods have something to find.
func TestRandomPods(t *testing.T) {
	ways := map[string]int{}
	for seed := range int64(3000) {
		for _, token := range podtokens.Of(randomPod(seed), podtokens.Cluster{}) {
			ways[fmt.Sprintf("%s by %s", token.Kind, token.Way)]++
		}
	}
	for _, want := range []string{
		"Bound by file", "ThirdParty by file", "Legacy by file",
		"Legacy by subPath", "Legacy by environment", "Legacy by driver",
	} {
		if ways[want] == 0 {
			t.Errorf("no pod has a token %s: %v", want, ways)
		}
	}
}
