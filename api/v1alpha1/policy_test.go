package v1alpha1_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// createCluster makes a UserCluster for one test, named after it.
func createCluster(t *testing.T, change func(*v1alpha1.UserCluster)) *v1alpha1.UserCluster {
	t.Helper()
	uc := newCluster("")
	uc.Name, uc.GenerateName = "", "test-"
	if change != nil {
		change(uc)
	}
	if err := admin.Create(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	return uc
}

func conditions(uc *v1alpha1.UserCluster, ready, rotated metav1.ConditionStatus) []metav1.Condition {
	var all []metav1.Condition
	now := metav1.Now().Rfc3339Copy()
	meta.SetStatusCondition(&all, metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: ready, ObservedGeneration: uc.Generation, LastTransitionTime: now,
		Reason: v1alpha1.ReasonCreateOrUpdate, Message: "Creating or updating user cluster control plane workloads",
	})
	meta.SetStatusCondition(&all, metav1.Condition{
		Type: v1alpha1.ConditionKSASigningKeyRotation, Status: rotated, ObservedGeneration: uc.Generation,
		LastTransitionTime: now,
		Reason:             v1alpha1.ReasonRotationProcessed, Message: `{"tokenVersion":1}`,
	})
	return all
}

// writeStatus writes, as the controller, a status that is about the generation of uc.
func writeStatus(t *testing.T, uc *v1alpha1.UserCluster, conditions []metav1.Condition) {
	t.Helper()
	uc.Status.ObservedGeneration = uc.Generation
	uc.Status.Conditions = conditions
	replaceStatus(t, uc)
}

// replaceStatus writes the whole status of uc, as the controller.
func replaceStatus(t *testing.T, uc *v1alpha1.UserCluster) {
	t.Helper()
	status, err := json.Marshal(uc.Status)
	if err != nil {
		t.Fatal(err)
	}
	patch := client.RawPatch(types.JSONPatchType,
		fmt.Appendf(nil, `[{"op": "add", "path": "/status", "value": %s}]`, status))
	if err := controller.Status().Patch(t.Context(), uc, patch); err != nil {
		t.Fatal(err)
	}
}

// setFinalizers writes the finalizers of uc, and nothing else.
func setFinalizers(t *testing.T, by client.Client, uc *v1alpha1.UserCluster, finalizers ...string) error {
	t.Helper()
	list, err := json.Marshal(finalizers)
	if err != nil {
		t.Fatal(err)
	}
	patch := client.RawPatch(types.MergePatchType, fmt.Appendf(nil, `{"metadata": {"finalizers": %s}}`, list))
	return by.Patch(t.Context(), uc, patch)
}

// finish makes the latest change of uc a finished one.
func finish(t *testing.T, uc *v1alpha1.UserCluster) {
	t.Helper()
	writeStatus(t, uc, conditions(uc, metav1.ConditionTrue, metav1.ConditionTrue))
}

func rotate(t *testing.T, uc *v1alpha1.UserCluster) {
	t.Helper()
	uc.Spec.KSASigningKey.Version++
	if err := admin.Update(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
}

// checkErr wants no error if want is empty, and one that contains want otherwise.
func checkErr(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("unexpected error: %v", err)
	case want != "" && err == nil:
		t.Errorf("no error, want %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("error = %v\nwant %q", err, want)
	}
}

// checkRefused wants a refusal (HTTP status 403) by the named policy, with exactly this text.
func checkRefused(t *testing.T, err error, policy, want string) {
	t.Helper()
	if !apierrors.IsForbidden(err) || !isRefusedBy(policy)(err) ||
		!strings.HasSuffix(err.Error(), "denied request: "+want) {
		t.Errorf("error = %v\nwant a refusal by %s: %s", err, policy, want)
	}
}

// The changes of a spec that the tests try at bad moments, with the words by which a refusal names them.
var changes = map[string]func(*v1alpha1.UserClusterSpec){
	"KSASigningKeyVersion": func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Version++ },
	"nodePools":            func(s *v1alpha1.UserClusterSpec) { s.Infrastructure.Local.NodePools[0].Replicas++ },
	"the spec":             func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Algorithm = v1alpha1.ES256 },
}

