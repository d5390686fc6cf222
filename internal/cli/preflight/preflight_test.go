package preflight

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// Everything is found whichever page it is on.
func TestInspectPages(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	createDriver(t, client)
	createUsed(t, client)
	createHeld(t, client)
	const nodes = 5
	for i := range nodes {
		create(t, client, fmt.Sprintf("n%d", i))
	}
	for refresh, kinds := range map[v1alpha1.NodeRefresh][]Kind{
		v1alpha1.NodeRefreshReplace: {BarePod, ThirdPartyToken},
		v1alpha1.NodeRefreshEvict:   {BareHolder},
		v1alpha1.NodeRefreshInPlace: {PinnedToken, CopiedToken, DriverToken},
	} {
		want := Report{Holders: nodes, LegacySecrets: 6, Renewal: 48*time.Minute + 100*time.Second}
		of := map[Kind]func(name string) Finding{
			CopiedToken:     func(name string) Finding { return find(CopiedToken, podNamed(name), name) },
			BareHolder:      func(name string) Finding { return find(BareHolder, podNamed(name), "") },
			BarePod:         func(name string) Finding { return find(BarePod, podNamed(name), "") },
			ThirdPartyToken: func(name string) Finding { return find(ThirdPartyToken, podNamed(name), "a, b, sts") },
			PinnedToken:     func(name string) Finding { return find(PinnedToken, podNamed(name), "tokens") },
			DriverToken:     func(name string) Finding { return find(DriverToken, podNamed(name), "data") },
		}
		all := []Finding{
			find(ImmutableSecret, Object{Kind: "Secret", Namespace: "default", Name: "n3"}, ""),
			find(OutsideToken, Object{Kind: "Secret", Namespace: "default", Name: "ci"}, "used last on 2026-11-20"),
		}
		for i := range nodes {
			want.Nodes = append(want.Nodes, Node{Name: fmt.Sprintf("n%d", i), Pool: "a"})
			for _, k := range kinds {
				all = append(all, of[k](fmt.Sprintf("n%d", i)))
			}
		}
		want.Findings = Merge(all)
		for _, pageSize := range []int64{1, 2, 5, 500} {
			got, err := inspect(t.Context(), config, refresh, pageSize)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s, with %d objects a page (-want +got):\n%s", refresh, pageSize, diff)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Inspect(ctx, config, v1alpha1.NodeRefreshReplace); err == nil {
		t.Error("Inspect with a canceled context is no error")
	}
}

// TestVolumesOnce has an inspection list PersistentVolumes once, also where a driver asks for tokens.
func TestVolumesOnce(t *testing.T) {
	config := kubetest.Start(t, kubetest.Options{})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	createDriver(t, client)
	var lists atomic.Int32
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return counting{next, &lists} })
	if _, err := Inspect(t.Context(), config, v1alpha1.NodeRefreshReplace); err != nil {
		t.Fatal(err)
	}
	if n := lists.Load(); n != 1 {
		t.Errorf("PersistentVolumes were listed %d times", n)
	}
}

// counting counts lists of PersistentVolumes.
type counting struct {
	next  http.RoundTripper
	lists *atomic.Int32
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.HasSuffix(r.URL.Path, "/persistentvolumes") {
		c.lists.Add(1)
	}
	return c.next.RoundTrip(r)
}

func podNamed(name string) Object { return Object{Kind: "Pod", Namespace: "default", Name: name} }

// create makes a node with a bare pod on it that uses every kind of token, and its Secrets.
func create(t *testing.T, client kubernetes.Interface, name string) {
	t.Helper()
	labels := map[string]string{v1alpha1.LabelNodePool: "a"}
	if _, err := client.CoreV1().Nodes().Create(t.Context(),
		&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	immutable := name == "n3"
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: "app"},
			Labels: map[string]string{lastUsedLabel: "2026-11-26"},
		},
		Type:      corev1.SecretTypeServiceAccountToken,
		Immutable: &immutable,
	}
	if _, err := client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().PersistentVolumes().Create(t.Context(), persistentVolume(name),
		metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Pods("default").Create(t.Context(), pod(name), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// createUsed makes a Secret whose token a system outside of the cluster uses.
func createUsed(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: "ci", Annotations: map[string]string{corev1.ServiceAccountNameKey: "app"},
			Labels: map[string]string{lastUsedLabel: "2026-11-20"},
		},
		Type: corev1.SecretTypeServiceAccountToken,
	}
	if _, err := client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// createHeld makes an immutable Secret that is deleted and kept by a finalizer: API servers refuse its token.
func createHeld(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	immutable := true
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Name: "held", Annotations: map[string]string{corev1.ServiceAccountNameKey: "gone"},
			Labels: map[string]string{lastUsedLabel: "2026-11-20"}, Finalizers: []string{"example.com/hold"},
		},
		Type: corev1.SecretTypeServiceAccountToken, Immutable: &immutable,
	}
	if _, err := client.CoreV1().Secrets("default").Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Secrets("default").Delete(t.Context(), "held", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// driverName is the name of a driver which gets a token of each pod, once.
const driverName = "s3.example.com"

func createDriver(t *testing.T, client kubernetes.Interface) {
	t.Helper()
	driver := &storagev1.CSIDriver{
		ObjectMeta: metav1.ObjectMeta{Name: driverName},
		Spec:       storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: "sts"}}},
	}
	if _, err := client.StorageV1().CSIDrivers().Create(t.Context(), driver, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// persistentVolume is one of the driver, bound to a claim of the same name.
func persistentVolume(name string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			ClaimRef:    &corev1.ObjectReference{Namespace: "default", Name: name},
			PersistentVolumeSource: corev1.PersistentVolumeSource{
				CSI: &corev1.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: name},
			},
		},
	}
}

func pod(name string) *corev1.Pod {
	token := func(audience string) corev1.VolumeProjection {
		return corev1.VolumeProjection{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: audience,
			Path: "token-" + audience}}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PodSpec{
			NodeName:           name,
			ServiceAccountName: "app",
			Containers: []corev1.Container{{
				Name: "main", Image: "none",
				VolumeMounts: []corev1.VolumeMount{
					{Name: "tokens", MountPath: "/token", SubPath: "token-b"}, {Name: "data", MountPath: "/data"},
				},
				EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{
					LocalObjectReference: corev1.LocalObjectReference{Name: name},
				}}},
			}},
			Volumes: []corev1.Volume{{Name: "tokens", VolumeSource: corev1.VolumeSource{
				Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{token("b"), token(""), token("a")}},
			}}, {Name: "data", VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
			}}},
		},
	}
}
