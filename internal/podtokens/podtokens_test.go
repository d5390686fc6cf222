package podtokens_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/internal/podtokens"
)

// podOf parses a pod's YAML, strictly.
func podOf(t *testing.T, text string) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "blue", Name: "web"}}
	if err := yaml.UnmarshalStrict([]byte(text), pod); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
	return pod
}

// mounting is a pod whose only container mounts volume v as a whole.
func mounting(volume string) string {
	return "spec: {containers: [{name: main, volumeMounts: [{name: v, mountPath: /v}]}], " +
		"volumes: [{name: v, " + volume + "}]}"
}

// cluster has drivers that ask for tokens.
var cluster = podtokens.Cluster{
	Audiences: []string{"https://api.example.com"},
	Drivers: map[string]podtokens.CSIDriver{
		"vault.example.com": {TokenRequests: []podtokens.Request{{Audience: "vault", Expiration: time.Hour}}},
		"s3.example.com":    {TokenRequests: []podtokens.Request{{Audience: "sts"}, {}}, Republishes: true},
	},
	Claims: map[types.NamespacedName]string{
		{Namespace: "blue", Name: "data"}:  "s3.example.com",
		{Namespace: "red", Name: "other"}:  "s3.example.com",
		{Namespace: "blue", Name: "web-v"}: "vault.example.com",
	},
}

var (
	bound = podtokens.Token{
		Kind: podtokens.Bound, Way: podtokens.File, Volume: "v", Path: "token", Expiration: time.Hour,
		Refresh: podtokens.ByKubelet,
	}
	legacy = podtokens.Token{
		Kind: podtokens.Legacy, Secret: "s", Way: podtokens.File, Volume: "v", Path: "token",
		Refresh: podtokens.ByKubelet,
	}
	env = podtokens.Token{
		Kind: podtokens.Legacy, Secret: "s", Way: podtokens.Environment, Container: "main",
		Refresh: podtokens.ByContainer,
	}
	driver = podtokens.Token{
		Kind: podtokens.Legacy, Secret: "s", Way: podtokens.Driver, Volume: "v", Refresh: podtokens.ByPod,
	}
	vault = podtokens.Token{
		Kind: podtokens.ThirdParty, Audience: "vault", Way: podtokens.Driver, Volume: "v", Expiration: time.Hour,
		Refresh: podtokens.ByPod,
	}
)

// like is a token with something changed.
func like(t podtokens.Token, change func(*podtokens.Token)) podtokens.Token {
	change(&t)
	return t
}

// at is a token in a file of another path.
func at(t podtokens.Token, path string) podtokens.Token {
	return like(t, func(t *podtokens.Token) { t.Path = path })
}

// pinned is a token in a file that a container mounts by subPath.
func pinned(t podtokens.Token, container string, r podtokens.Refresh) podtokens.Token {
	return like(t, func(t *podtokens.Token) { t.Way, t.Container, t.Refresh = podtokens.SubPath, container, r })
}