func TestOneChangeAtATime(t *testing.T) {
	const (
		creating = "ready condition is not true: ClusterCreateOrUpdate: Creating or updating user cluster control plane " +
			"workloads"
		rotating = `KSASigningKeyRotation condition is not true: KSASigningKeyRotationProcessedReason: {"tokenVersion":1}`
		outdated = "ready condition is out of date: the controller has not seen the latest change yet"
	)
	for _, test := range []struct {
		name string
		// prepare brings a new cluster into the state in which changes are tried.
		prepare func(*testing.T, *v1alpha1.UserCluster)
		// why ends the text of the refusal; empty if changes are allowed.
		why string
		// correctable means that node pools can still be changed.
		correctable bool
	}{
		{
			"new", func(*testing.T, *v1alpha1.UserCluster) {},
			"ready condition is not set: the controller has not seen the cluster yet", false,
		},
		{"creating", func(t *testing.T, uc *v1alpha1.UserCluster) {
			writeStatus(t, uc, conditions(uc, metav1.ConditionFalse, metav1.ConditionTrue))
		}, creating, true},
		{"ready unknown", func(t *testing.T, uc *v1alpha1.UserCluster) {
			writeStatus(t, uc, conditions(uc, metav1.ConditionUnknown, metav1.ConditionTrue))
		}, creating, true},
		{"message of several lines", func(t *testing.T, uc *v1alpha1.UserCluster) {
			all := conditions(uc, metav1.ConditionFalse, metav1.ConditionTrue)
			all[0].Message = "Creating or updating\nuser cluster control plane workloads"
			writeStatus(t, uc, all)
		}, creating, true},
		{"finished", finish, "", false},
		{"rotation just asked for", func(t *testing.T, uc *v1alpha1.UserCluster) {
			finish(t, uc)
			rotate(t, uc)
		}, outdated, false},
		{"rotation seen", func(t *testing.T, uc *v1alpha1.UserCluster) {
			finish(t, uc)
			rotate(t, uc)
			writeStatus(t, uc, conditions(uc, metav1.ConditionFalse, metav1.ConditionFalse))
		}, creating, false},
		{"rotating, yet ready", func(t *testing.T, uc *v1alpha1.UserCluster) {
			writeStatus(t, uc, conditions(uc, metav1.ConditionTrue, metav1.ConditionFalse))
		}, rotating, false},
		{"keys not looked at", func(t *testing.T, uc *v1alpha1.UserCluster) {
			writeStatus(t, uc, conditions(uc, metav1.ConditionTrue, metav1.ConditionTrue)[:1])
		}, "KSASigningKeyRotation condition is not set: the controller has not seen the keys yet", false},
		{"node pools just changed", func(t *testing.T, uc *v1alpha1.UserCluster) {
			finish(t, uc)
			uc.Spec.Infrastructure.Local.NodePools[0].Replicas = 4
			if err := admin.Update(t.Context(), uc); err != nil {
				t.Fatal(err)
			}
		}, outdated, false},
		{"status seen, condition of before", func(t *testing.T, uc *v1alpha1.UserCluster) {
			all := conditions(uc, metav1.ConditionTrue, metav1.ConditionTrue)
			all[0].ObservedGeneration--
			writeStatus(t, uc, all)
		}, outdated, false},
		{"condition seen, status of before", func(t *testing.T, uc *v1alpha1.UserCluster) {
			finish(t, uc)
			uc.Status.ObservedGeneration--
			replaceStatus(t, uc)
		}, outdated, false},
		{"rotated", func(t *testing.T, uc *v1alpha1.UserCluster) {
			finish(t, uc)
			rotate(t, uc)
			finish(t, uc)
		}, "", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			uc := createCluster(t, nil)
			test.prepare(t, uc)
			for what, change := range changes {
				changed := uc.DeepCopy()
				change(&changed.Spec)
				err := admin.Update(t.Context(), changed, client.DryRunAll)
				if test.why == "" || what == "nodePools" && test.correctable {
					checkErr(t, err, "")
					continue
				}
				checkRefused(t, err, "keyturn-one-change-at-a-time",
					fmt.Sprintf("requests must not modify %s when cluster is not ready: %s", what, test.why))
			}
			checkMetadataIsFree(t, uc)
		})
	}
}

