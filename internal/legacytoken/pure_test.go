package legacytoken

import (
	"crypto"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/keystore"
	"github.com/keyturn/keyturn/internal/podtokens"
	"github.com/keyturn/keyturn/jwks"
	"github.com/keyturn/keyturn/token"
)

func TestProven(t *testing.T) {
	for _, test := range []struct {
		result Result
		want   bool
	}{
		{Result{}, false},
		{Result{Complete: true}, true},
		{Result{Complete: true, Total: 3, Pending: 1, Notified: 1, Copied: 1}, true},
		{Result{Complete: true, Stale: 1}, false},
		{Result{Complete: true, Resigned: 1}, false},
		{Result{Total: 3}, false},
	} {
		if got := test.result.Proven(); got != test.want {
			t.Errorf("%+v: %t", test.result, got)
		}
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		reason Reason
		needs  bool
		words  string
	}{
		{
			Immutable, true,
			"Secret ns/s is immutable, so its token cannot be re-signed: delete it, and create it again without `immutable`",
		},
		{Refused, true, "Secret ns/s must not be written: detail"},
		{Orphaned, false, "Secret ns/s is left over from detail: kube-controller-manager is to delete it"},
		{Unanswered, false, "Secret ns/s could not be written, and is tried again: detail"},
		{WrittenBack, true, "Secret ns/s gets an old token back each time that it was re-signed, from field manager " +
			"detail: have that tool leave data.token of the Secret alone"},
		{Failed, false, "Secret ns/s could not be written, and is tried again: detail"},
	} {
		p := Problem{Namespace: "ns", Name: "s", Reason: test.reason, Detail: "detail"}
		if p.NeedsAction() != test.needs || p.String() != test.words {
			t.Errorf("%s: %t, %s", test.reason, p.NeedsAction(), p)
		}
		if p.Lasting = true; !p.NeedsAction() {
			t.Errorf("%s that lasts needs no action", test.reason)
		}
	}
	c := Copy{Namespace: "ns", Pod: "p", Secret: "s", By: podtokens.SubPath}
	const want = "pod ns/p uses the token of Secret s by subPath: restart it once the token is re-signed"
	if c.String() != want {
		t.Errorf("got %s, want %s", c, want)
	}
}

func TestNamedIsBounded(t *testing.T) {
	var list []int
	for i := range MaxNamed + 2 {
		list = named(list, i)
	}
	if len(list) != MaxNamed || list[MaxNamed-1] != MaxNamed-1 {
		t.Errorf("named are %v", list)
	}
}

func TestRefusedWrites(t *testing.T) {
	secrets := schema.GroupResource{Resource: "secrets"}
	kind := schema.GroupKind{Kind: "Secret"}
	status := func(code int32) error { return &apierrors.StatusError{ErrStatus: metav1.Status{Code: code}} }
	for _, test := range []struct {
		err  error
		want bool
	}{
		{errors.New("connection lost"), false},
		{status(399), false}, {status(400), true}, {status(499), true}, {status(500), false},
		{apierrors.NewForbidden(secrets, "s", nil), true},
		{fmt.Errorf("wrapped: %w", apierrors.NewInvalid(kind, "s", nil)), true},
		{apierrors.NewNotFound(secrets, "s"), false},
		{apierrors.NewConflict(secrets, "s", nil), false},
		{apierrors.NewTooManyRequests("", 1), false},
		{status(408), false},
	} {
		if got := refused(test.err); got != test.want {
			t.Errorf("%v: %t", test.err, got)
		}
	}
}

func TestResignedAt(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
	entry := func(change func(*metav1.ManagedFieldsEntry)) *corev1.Secret {
		m := metav1.ManagedFieldsEntry{Manager: fieldManager, Operation: metav1.ManagedFieldsOperationUpdate, Time: &at}
		change(&m)
		return &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{
				ManagedFields: []metav1.ManagedFieldsEntry{{Manager: "kubectl", Time: &metav1.Time{}}, m},
			},
		}
	}
	for name, test := range map[string]struct {
		secret *corev1.Secret
		want   bool
	}{
		"by us":            {entry(func(*metav1.ManagedFieldsEntry) {}), true},
		"by somebody else": {entry(func(m *metav1.ManagedFieldsEntry) { m.Manager = "other" }), false},
		"applied": {
			entry(func(m *metav1.ManagedFieldsEntry) { m.Operation = metav1.ManagedFieldsOperationApply }), false,
		},
		"at an unknown time": {entry(func(m *metav1.ManagedFieldsEntry) { m.Time = nil }), false},
		"never":              {&corev1.Secret{}, false},
	} {
		got, ok := resignedAt(test.secret)
		if ok != test.want || ok && !got.Equal(at.Time) {
			t.Errorf("%s: %s, %t", name, got, ok)
		}
	}
}