// volumes has each source that a volume of a pod can have, by the name of its field.
var volumes = map[string][]struct {
	yaml string
	want []podtokens.Token
}{
	"secret": {
		{"secret: {secretName: s}", []podtokens.Token{legacy}},
		{"secret: {secretName: s, optional: true, items: [{key: token, path: deep/t}]}",
			[]podtokens.Token{at(legacy, "deep/t")}},
		{"secret: {secretName: s, items: [{key: ca.crt, path: token}]}", nil},
		{"secret: {secretName: s, items: [{key: token, path: a}, {key: token, path: b}]}",
			[]podtokens.Token{at(legacy, "a"), at(legacy, "b")}},
	},
	"projected": {
		{"projected: {sources: [{serviceAccountToken: {path: token}}]}", []podtokens.Token{bound}},
		{"projected: {sources: [{serviceAccountToken: {path: token, audience: https://api.example.com}}]}",
			[]podtokens.Token{like(bound, func(t *podtokens.Token) { t.Audience = "https://api.example.com" })}},
		{"projected: {sources: [{serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}}]}",
			[]podtokens.Token{like(bound, func(t *podtokens.Token) {
				t.Kind, t.Audience, t.Expiration = podtokens.ThirdParty, "vault", 10*time.Minute
			})}},
		{"projected: {sources: [{secret: {name: s}}, {serviceAccountToken: {path: t}}]}",
			[]podtokens.Token{legacy, at(bound, "t")}},
		{"projected: {sources: [{secret: {name: s, items: [{key: other, path: token}]}}]}", nil},
		{"projected: {sources: [{configMap: {name: c}}, {downwardAPI: {}}]}", nil},
		{"projected: {sources: [{clusterTrustBundle: {path: a}}, {podCertificate: {}}]}", nil},
	},
	"csi": {
		{"csi: {driver: vault.example.com}", []podtokens.Token{vault}},
		{"csi: {driver: other.example.com, nodePublishSecretRef: {name: s}}", []podtokens.Token{driver}},
		{"csi: {driver: other.example.com}", nil},
	},
	"persistentVolumeClaim": {
		{"persistentVolumeClaim: {claimName: data}", []podtokens.Token{
			{Kind: podtokens.ThirdParty, Audience: "sts", Way: podtokens.Driver, Volume: "v", Refresh: podtokens.ByKubelet},
			{Kind: podtokens.Bound, Way: podtokens.Driver, Volume: "v", Refresh: podtokens.ByKubelet},
		}},
		{"persistentVolumeClaim: {claimName: other}", nil}, // of another namespace
	},
	"ephemeral":  {{"ephemeral: {volumeClaimTemplate: {spec: {}}}", []podtokens.Token{vault}}},
	"azureFile":  {{"azureFile: {secretName: s, shareName: a}", []podtokens.Token{driver}}},
	"cephfs":     {{"cephfs: {monitors: [m], secretRef: {name: s}}", []podtokens.Token{driver}}},
	"cinder":     {{"cinder: {volumeID: a, secretRef: {name: s}}", []podtokens.Token{driver}}},
	"flexVolume": {{"flexVolume: {driver: d, secretRef: {name: s}}", []podtokens.Token{driver}}},
	"iscsi": {
		{"iscsi: {targetPortal: p, iqn: i, lun: 0, secretRef: {name: s}}", []podtokens.Token{driver}},
	},
	"rbd":                  {{"rbd: {monitors: [m], image: i, secretRef: {name: s}}", []podtokens.Token{driver}}},
	"scaleIO":              {{"scaleIO: {gateway: g, system: a, secretRef: {name: s}}", []podtokens.Token{driver}}},
	"storageos":            {{"storageos: {secretRef: {name: s}}", []podtokens.Token{driver}}, {"storageos: {}", nil}},
	"awsElasticBlockStore": {{"awsElasticBlockStore: {volumeID: a}", nil}},
	"azureDisk":            {{"azureDisk: {diskName: a, diskURI: b}", nil}},
	"configMap":            {{"configMap: {name: s}", nil}},
	"downwardAPI":          {{"downwardAPI: {}", nil}},
	"emptyDir":             {{"emptyDir: {}", nil}},
	"fc":                   {{"fc: {}", nil}},
	"flocker":              {{"flocker: {datasetName: a}", nil}},
	"gcePersistentDisk":    {{"gcePersistentDisk: {pdName: a}", nil}},
	"gitRepo":              {{"gitRepo: {repository: a}", nil}},
	"glusterfs":            {{"glusterfs: {endpoints: a, path: b}", nil}},
	"hostPath":             {{"hostPath: {path: /var/run/secrets}", nil}},
	"image":                {{"image: {reference: a}", nil}},
	"nfs":                  {{"nfs: {server: a, path: /token}", nil}},
	"photonPersistentDisk": {{"photonPersistentDisk: {pdID: a}", nil}},
	"portworxVolume":       {{"portworxVolume: {volumeID: a}", nil}},
	"quobyte":              {{"quobyte: {registry: a, volume: b}", nil}},
	"vsphereVolume":        {{"vsphereVolume: {volumePath: a}", nil}},
}

func TestVolumes(t *testing.T) {
	for f := range reflect.TypeFor[corev1.VolumeSource]().Fields() {
		field, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if len(volumes[field]) == 0 {
			t.Errorf("a volume can be a %s, of which it is not known whether it holds a token", field)
		}
	}
	for _, cases := range volumes {
		for _, c := range cases {
			check(t, mounting(c.yaml), c.want...)
		}
	}
}

func check(t *testing.T, pod string, want ...podtokens.Token) {
	t.Helper()
	if diff := cmp.Diff(want, podtokens.Of(podOf(t, pod), cluster)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", pod, diff)
	}
}

// TestCopies has containers that keep what they got when they started.
func TestCopies(t *testing.T) {
	const (
		both = "volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: token}}]}}]"
		deep = "volumes: [{name: v, projected: {sources: [{serviceAccountToken: {path: a/b/token}}]}}]"
	)
	mount := func(by string) string { return "{name: main, volumeMounts: [{name: v, mountPath: /v, " + by + "}]}" }
	main := pinned(bound, "main", podtokens.ByContainer)
	for by, want := range map[string]bool{
		"subPath: token": true, "subPath: ./token/": true, "subPath: ca.crt": false, "subPath: tok": false,
		"subPath: .": false, `subPath: ""`: false, "subPath: ..data": true, "subPath: ..data/token": true,
		"subPath: ..data/ca.crt":           false,
		"subPath: ..2026_11_26_23_00_00.1": true, "subPathExpr: $(NAME)": true,
	} {
		tokens := []podtokens.Token{bound}
		if want {
			tokens = append(tokens, main)
		}
		check(t, "spec: {containers: ["+mount(by)+"], "+both+"}", tokens...)
	}
	for by, want := range map[string]bool{
		"subPath: a": true, "subPath: a/b": true, "subPath: a/b/token": true, "subPath: b": false,
		"subPath: ..data/a": true,
	} {
		tokens := []podtokens.Token{at(bound, "a/b/token")}
		if want {
			tokens = append(tokens, at(main, "a/b/token"))
		}
		check(t, "spec: {containers: ["+mount(by)+"], "+deep+"}", tokens...)
	}
}