// checkMetadataIsFree adds a label and adds and removes the finalizer, which must work at any time, and
// deletes the cluster, which must be possible too.
func checkMetadataIsFree(t *testing.T, uc *v1alpha1.UserCluster) {
	t.Helper()
	uc.Labels = map[string]string{"team": "blue"}
	if err := admin.Update(t.Context(), uc); err != nil {
		t.Errorf("labelling: %v", err)
	}
	if err := setFinalizers(t, controller, uc, v1alpha1.Finalizer); err != nil {
		t.Errorf("adding the finalizer: %v", err)
	}
	if err := admin.Delete(t.Context(), uc); err != nil {
		t.Errorf("deleting: %v", err)
	}
	checkNoChangeWhileDeleted(t, uc)
	if err := setFinalizers(t, controller, uc); err != nil {
		t.Errorf("removing the finalizer: %v", err)
	}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(uc), uc); !apierrors.IsNotFound(err) {
		t.Errorf("the deleted cluster is still there: %v", err)
	}
}

func checkNoChangeWhileDeleted(t *testing.T, uc *v1alpha1.UserCluster) {
	t.Helper()
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(uc), uc); err != nil {
		t.Fatal(err)
	}
	for what, change := range changes {
		changed := uc.DeepCopy()
		change(&changed.Spec)
		checkRefused(t, admin.Update(t.Context(), changed, client.DryRunAll), "keyturn-one-change-at-a-time",
			fmt.Sprintf("requests must not modify %s when cluster is being deleted", what))
	}
}