func TestImmutable(t *testing.T) {
	yes, no := true, false
	for _, test := range []struct {
		is   *bool
		want bool
	}{{nil, false}, {&no, false}, {&yes, true}} {
		if got := isImmutable(&corev1.Secret{Immutable: test.is}); got != test.want {
			t.Errorf("%v: %t", test.is, got)
		}
	}
}

// TestUses has a pod for each way to use the token of Secret s; package podtokens knows more of them.
func TestUses(t *testing.T) {
	volumes := []corev1.Volume{secretVolume("s"), {Name: "issued", VolumeSource: corev1.VolumeSource{
		Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
		}},
	}}}
	issued := corev1.VolumeMount{Name: "issued"}
	whole, subPath := corev1.VolumeMount{Name: "v-s"}, corev1.VolumeMount{Name: "v-s", SubPath: "token"}
	from := []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{
		LocalObjectReference: corev1.LocalObjectReference{Name: "s"},
	}}}
	tests := []struct {
		name      string
		container corev1.Container
		want      string
	}{
		{"none", corev1.Container{VolumeMounts: []corev1.VolumeMount{issued}}, ""},
		{"a volume", corev1.Container{VolumeMounts: []corev1.VolumeMount{whole, issued}}, "mounted"},
		{"a subPath", corev1.Container{VolumeMounts: []corev1.VolumeMount{subPath}}, "mounted subPath"},
		{"variables", corev1.Container{EnvFrom: from}, "environment"},
		{"both", corev1.Container{VolumeMounts: []corev1.VolumeMount{whole}, EnvFrom: from}, "mounted environment"},
	}
	for _, test := range tests {
		created := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC))
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", CreationTimestamp: created}}
		pod.Spec.Volumes, pod.Spec.Containers = volumes, []corev1.Container{test.container}
		pod.Annotations = map[string]string{v1alpha1.AnnotationTokenRefreshed: "2.7"}
		var got []string
		for _, u := range appendUses(nil, pod) {
			if u.namespace != "ns" || u.name != "s" || u.value.pod != "p" ||
				u.value.notified != (write{version: 2, resourceVersion: 7}) ||
				!u.value.created.Equal(created.Time) {
				t.Errorf("%s: %+v", test.name, u)
			}
			if u.value.mounted {
				got = append(got, "mounted")
			}
			if u.value.copied != "" {
				got = append(got, string(u.value.copied))
			}
		}
		if joined := strings.Join(got, " "); joined != test.want {
			t.Errorf("%s: %q, want %q", test.name, joined, test.want)
		}
		pod.DeletionTimestamp = &metav1.Time{}
		if uses := appendUses(make([]item[use], 1), pod); len(uses) != 1 {
			t.Errorf("%s, ending: %+v, want the one of another pod", test.name, uses)
		}
	}
}

func TestCollect(t *testing.T) {
	items := []item[int]{{"a", "x", 1}, {"b", "x", 2}, {"b", "x", 3}, {"c", "x", 4}}
	for namespace, want := range map[string]struct {
		values []int
		rest   int
	}{"0": {nil, 4}, "a": {[]int{1}, 3}, "b": {[]int{2, 3}, 1}, "c": {[]int{4}, 0}, "d": {nil, 0}} {
		values := map[string][]int{}
		rest := collect(items, namespace, values)
		if !slices.Equal(values["x"], want.values) || len(rest) != want.rest {
			t.Errorf("%s: %v, rest %v", namespace, values, rest)
		}
	}
}

func TestRecord(t *testing.T) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}}
	uses := []use{{pod: "a"}, {pod: "b", copied: podtokens.SubPath}, {pod: "c", copied: podtokens.Environment}}
	problem := problemOf(secret, Immutable, "detail")
	for name, test := range map[string]struct {
		done outcome
		want Result
	}{
		"gone":      {outcome{condition: gone}, Result{}},
		"foreign":   {outcome{condition: foreign}, Result{}},
		"empty":     {outcome{condition: empty}, Result{Total: 1, Pending: 1}},
		"fresh":     {outcome{condition: fresh}, Result{Total: 1, Copied: 2}},
		"re-signed": {outcome{condition: fresh, resigned: true}, Result{Total: 1, Resigned: 1, Copied: 2}},
		"stale":     {outcome{condition: stale, problem: problem}, Result{Total: 1, Stale: 1}},
	} {
		w := &walk{history: &history{}}
		w.record(task{secret: secret, uses: uses}, test.done)
		got := w.result
		copies := []Copy{
			{Namespace: "ns", Pod: "b", Secret: "s", By: podtokens.SubPath},
			{Namespace: "ns", Pod: "c", Secret: "s", By: podtokens.Environment},
		}
		blocked := []Problem{{Namespace: "ns", Name: "s", Reason: Immutable, Detail: "detail"}}
		if !slices.Equal(got.Copies, copies[:got.Copied]) || !slices.Equal(got.Blocked, blocked[:got.Stale]) {
			t.Errorf("%s: named are %+v", name, got)
		}
		got.Copies, got.Blocked = nil, nil
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, test.want)
		}
	}
}

