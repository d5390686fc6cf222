package probe

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// A workload identity adds to the manifests and changes nothing else.
func TestManifestsWithoutAWorkloadIdentity(t *testing.T) {
	var got bytes.Buffer
	must(t, Manifests(&got, DefaultDeployment()))
	want, err := os.ReadFile("testdata/manifests.golden")
	must(t, err)
	if diff := cmp.Diff(string(want), got.String()); diff != "" {
		t.Errorf("manifests (-want +got):\n%s", diff)
	}
}

func identityDeployment() Deployment {
	d := DefaultDeployment()
	d.Servers = []string{"https://10.0.0.1:6443"}
	d.WorkloadIdentity = &WorkloadIdentityDeployment{
		ProjectID: "my-project-123", Location: "us-central1", Membership: "blue",
		STSEndpoint: "https://10.88.0.5:8443", Resource: "https://10.88.0.5:8443/v1/whoami", CABundle: string(config.CAData),
	}
	return d
}

// decode finds an object in manifests, and allows no field that it does not have.
func decode[T any](t *testing.T, manifests, kind, name string) T {
	t.Helper()
	var out T
	for document := range strings.SplitSeq(manifests, "\n---\n") {
		var object metav1.PartialObjectMetadata
		must(t, yaml.Unmarshal([]byte(document), &object))
		if object.Kind == kind && object.Name == name {
			must(t, yaml.UnmarshalStrict([]byte(document), &out))
			return out
		}
	}
	t.Fatalf("no %s %s", kind, name)
	return out
}

func TestManifestsWithAWorkloadIdentity(t *testing.T) {
	var out bytes.Buffer
	must(t, Manifests(&out, identityDeployment()))
	files := decode[corev1.ConfigMap](t, out.String(), "ConfigMap", "keyturn-probe-workload-identity")
	var got any
	must(t, json.Unmarshal([]byte(files.Data["credentials.json"]), &got))
	want := map[string]any{
		"type":            "external_account",
		"universe_domain": "googleapis.com",
		"audience": "identitynamespace:my-project-123.svc.id.goog:" +
			"https://gkehub.googleapis.com/projects/my-project-123/locations/us-central1/memberships/blue",
		"subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
		"token_url":          "https://10.88.0.5:8443/v1/token",
		"credential_source":  map[string]any{"file": "/var/run/secrets/keyturn-probe/workload-identity/token"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("credentials.json (-want +got):\n%s", diff)
	}
	if files.Namespace != "keyturn-probe" ||
		strings.TrimSpace(files.Data["ca.crt"]) != strings.TrimSpace(string(config.CAData)) || len(files.Data) != 2 {
		t.Errorf("ConfigMap %+v", files)
	}

	pod := decode[appsv1.Deployment](t, out.String(), "Deployment", "keyturn-probe").Spec.Template.Spec
	const dir = "/var/run/secrets/keyturn-probe/workload-identity"
	args := []string{
		"run", "--rate=10", "--api-servers=https://10.0.0.1:6443",
		"--workload-identity-credentials-file=" + dir + "/credentials.json",
		"--workload-identity-ca-file=" + dir + "/ca.crt",
		"--workload-identity-resource=https://10.88.0.5:8443/v1/whoami",
	}
	if diff := cmp.Diff(args, pod.Containers[0].Args); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
	mount := corev1.VolumeMount{Name: "workload-identity", MountPath: dir, ReadOnly: true}
	if diff := cmp.Diff(mount, pod.Containers[0].VolumeMounts[3]); diff != "" {
		t.Errorf("volume mount (-want +got):\n%s", diff)
	}
	hour := int64(3600)
	volume := []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", Audience: "my-project-123.svc.id.goog",
			ExpirationSeconds: &hour}},
		{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: files.Name},
			Items: []corev1.KeyToPath{{Key: "credentials.json", Path: "credentials.json"},
				{Key: "ca.crt", Path: "ca.crt"}},
		}},
	}
	if diff := cmp.Diff(volume, pod.Volumes[3].Projected.Sources); diff != "" {
		t.Errorf("volume (-want +got):\n%s", diff)
	}
}

// The API server takes the objects, and refuses fields that it does not know.
func TestManifestsWithAWorkloadIdentityAreApplied(t *testing.T) {
	t.Parallel()
	d := identityDeployment()
	b := newBenchOf(t, d)
	pods, err := clientset.AppsV1().Deployments(b.ns).Get(b.ctx, "keyturn-probe", metav1.GetOptions{})
	must(t, err)
	if n := len(pods.Spec.Template.Spec.Volumes); n != 4 {
		t.Errorf("%d volumes", n)
	}
}