// TestChangesRace sends a rotation and a change of node pools at once, without optimistic locking:
// exactly one may win.
func TestChangesRace(t *testing.T) {
	uc := createCluster(t, nil)
	finish(t, uc)
	rotation := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"ksaSigningKey":{"version":2}}}`))
	pools := client.RawPatch(types.MergePatchType, []byte(`{"spec":{"infrastructure":{"local":{"nodePools":null}}}}`))
	results := make(chan error, 2)
	for _, patch := range []client.Patch{rotation, pools} {
		go func() { results <- admin.Patch(t.Context(), uc.DeepCopy(), patch) }()
	}
	first, second := <-results, <-results
	if (first == nil) == (second == nil) {
		t.Fatalf("want one success and one refusal, got %v and %v", first, second)
	}
	if second == nil {
		second = first
	}
	checkErr(t, second, "when cluster is not ready: ready condition is out of date")
}

func TestRotationIsARequestOfItsOwn(t *testing.T) {
	uc := createCluster(t, nil)
	finish(t, uc)
	both := uc.DeepCopy()
	both.Spec.KSASigningKey.Version++
	both.Spec.Infrastructure.Local.NodePools[0].Replicas++
	const refusal = "requests must not modify KSASigningKeyVersion together with nodePools or ksaSigningKey.source: a " +
		"rotation is a request of its own, before or after other changes"
	checkRefused(t, admin.Update(t.Context(), both), "keyturn-one-change-at-a-time", refusal)
	source := uc.DeepCopy()
	source.Spec.KSASigningKey.Version++
	source.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal
	checkRefused(t, admin.Update(t.Context(), source), "keyturn-one-change-at-a-time", refusal)

	algorithm := uc.DeepCopy()
	algorithm.Spec.KSASigningKey.Version++
	algorithm.Spec.KSASigningKey.Algorithm = v1alpha1.ES256
	checkErr(t, admin.Update(t.Context(), algorithm), "")
}

func TestAdvancedCluster(t *testing.T) {
	uc := createCluster(t, func(uc *v1alpha1.UserCluster) { uc.Spec.EnableAdvancedCluster = true })
	finish(t, uc)
	rotated := uc.DeepCopy()
	rotated.Spec.KSASigningKey.Version++
	checkRefused(t, admin.Update(t.Context(), rotated), "keyturn-one-change-at-a-time",
		"requests must not modify KSASigningKeyVersion when enableAdvancedCluster is true: KSA signing keys of an advanced "+
			"cluster cannot be rotated")

	uc.Spec.Infrastructure.Local.NodePools[0].Replicas++
	checkErr(t, admin.Update(t.Context(), uc), "")
}

func TestStatusIsTheControllers(t *testing.T) {
	const want = "requests must not write the status of a UserCluster: it is what the controller observed, and only " +
		v1alpha1.ControllerUser + " writes it"
	uc := createCluster(t, nil)
	update := uc.DeepCopy()
	update.Status.Conditions = conditions(uc, metav1.ConditionTrue, metav1.ConditionTrue)
	checkRefused(t, admin.Status().Update(t.Context(), update), "keyturn-status-is-observed", want)

	patch := client.RawPatch(types.MergePatchType, []byte(`{"status":{"observedGeneration":7}}`))
	checkRefused(t, admin.Status().Patch(t.Context(), uc.DeepCopy(), patch), "keyturn-status-is-observed", want)
	checkErr(t, controller.Status().Patch(t.Context(), uc, patch), "")
	if uc.Status.ObservedGeneration != 7 {
		t.Errorf("the controller's status was not stored: %+v", uc.Status)
	}
}

func TestSigningKeysAreTheControllers(t *testing.T) {
	const tail = " KSA signing keys: only the controller does. To replace a key, run " +
		"`gkectl update credentials ksa-signing-key rotate`, which deletes the old one at its end; " +
		"the keys of a cluster are deleted with the cluster. docs/operations/recover.md says what to do when one is lost " +
		"or left over"
	key := newKey("guarded", 1)
	checkRefused(t, admin.Create(t.Context(), key.DeepCopy()), "keyturn-signing-keys", "requests must not create"+tail)
	if err := controller.Create(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*corev1.Secret){
		"label":      func(s *corev1.Secret) { s.Labels[v1alpha1.LabelKeyVersion] = "2" },
		"annotation": func(s *corev1.Secret) { s.Annotations = map[string]string{"a": "b"} },
		"finalizer":  func(s *corev1.Secret) { s.Finalizers = []string{"keyturn.dev/test"} },
		"owner": func(s *corev1.Secret) {
			s.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "a", UID: "b"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			changed := key.DeepCopy()
			change(changed)
			checkRefused(t, admin.Update(t.Context(), changed), "keyturn-signing-keys", "requests must not modify"+tail)
		})
	}
	checkErr(t, admin.Update(t.Context(), key), "") // as it is, for encryption at rest
	checkRefused(t, admin.Delete(t.Context(), key), "keyturn-signing-keys", "requests must not delete"+tail)
	checkRefused(t, admin.DeleteAllOf(t.Context(), &corev1.Secret{}, client.InNamespace(key.Namespace),
		client.MatchingLabels{v1alpha1.LabelCluster: "guarded"}), "keyturn-signing-keys", "requests must not delete"+tail)
	checkErr(t, admin.Get(t.Context(), client.ObjectKeyFromObject(key), key), "")
	checkErr(t, controller.Delete(t.Context(), key), "")
}

// TestKeyStaysAKey tries to make a key another kind of Secret first, which the policy would let go.
func TestKeyStaysAKey(t *testing.T) {
	key := newKey("kind", 1)
	key.Immutable = nil
	if err := controller.Create(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	key.Type = corev1.SecretTypeOpaque
	checkErr(t, admin.Update(t.Context(), key), "field is immutable")
	key.Type = v1alpha1.SecretTypeSigningKey
	key.Data["key"] = []byte("another")
	checkErr(t, admin.Update(t.Context(), key), "requests must not modify KSA signing keys")
	checkErr(t, controller.Delete(t.Context(), key), "")
}

// TestKubeconfigsAreTheControllers is about the other type of Secret that only the controller writes.
func TestKubeconfigsAreTheControllers(t *testing.T) {
	const tail = " kubeconfigs of user clusters: only the controller does. It keeps them as they should be, and deletes " +
		"them with their cluster"
	secret := newSecret("guarded-kubeconfig", v1alpha1.SecretTypeKubeconfig)
	checkRefused(t, admin.Create(t.Context(), secret.DeepCopy()), "keyturn-signing-keys", "requests must not create"+tail)
	if err := controller.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	changed := secret.DeepCopy()
	changed.Data = map[string][]byte{"value": []byte("another")}
	checkRefused(t, admin.Update(t.Context(), changed), "keyturn-signing-keys", "requests must not modify"+tail)
	checkRefused(t, admin.Delete(t.Context(), secret), "keyturn-signing-keys", "requests must not delete"+tail)
	checkErr(t, controller.Delete(t.Context(), secret), "")
}

func newSecret(name string, kind corev1.SecretType) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: v1alpha1.SystemNamespace, Name: name}, Type: kind}
}

// TestNamesOfKeysAreReserved wants no other Secret to have a name under which a key version is stored.
func TestNamesOfKeysAreReserved(t *testing.T) {
	const refusal = "requests must not create a Secret with the name of a KSA signing key, NAME-ksa-signing-key-N, and " +
		"another type than keyturn.dev/ksa-signing-key: choose another name"
	for _, name := range []string{
		"a-ksa-signing-key-1", "a-ksa-signing-key-999999999", "a-ksa-signing-key-1-ksa-signing-key-2",
	} {
		checkRefused(t, admin.Create(t.Context(), newSecret(name, corev1.SecretTypeOpaque), client.DryRunAll),
			"keyturn-signing-keys", refusal)
		checkErr(t, controller.Create(t.Context(), newSecret(name, v1alpha1.SecretTypeSigningKey), client.DryRunAll), "")
	}
	for _, name := range []string{
		"ksa-signing-key-1", "a-ksa-signing-key-0", "a-ksa-signing-key-01", "a-ksa-signing-key-1234567890",
		"a-ksa-signing-key-1b",
	} {
		checkErr(t, admin.Create(t.Context(), newSecret(name, corev1.SecretTypeOpaque), client.DryRunAll), "")
	}
}

func TestOtherSecretsAreFree(t *testing.T) {
	secret := newSecret("free", corev1.SecretTypeOpaque)
	secret.Labels = map[string]string{v1alpha1.LabelCluster: "free"}
	checkErr(t, admin.Create(t.Context(), secret), "")
	secret.Data = map[string][]byte{"key": []byte("other")}
	checkErr(t, admin.Update(t.Context(), secret), "")
	checkErr(t, admin.Delete(t.Context(), secret), "")
	secret.ResourceVersion = ""
	if err := admin.Create(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	checkErr(t, admin.DeleteAllOf(t.Context(), &corev1.Secret{}, client.InNamespace(secret.Namespace),
		client.MatchingLabels{v1alpha1.LabelCluster: "free"}), "")
}

// TestRetireWhileRotating lets how long Retire waits for tokens be changed while a rotation runs, and nothing beside
// it.
func TestRetireWhileRotating(t *testing.T) {
	uc := createCluster(t, func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.Source = v1alpha1.KeySourceExternal })
	finish(t, uc)
	rotate(t, uc)
	writeStatus(t, uc, conditions(uc, metav1.ConditionFalse, metav1.ConditionFalse))
	for name, change := range map[string]func(*v1alpha1.KSASigningKey){
		"waits":          func(k *v1alpha1.KSASigningKey) { k.Retire = v1alpha1.RetireWhenUnused },
		"waits for less": func(k *v1alpha1.KSASigningKey) { k.RetireTimeoutSeconds = 60 },
	} {
		changed := uc.DeepCopy()
		change(&changed.Spec.KSASigningKey)
		if err := admin.Update(t.Context(), changed.DeepCopy(), client.DryRunAll); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		changed.Spec.KSASigningKey.TokenReloadSeconds++
		err := admin.Update(t.Context(), changed, client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "when cluster is not ready: ready condition is not true") {
			t.Errorf("%s, and another change: error = %v", name, err)
		}
	}
}

// TestSourceTakenBack lets the source of keys be changed while a cluster is not ready, unless a key is rotated, and
// with it only what depends on it.
func TestSourceTakenBack(t *testing.T) {
	external := func(k *v1alpha1.KSASigningKey) { k.Source = v1alpha1.KeySourceExternal }
	files := func(k *v1alpha1.KSASigningKey) {
		k.Source, k.Retire = v1alpha1.KeySourceFiles, v1alpha1.RetireAfterRefresh
	}
	for _, test := range []struct {
		name     string
		from, to func(*v1alpha1.KSASigningKey)
	}{{"back to files", func(k *v1alpha1.KSASigningKey) {
		external(k)
		k.Retire = v1alpha1.RetireWhenUnused
	}, files}, {"back to external", files, external}} {
		t.Run(test.name, func(t *testing.T) {
			uc := createCluster(t, func(uc *v1alpha1.UserCluster) { test.from(&uc.Spec.KSASigningKey) })
			update := func(change func(*v1alpha1.UserClusterSpec)) error {
				changed := uc.DeepCopy()
				test.to(&changed.Spec.KSASigningKey)
				if change != nil {
					change(&changed.Spec)
				}
				return admin.Update(t.Context(), changed, client.DryRunAll)
			}
			const refused = "requests must not modify the spec when cluster is not ready"
			checkErr(t, update(nil), refused) // nobody has seen the keys
			writeStatus(t, uc, conditions(uc, metav1.ConditionFalse, metav1.ConditionTrue))
			checkErr(t, update(nil), "")
			checkErr(t, update(func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Algorithm = v1alpha1.ES256 }), refused)
			checkErr(t, update(func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Version++ }), "requests must not modify")
			finish(t, uc)
			rotate(t, uc)
			checkErr(t, update(nil), refused)
			writeStatus(t, uc, conditions(uc, metav1.ConditionFalse, metav1.ConditionFalse))
			checkErr(t, update(nil), refused)
		})
	}
}

// TestNodeRefreshWhileRotating lets how the tokens of running pods are replaced be changed until Retire, but not to
// InPlace.
func TestNodeRefreshWhileRotating(t *testing.T) {
	uc := createCluster(t, func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.NodeRefresh = v1alpha1.NodeRefreshWait })
	finish(t, uc)
	rotate(t, uc)
	update := func(how v1alpha1.NodeRefresh, change func(*v1alpha1.KSASigningKey)) error {
		changed := uc.DeepCopy()
		changed.Spec.KSASigningKey.NodeRefresh = how
		if change != nil {
			change(&changed.Spec.KSASigningKey)
		}
		return admin.Update(t.Context(), changed, client.DryRunAll)
	}
	const refused = "requests must not modify the spec when cluster is not ready"
	for _, step := range []string{"Generate", "Publish", "Switch", "Refresh", "Retire"} {
		uc.Status.KSASigningKey.Step = step
		writeStatus(t, uc, conditions(uc, metav1.ConditionFalse, metav1.ConditionFalse))
		for _, how := range []v1alpha1.NodeRefresh{v1alpha1.NodeRefreshEvict, v1alpha1.NodeRefreshReplace, ""} {
			want := ""
			if step == "Retire" {
				want = refused
			}
			checkErr(t, update(how, nil), want)
		}
		checkErr(t, update(v1alpha1.NodeRefreshInPlace, nil), refused)
		checkErr(t, update(v1alpha1.NodeRefreshEvict, func(k *v1alpha1.KSASigningKey) { k.TokenReloadSeconds++ }), refused)
		checkErr(t, update(v1alpha1.NodeRefreshEvict, func(k *v1alpha1.KSASigningKey) {
			k.Source = v1alpha1.KeySourceExternal
		}), refused)
	}
}