func TestIdle(t *testing.T) {
	for _, test := range []struct {
		result     Result
		unnotified bool
		want       bool
	}{
		{Result{}, false, true}, {Result{Total: 9, Stale: 1}, false, true},
		{Result{Resigned: 1}, false, false}, {Result{Notified: 1}, false, false}, {Result{}, true, false},
	} {
		w := &walk{result: test.result, unnotified: test.unnotified}
		if got := w.idle(); got != test.want {
			t.Errorf("%+v, unnotified %t: %t", test.result, test.unnotified, got)
		}
	}
}

func TestDefaults(t *testing.T) {
	if r := (&Refresher{}); r.workers() != DefaultWorkers || r.pageSize() != DefaultPageSize {
		t.Errorf("defaults are %d and %d", r.workers(), r.pageSize())
	}
	if r := (&Refresher{Workers: 1, PageSize: 1}); r.workers() != 1 || r.pageSize() != 1 {
		t.Errorf("set are %d and %d", r.workers(), r.pageSize())
	}
}

// TestJudgeSecret has a Secret of each kind, held against a target.
func TestJudgeSecret(t *testing.T) {
	was, is := generate(t, 1, jwks.ES256), generate(t, 2, jwks.ES256)
	target := targetOf(t, is)
	secret := func(change func(*corev1.Secret)) *corev1.Secret {
		s := legacySecret(t, is, "ns", "s", "robot", "uid")
		if change != nil {
			change(s)
		}
		return s
	}
	for name, test := range map[string]struct {
		secret *corev1.Secret
		want   condition
	}{
		"of the target's key": {secret(nil), fresh},
		"of another key":      {legacySecret(t, was, "ns", "s", "robot", "uid"), stale},
		"no token":            {secret(func(s *corev1.Secret) { s.Data["token"] = []byte("garbage") }), stale},
		"empty":               {secret(func(s *corev1.Secret) { s.Data = nil }), empty},
		"of another type":     {secret(func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }), foreign},
	} {
		if got := target.judge(test.secret); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
	// A target without a kid is no license to take what is no token for a fresh one.
	if got := (Target{}).judge(secret(func(s *corev1.Secret) { s.Data["token"] = []byte("garbage") })); got != stale {
		t.Errorf("no token, no kid: %d", got)
	}
}

// TestResignLeavesWhatWasRead signs a token, and finds it in the copy only.
func TestResignLeavesWhatWasRead(t *testing.T) {
	was, is := generate(t, 1, jwks.ES256), generate(t, 2, jwks.ES256)
	read := legacySecret(t, was, "ns", "s", "robot", "uid")
	read.Annotations[corev1.ServiceAccountUIDKey] = ""
	read.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl"}}
	target := targetOf(t, is)
	got, err := target.resign(read, "new-uid")
	if err != nil {
		t.Fatal(err)
	}
	if target.judge(got) != fresh || got.Annotations[corev1.ServiceAccountUIDKey] != "new-uid" ||
		got.ManagedFields != nil {
		t.Errorf("re-signed: %+v", got.ObjectMeta)
	}
	claims, err := token.Verify(string(got.Data["token"]), set(t, is),
		token.Expect{Issuer: token.LegacyIssuer, Now: time.Now()})
	if want := (token.Legacy{
		Namespace: "ns", SecretName: "s", ServiceAccountName: "robot", ServiceAccountUID: "new-uid",
	}); err != nil || claims.Legacy == nil || *claims.Legacy != want {
		t.Errorf("the claims are %+v (%v), want %+v", claims.Legacy, err, want)
	}
	if target.judge(read) != stale || read.Annotations[corev1.ServiceAccountUIDKey] != "" || len(read.ManagedFields) != 1 {
		t.Errorf("what was read has changed: %+v", read.ObjectMeta)
	}
}

func set(t *testing.T, k keystore.KeyPair) jwks.Set {
	t.Helper()
	key, err := jwks.NewKey(k.Signer.Public())
	if err != nil {
		t.Fatal(err)
	}
	s, err := jwks.NewSet(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// broken is a key that does not sign.
type broken struct{ crypto.Signer }

func (broken) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("the key is away")
}

func TestResignWithABrokenKey(t *testing.T) {
	k := generate(t, 2, jwks.ES256)
	read := legacySecret(t, k, "ns", "s", "robot", "uid")
	k.Signer = broken{k.Signer}
	if got, err := targetOf(t, k).resign(read, "uid"); err == nil || got != nil {
		t.Errorf("re-signed: %v, %v", got, err)
	}
}