func TestEnvironment(t *testing.T) {
	const (
		byKey  = "env: [{name: T, valueFrom: {secretKeyRef: {name: s, key: token}}}]"
		byCert = "env: [{name: T, valueFrom: {secretKeyRef: {name: s, key: ca.crt}}}, {name: U, value: token}, " +
			"{name: W, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]"
		all = "envFrom: [{prefix: P_, secretRef: {name: s}}, {configMapRef: {name: s}}]"
	)
	check(t, "spec: {containers: [{name: main, "+byKey+"}]}", env)
	check(t, "spec: {containers: [{name: main, "+byCert+"}]}")
	check(t, "spec: {containers: [{name: main, "+all+"}]}", env)
	check(t, "spec: {containers: [{name: main, "+byKey+", "+all+"}]}", env)
	check(t, "spec: {containers: [{name: main, "+all+"}], volumes: [{name: v, secret: {secretName: s}}]}", env)
}

// TestContainers has one copy in a container of each sort, in each state.
func TestContainers(t *testing.T) {
	const main = "name: main, envFrom: [{secretRef: {name: s}}]"
	for _, test := range []struct {
		pod  string
		want podtokens.Refresh
	}{
		{"spec: {containers: [{" + main + "}]}", podtokens.ByContainer},
		{"spec: {restartPolicy: Always, containers: [{" + main + "}]}", podtokens.ByContainer},
		{"spec: {restartPolicy: OnFailure, containers: [{" + main + "}]}", podtokens.ByPod},
		{"spec: {restartPolicy: Never, containers: [{" + main + "}]}", podtokens.ByPod},
		{"spec: {restartPolicy: Never, containers: [{restartPolicy: Always, " + main + "}]}", podtokens.ByContainer},
		{"spec: {containers: [{restartPolicy: Never, " + main + "}]}", podtokens.ByPod},
		{"spec: {initContainers: [{" + main + "}]}", podtokens.ByPod},
		{"spec: {initContainers: [{restartPolicy: Always, " + main + "}]}", podtokens.ByContainer},
		{"spec: {ephemeralContainers: [{" + main + "}]}", podtokens.ByPod},
		{"{metadata: {deletionTimestamp: 2026-11-26T23:00:00Z}, spec: {containers: [{" + main + "}]}}", podtokens.Never},
	} {
		check(t, test.pod, like(env, func(t *podtokens.Token) { t.Refresh = test.want }))
	}
	const over = "[{name: main, state: {terminated: {exitCode: 0}}}]}}"
	for _, pod := range []string{
		"{spec: {containers: [{" + main + "}]}, status: {containerStatuses: " + over,
		"{spec: {initContainers: [{" + main + "}]}, status: {initContainerStatuses: " + over,
		"{spec: {ephemeralContainers: [{" + main + "}]}, status: {ephemeralContainerStatuses: " + over,
		"{spec: {containers: [{" + main + "}]}, status: {phase: Succeeded}}",
		"{spec: {containers: [{" + main + "}]}, status: {phase: Failed}}",
		"{metadata: {annotations: {kubernetes.io/config.mirror: x}}, spec: {containers: [{" + main + "}]}}",
	} {
		check(t, pod)
	}
}

// TestUnmountedVolume has a volume that no container mounts, which a kubelet does not set up, and one that only an init
// container has mounted, which stays.
func TestUnmountedVolume(t *testing.T) {
	const volumes = "volumes: [{name: v, secret: {secretName: s}}]"
	check(t, "spec: {containers: [{name: main}], "+volumes+"}")
	check(t, "spec: {containers: [{name: main, volumeMounts: [{name: w, mountPath: /v}]}], "+volumes+"}")
	check(t, "{spec: {initContainers: [{name: first, volumeMounts: [{name: v, mountPath: /v}]}], "+volumes+
		"}, status: {initContainerStatuses: [{name: first, state: {terminated: {exitCode: 0}}}]}}", legacy)
	check(t, "spec: {containers: [{name: main, volumeDevices: [{name: v, devicePath: /dev/v}]}], "+
		"volumes: [{name: v, persistentVolumeClaim: {claimName: web-v}}]}", vault)
}