// No field can say more than it is meant to.
func TestWorkloadIdentitiesThatAreNotGood(t *testing.T) {
	certificate := string(config.CAData)
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))
	tests := []struct {
		set   func(*WorkloadIdentityDeployment, string)
		bad   []string
		about string
	}{
		{
			func(w *WorkloadIdentityDeployment, s string) { w.ProjectID = s },
			[]string{"", "p", "My-project", "p-\nx", "p\"x", "p, x", "p/x", "p{x}", "p$(x)-1", "-p1", strings.Repeat("p", 64),
				"p-x\n"},
			"project",
		},
		{
			func(w *WorkloadIdentityDeployment, s string) { w.Location = s },
			[]string{"", "1", "us_1", "us\n", "us/memberships/x", "us\"", strings.Repeat("l", 64)},
			"location",
		},
		{
			func(w *WorkloadIdentityDeployment, s string) { w.Membership = s },
			[]string{"", "Blue", "blue\n", "blue/x", "blue\"", "blue.x", strings.Repeat("m", 64)},
			"membership",
		},
		{
			func(w *WorkloadIdentityDeployment, s string) { w.STSEndpoint = s },
			[]string{"", "http://sts", "sts:8443", "https://", "https://sts/v1", "https://sts?x=1", "https://sts?",
				"https://sts#x", "https://u:p@sts", "https://sts\n"},
			"security token service",
		},
		{
			func(w *WorkloadIdentityDeployment, s string) { w.Resource = s },
			[]string{
				"", "http://r", "https://", "https://:1", "https://r\"]\n", "https://r/\"", "https://r/a,b",
				"https://r/$(POD_NAME)", `https://r/\x22`,
				"https://r/ x", "https://r/\tx", "https://r/#x", "https://r/{x}", "https://r/\u2028x", "https://u@r/",
				"https://r/%zz",
			},
			"resource",
		},
		{
			func(w *WorkloadIdentityDeployment, s string) { w.CABundle = s },
			[]string{
				"", "x", key, certificate + key, certificate + "-----BEGIN CERTIFICATE-----\nAAAA",
				certificate[:len(certificate)/2],
				string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})),
			},
			"CA certificates",
		},
	}
	for _, test := range tests {
		for _, bad := range test.bad {
			d := identityDeployment()
			test.set(d.WorkloadIdentity, bad)
			var out bytes.Buffer
			err := Manifests(&out, d)
			if err == nil || !strings.Contains(err.Error(), test.about) || out.Len() > 0 {
				t.Errorf("%s %q: error is %v:\n%s", test.about, bad, err, &out)
			}
			if err != nil && strings.Contains(err.Error(), "PRIVATE KEY-----") {
				t.Errorf("the error quotes a key: %v", err)
			}
		}
	}
}

func TestCertificatesOfAWorkloadIdentity(t *testing.T) {
	d := identityDeployment()
	w := d.WorkloadIdentity
	w.CABundle = "# first\n" + w.CABundle + "---\nkind: Secret\n" + w.CABundle + "# end\n"
	got, err := w.Certificates()
	must(t, err)
	if want := strings.Repeat(strings.TrimSpace(string(config.CAData))+"\n", 2); got != want {
		t.Errorf("certificates:\n%s", got)
	}
	if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM([]byte(got)) {
		t.Error("they are none")
	}
}

func TestManifestsCommandWithAWorkloadIdentity(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.crt")
	must(t, os.WriteFile(ca, config.CAData, 0o600))
	all := "--workload-identity-project my-project-123 --workload-identity-location us-central1 " +
		"--workload-identity-membership blue " +
		"--workload-identity-sts https://10.88.0.5:8443 --workload-identity-resource https://10.88.0.5:8443/v1/whoami " +
		"--workload-identity-ca-file "
	var want bytes.Buffer
	d := identityDeployment()
	d.Servers = nil
	must(t, Manifests(&want, d))
	tests := []struct {
		args string
		code int
		says string
	}{
		{"manifests " + all + ca, exitOK, want.String()},
		{"manifests " + all + "/no/such/file", exitFailed, "reading the certificates"},
		{"manifests --workload-identity-ca-file " + ca, exitUsage, `project ""`},
		{"manifests --workload-identity-project my-project-123", exitUsage, `location ""`},
		{"manifests " + strings.Replace(all, "blue", "Blue", 1) + ca, exitUsage, `membership "Blue"`},
		{"run --workload-identity-resource https://r", exitUsage,
			"lacks --workload-identity-credentials-file and --workload-identity-ca-file\nhint"},
	}
	for _, test := range tests {
		var out bytes.Buffer
		env := Env{Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }}
		code := Main(t.Context(), env, strings.Fields(test.args))
		if code != test.code || !strings.Contains(out.String(), test.says) {
			t.Errorf("%s exits with %d, want %d saying %q:\n%s", test.args, code, test.code, test.says, &out)
		}
	}
}
