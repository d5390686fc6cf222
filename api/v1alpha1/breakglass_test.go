package v1alpha1_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// recovery walks docs/operations/recover.md with kubectl, as one user; the administrator if that is empty.
type recovery struct {
	*testing.T
	user string
	// file is a kubeconfig file of the administrator.
	file string
}

func newRecovery(t *testing.T, user string) recovery {
	t.Helper()
	return recovery{T: t, user: user, file: kubetest.WriteKubeconfig(t, config)}
}

func (r recovery) of(t *testing.T) recovery {
	r.T = t
	return r
}

// kubectl runs a command line, and returns what it prints, on both streams.
func (r recovery) kubectl(stdin, line string, args ...string) (string, error) {
	r.Helper()
	dir, err := kubetest.BinDir()
	if err != nil {
		r.Fatal(err)
	}
	all := []string{"--kubeconfig", r.file, "--as", r.user, "--namespace", v1alpha1.SystemNamespace}
	all = append(append(all, strings.Fields(line)...), args...)
	cmd := exec.CommandContext(r.Context(), filepath.Join(dir, "kubectl"), all...)
	cmd.Stdin = strings.NewReader(stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

// must runs a command line that has to succeed.
func (r recovery) must(line string, args ...string) string {
	r.Helper()
	out, err := r.kubectl("", line, args...)
	if err != nil {
		r.Fatalf("kubectl %s %q: %v\n%s", line, args, err, out)
	}
	return out
}

// refused runs a command line that a policy has to refuse.
func (r recovery) refused(policy, line string, args ...string) {
	r.Helper()
	if out, err := r.kubectl("", line, args...); err == nil ||
		!strings.Contains(out, "ValidatingAdmissionPolicy '"+policy+"'") {
		r.Errorf("kubectl %s %q = %v, want a refusal by %s:\n%s", line, args, err, policy, out)
	}
}

const reason = v1alpha1.AnnotationBreakGlass + "=restored from the backup of monday"

// TestRecovery walks each way out, as somebody who may break the glass.
func TestRecovery(t *testing.T) {
	allowRescuer(t)
	r := newRecovery(t, "rescuer")
	t.Run("restore a key", func(t *testing.T) { testRestoreKey(r.of(t)) })
	t.Run("delete a key", func(t *testing.T) { testDeleteKey(r.of(t)) })
	t.Run("keep a key", func(t *testing.T) { testKeepKey(r.of(t)) })
	t.Run("set the version", func(t *testing.T) { testSetVersion(r.of(t)) })
	t.Run("delete a kubeconfig", func(t *testing.T) { testDeleteKubeconfig(r.of(t)) })
	t.Run("remove the finalizer", func(t *testing.T) { testRemoveFinalizer(r.of(t)) })
}

// allowRescuer gives user rescuer the role that recover.md shows.
func allowRescuer(t *testing.T) {
	t.Helper()
	page, err := os.ReadFile("../../docs/operations/recover.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```yaml\n")
	block, _, _ = strings.Cut(block, "```")
	role := &rbacv1.Role{}
	if err := yaml.UnmarshalStrict([]byte(block), role); err != nil {
		t.Fatal(err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: role.Namespace, Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "rescuer"}},
	}
	for _, o := range []client.Object{role, binding} {
		if err := admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	awaitUser(t, as(t, "rescuer"))
}

func testDeleteKubeconfig(r recovery) {
	secret := newSecret("spoiled-kubeconfig", v1alpha1.SecretTypeKubeconfig)
	if err := controller.Create(r.Context(), secret); err != nil {
		r.Fatal(err)
	}
	r.refused("keyturn-signing-keys", "delete secret spoiled-kubeconfig")
	r.must("annotate secret spoiled-kubeconfig", reason)
	r.must("delete secret spoiled-kubeconfig")
	r.gone(secret)
}

func (r recovery) createKey(cluster string) *corev1.Secret {
	r.Helper()
	key := newKey(cluster, 1)
	if err := controller.Create(r.Context(), key); err != nil {
		r.Fatal(err)
	}
	return key
}

func (r recovery) gone(o client.Object) {
	r.Helper()
	if err := admin.Get(r.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
		r.Errorf("%s is still there: %v", o.GetName(), err)
	}
}

func testRestoreKey(r recovery) {
	key := r.createKey("restored")
	backup := r.must("get secret restored-ksa-signing-key-1 -o json")
	if err := controller.Delete(r.Context(), key); err != nil {
		r.Fatal(err)
	}
	const create = "create -f -"
	if out, err := r.kubectl(backup, create); err == nil ||
		!strings.Contains(out, "requests must not create KSA signing keys") {
		r.Errorf("a key was restored without a reason: %v\n%s", err, out)
	}
	annotated, err := r.kubectl(backup, "annotate --local -f - -o json", reason)
	if err != nil {
		r.Fatal(annotated)
	}
	if out, err := r.kubectl(annotated, create); err != nil {
		r.Fatalf("restoring a key: %v\n%s", err, out)
	}
	r.must("annotate secret restored-ksa-signing-key-1", v1alpha1.AnnotationBreakGlass+"-")
	r.refused("keyturn-signing-keys", "delete secret restored-ksa-signing-key-1")
	restored := newKey("restored", 1)
	if err := admin.Get(r.Context(), client.ObjectKeyFromObject(restored), restored); err != nil ||
		!bytes.Equal(restored.Data["key"], key.Data["key"]) {
		r.Errorf("the restored key is another one (%v)", err)
	}
}

func testDeleteKey(r recovery) {
	key := r.createKey("left")
	r.refused("keyturn-signing-keys", "delete secret left-ksa-signing-key-1")
	r.must("annotate secret left-ksa-signing-key-1", reason)
	r.must("delete secret left-ksa-signing-key-1")
	r.gone(key)
}

// testKeepKey gives a key to a cluster that was made again.
func testKeepKey(r recovery) {
	key := r.createKey("kept")
	r.must("annotate secret kept-ksa-signing-key-1", reason)
	r.must("label --overwrite secret kept-ksa-signing-key-1", v1alpha1.LabelClusterUID+"=another")
	r.must("annotate secret kept-ksa-signing-key-1", v1alpha1.AnnotationBreakGlass+"-")
	r.refused("keyturn-signing-keys", "label --overwrite secret kept-ksa-signing-key-1",
		v1alpha1.LabelClusterUID+"=a-third")
	if err := admin.Get(r.Context(), client.ObjectKeyFromObject(key), key); err != nil ||
		key.Labels[v1alpha1.LabelClusterUID] != "another" {
		r.Errorf("labels = %v (%v)", key.Labels, err)
	}
}

func testSetVersion(r recovery) {
	uc := createCluster(r.T, nil)
	finish(r.T, uc)
	rotate(r.T, uc)
	patch := func(version int) []string {
		return []string{"-p", fmt.Sprintf(`{"spec": {"ksaSigningKey": {"version": %d}}}`, version)}
	}
	toVersion := "patch --type merge usercluster " + uc.Name
	r.refused("keyturn-one-change-at-a-time", toVersion, patch(1)...)
	r.must("annotate usercluster "+uc.Name, reason)
	r.must(toVersion, patch(1)...)
	r.must(toVersion, patch(4)...)
	if out, err := r.kubectl("", toVersion, patch(0)...); err == nil {
		r.Errorf("version 0 was taken:\n%s", out)
	}
	r.refused("keyturn-one-change-at-a-time", toVersion, "-p",
		`{"spec": {"ksaSigningKey": {"version": 3, "algorithm": "ES256"}}}`)
	r.refused("keyturn-one-change-at-a-time", toVersion, "-p",
		`{"spec": {"infrastructure": {"local": {"nodePools": null}}, "ksaSigningKey": {"version": 3}}}`)
	r.must("annotate usercluster "+uc.Name, v1alpha1.AnnotationBreakGlass+"-")
	r.refused("keyturn-one-change-at-a-time", toVersion, patch(3)...)
}

func testRemoveFinalizer(r recovery) {
	uc := createCluster(r.T, func(uc *v1alpha1.UserCluster) { uc.Finalizers = []string{v1alpha1.Finalizer} })
	if err := admin.Delete(r.Context(), uc); err != nil {
		r.Fatal(err)
	}
	patch := []string{"-p", `{"metadata": {"finalizers": null}}`}
	r.refused("keyturn-deletion", "patch --type merge usercluster "+uc.Name, patch...)
	r.must("annotate usercluster "+uc.Name, reason)
	r.must("patch --type merge usercluster "+uc.Name, patch...)
	r.gone(uc)
	credentials := newSecret("left-gke-connect", corev1.SecretTypeOpaque)
	credentials.Finalizers = []string{v1alpha1.Finalizer}
	if err := controller.Create(r.Context(), credentials); err != nil {
		r.Fatal(err)
	}
	r.must("patch --type merge secret left-gke-connect", patch...)
	r.must("delete secret left-gke-connect")
	r.gone(credentials)
}

// TestGlassIsForSome wants a reason to be of no use to somebody who may change everything, but not break the glass.
func TestGlassIsForSome(t *testing.T) {
	newUser(t, "author")
	r := newRecovery(t, "author")
	r.createKey("safe")
	r.refused("keyturn-signing-keys", "annotate secret safe-ksa-signing-key-1", reason)
	r.refused("keyturn-signing-keys", "delete secret safe-ksa-signing-key-1")

	uc := createCluster(t, func(uc *v1alpha1.UserCluster) { uc.Finalizers = []string{v1alpha1.Finalizer} })
	finish(t, uc)
	r.must("annotate usercluster "+uc.Name, reason)
	r.refused("keyturn-deletion", "patch --type merge usercluster "+uc.Name, "-p", `{"metadata": {"finalizers": null}}`)
	r.refused("keyturn-one-change-at-a-time", "patch --type merge usercluster "+uc.Name, "-p",
		`{"spec": {"ksaSigningKey": {"version": 3}}}`)
}
