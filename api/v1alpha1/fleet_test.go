package v1alpha1_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
)

// inFleet registers a cluster with a fleet, and publishes its keys at two places.
func inFleet(uc *v1alpha1.UserCluster) {
	uc.Spec.KSASigningKey.Issuer = "https://tokens.example.com/a/b"
	uc.Spec.KSASigningKey.Publish = []string{"s3://a", "gs://b"}
	uc.Spec.GKEConnect = &v1alpha1.GKEConnect{
		ProjectID: "my-project-123", Location: "us-central1", CredentialsSecret: "a-gke-connect",
		Endpoint: "https://fleet.test", STSEndpoint: "https://sts.test", CABundle: "pem", PropagationSeconds: 600,
	}
}

func TestCreateInFleet(t *testing.T) {
	type key = v1alpha1.KSASigningKey
	type connect = v1alpha1.GKEConnect
	for _, test := range []struct {
		name    string
		change  func(*key, *connect)
		wantErr string
	}{
		{"valid", func(*key, *connect) {}, ""},
		{"least", func(k *key, c *connect) {
			*c = connect{ProjectID: "domain.com:a-project", Location: "l"}
			k.Publish, k.PublishMaxAgeSeconds = nil, 1
		}, ""},
		{"most", func(k *key, c *connect) {
			k.Issuer = "https://" + strings.Repeat("a", 504)
			k.Publish, k.PublishMaxAgeSeconds = places(8), 604800
			k.Publish[7] = "gs://" + strings.Repeat("a", 507)
			c.PropagationSeconds = 604800
		}, ""},
		{"no project", func(_ *key, c *connect) { c.ProjectID = "" }, "spec.gkeConnect.projectID"},
		{"short project", func(_ *key, c *connect) { c.ProjectID = "a-b-c" }, "spec.gkeConnect.projectID"},
		{"no location", func(_ *key, c *connect) { c.Location = "" }, "spec.gkeConnect.location"},
		{"bad location", func(_ *key, c *connect) { c.Location = "us-" }, "spec.gkeConnect.location"},
		{
			"negative propagation", func(_ *key, c *connect) { c.PropagationSeconds = -1 }, "spec.gkeConnect.propagationSeconds",
		},
		{
			"long propagation", func(_ *key, c *connect) { c.PropagationSeconds = 604801 }, "spec.gkeConnect.propagationSeconds",
		},
		{"plain issuer", func(k *key, _ *connect) { k.Issuer = "http://a.test" }, "spec.ksaSigningKey.issuer"},
		{
			"issuer with a slash at its end", func(k *key, _ *connect) { k.Issuer = "https://a.test/" },
			"spec.ksaSigningKey.issuer",
		},
		{
			"issuer with an empty part", func(k *key, _ *connect) { k.Issuer = "https://a.test//b" },
			"spec.ksaSigningKey.issuer",
		},
		{"issuer with a query", func(k *key, _ *connect) { k.Issuer = "https://a.test?b" }, "spec.ksaSigningKey.issuer"},
		{"issuer with a fragment", func(k *key, _ *connect) { k.Issuer = "https://a.test#b" }, "spec.ksaSigningKey.issuer"},
		{
			"long issuer", func(k *key, _ *connect) { k.Issuer = "https://" + strings.Repeat("a", 505) },
			"may not be more than 512",
		},
		{
			"negative time", func(k *key, _ *connect) { k.PublishMaxAgeSeconds = -1 }, "spec.ksaSigningKey.publishMaxAgeSeconds",
		},
		{
			"long time", func(k *key, _ *connect) { k.PublishMaxAgeSeconds = 604801 }, "spec.ksaSigningKey.publishMaxAgeSeconds",
		},
		{"many places", func(k *key, _ *connect) { k.Publish = places(9) }, "must have at most 8 items"},
		{"a place twice", func(k *key, _ *connect) { k.Publish = []string{"s3://a", "s3://a"} }, "Duplicate value"},
		{
			"long place", func(k *key, _ *connect) { k.Publish = []string{"s3://" + strings.Repeat("a", 508)} },
			"may not be more than 512",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			uc := newCluster("fleet")
			inFleet(uc)
			test.change(&uc.Spec.KSASigningKey, uc.Spec.GKEConnect)
			checkErr(t, admin.Create(t.Context(), uc, client.DryRunAll), test.wantErr)
		})
	}
}

func places(n int) []string {
	var urls []string
	for i := range n {
		urls = append(urls, fmt.Sprintf("s3://bucket-%d", i))
	}
	return urls
}

// A registered cluster keeps what it is known by outside.
func TestFleetTransitions(t *testing.T) {
	const (
		noIssuer = "ksaSigningKey.issuer cannot be changed"
		noChange = "gkeConnect cannot be removed, nor its projectID, location, endpoint or stsEndpoint be changed"
	)
	without, within := createCluster(t, nil), createCluster(t, inFleet)
	finish(t, without)
	within.Status.Publications = []v1alpha1.PublicationStatus{{Name: "fleet membership m", AcceptedVersions: []int32{1}}}
	finish(t, within)
	for _, test := range []struct {
		name    string
		of      *v1alpha1.UserCluster
		change  func(*v1alpha1.UserClusterSpec)
		wantErr string
	}{
		{"register", without, func(s *v1alpha1.UserClusterSpec) {
			s.GKEConnect = &v1alpha1.GKEConnect{ProjectID: "my-project-123", Location: "global"}
		}, ""},
		{"publish", without, func(s *v1alpha1.UserClusterSpec) {
			s.KSASigningKey.Publish = []string{"s3://a"}
		}, "ksaSigningKey.publish needs an issuer"},
		{
			"name an issuer", without, func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Issuer = "https://a.test" }, noIssuer,
		},
		{"maximal age", within, func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.PublishMaxAgeSeconds++ }, ""},
		{"issuer", within, func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Issuer += "/c" }, noIssuer},
		{"publish more", within, func(s *v1alpha1.UserClusterSpec) {
			s.KSASigningKey.Publish = []string{"file:///c", "gs://b", "s3://a"}
		}, ""},
		{"publish less", within, func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Publish = []string{"gs://b"} }, ""},
		{"publish elsewhere", within, func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Publish[0] = "s3://c" }, ""},
		{"publish nowhere", within, func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Publish = nil }, ""},
		{"leave", within, func(s *v1alpha1.UserClusterSpec) { s.GKEConnect = nil }, noChange},
		{"project", within, func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.ProjectID += "4" }, noChange},
		{"location", within, func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.Location = "global" }, noChange},
		{"endpoint", within, func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.Endpoint = "" }, noChange},
		{"STS", within, func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.STSEndpoint += "/v1" }, noChange},
		{"credentials", within, func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.CredentialsSecret = "" }, ""},
		{"certificates", within, func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.CABundle = "" }, ""},
		{"propagation", within, func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.PropagationSeconds = 0 }, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			changed := test.of.DeepCopy()
			test.change(&changed.Spec)
			checkErr(t, admin.Update(t.Context(), changed, client.DryRunAll), test.wantErr)
		})
	}
}

// TestWrongPublication has a cluster that never becomes ready, since it can be neither published nor registered as its
// spec says. Both can be corrected and taken back, without any other change, while no key is rotated. A URL can always
// be taken back.
func TestWrongPublication(t *testing.T) {
	type change func(*v1alpha1.UserClusterSpec)
	takeBack := func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Publish = []string{"s3://a"} }
	correct := func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Publish = []string{"s3://a", "gs://c"} }
	leave := func(s *v1alpha1.UserClusterSpec) { s.GKEConnect = nil }
	move := func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.ProjectID = "my-project-456" }
	and := func(changes ...change) change {
		return func(s *v1alpha1.UserClusterSpec) {
			for _, c := range changes {
				c(s)
			}
		}
	}
	const notReady, deleted = "when cluster is not ready", "when cluster is being deleted"
	const registered = "gkeConnect cannot be removed"
	failed := []v1alpha1.PublicationStatus{
		{Name: "fleet membership m", WaitingFor: "permission denied"}, {Name: "gs://b", WaitingFor: "no bucket"},
	}
	uc := createCluster(t, func(uc *v1alpha1.UserCluster) {
		inFleet(uc)
		uc.Finalizers = []string{v1alpha1.Finalizer}
	})
	uc.Status.Publications = failed
	writeStatus(t, uc, conditions(uc, metav1.ConditionFalse, metav1.ConditionTrue))
	check := func(state string, changes map[string]change, refusal string) {
		t.Helper()
		for name, change := range changes {
			changed := uc.DeepCopy()
			change(&changed.Spec)
			if err := admin.Update(t.Context(), changed, client.DryRunAll); refusal == "" && err != nil ||
				refusal != "" && (err == nil || !strings.Contains(err.Error(), refusal)) {
				t.Errorf("%s, %s: error = %v, want %q", state, name, err, refusal)
			}
		}
	}
	refresh := func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.NodeRefresh = v1alpha1.NodeRefreshInPlace }
	check("never published", map[string]change{"take back": takeBack, "correct": correct, "leave": leave, "move": move},
		"")
	check("never published",
		map[string]change{"take back and more": and(takeBack, refresh), "leave and more": and(leave, refresh)}, notReady)

	uc.Status.Publications[0].AcceptedVersions = []int32{1}
	writeStatus(t, uc, conditions(uc, metav1.ConditionFalse, metav1.ConditionTrue))
	check("registered", map[string]change{"take back": takeBack, "correct": correct}, "")
	check("registered", map[string]change{"leave": leave, "move": move}, registered)

	uc.Status.Publications = failed
	uc.Status.Publications[0].AcceptedVersions = nil
	writeStatus(t, uc, conditions(uc, metav1.ConditionFalse, metav1.ConditionFalse))
	check("rotating", map[string]change{"take back": takeBack}, "")
	check("rotating", map[string]change{"correct": correct, "take back and more": and(takeBack, refresh)}, notReady)
	check("rotating", map[string]change{"leave": leave, "move": move}, registered)

	if err := admin.Delete(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(uc), uc); err != nil {
		t.Fatal(err)
	}
	check("deleted", map[string]change{"take back": takeBack}, "")
	check("deleted", map[string]change{"correct": correct, "take back and more": and(takeBack, refresh)}, deleted)
	checkErr(t, setFinalizers(t, controller, uc), "")
}

// What the controller needs to reach the fleet can change in the middle of anything, but with nothing else.
func TestWayToTheFleetIsFree(t *testing.T) {
	ways := map[string]func(*v1alpha1.UserClusterSpec){
		"new certificates": func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.CABundle = "other" },
		"no certificates":  func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.CABundle = "" },
		"no credentials":   func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.CredentialsSecret = "" },
	}
	others := map[string]func(*v1alpha1.UserClusterSpec){
		"propagation": func(s *v1alpha1.UserClusterSpec) { s.GKEConnect.PropagationSeconds = 0 },
		"maximal age": func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.PublishMaxAgeSeconds++ },
		"a URL": func(s *v1alpha1.UserClusterSpec) {
			s.KSASigningKey.Publish = append(s.KSASigningKey.Publish, "s3://c")
		},
		"a rotation":   func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Version++ },
		"an algorithm": func(s *v1alpha1.UserClusterSpec) { s.KSASigningKey.Algorithm = v1alpha1.ES256 },
		"no pools":     func(s *v1alpha1.UserClusterSpec) { s.Infrastructure.Local.NodePools = nil },
	}
	check := func(t *testing.T, uc *v1alpha1.UserCluster, refusal string) {
		t.Helper()
		for way, change := range ways {
			changed := uc.DeepCopy()
			change(&changed.Spec)
			if err := admin.Update(t.Context(), changed.DeepCopy(), client.DryRunAll); err != nil {
				t.Errorf("%s: %v", way, err)
			}
			for other, change := range others {
				both := changed.DeepCopy()
				change(&both.Spec)
				if err := admin.Update(t.Context(), both, client.DryRunAll); err == nil || !strings.Contains(err.Error(), refusal) {
					t.Errorf("%s and %s: error = %v, want %s", way, other, err, refusal)
				}
			}
		}
	}
	uc := createCluster(t, func(uc *v1alpha1.UserCluster) {
		inFleet(uc)
		uc.Finalizers = []string{v1alpha1.Finalizer}
	})
	check(t, uc, "when cluster is not ready: ready condition is not set")
	finish(t, uc)
	rotate(t, uc)
	check(t, uc, "when cluster is not ready: ready condition is out of date")
	writeStatus(t, uc, conditions(uc, metav1.ConditionFalse, metav1.ConditionFalse))
	check(t, uc, "when cluster is not ready: ready condition is not true")
	if err := admin.Delete(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	if err := admin.Get(t.Context(), client.ObjectKeyFromObject(uc), uc); err != nil {
		t.Fatal(err)
	}
	check(t, uc, "when cluster is being deleted")
	checkErr(t, setFinalizers(t, controller, uc), "")

	// To be registered is more than a way.
	alone := createCluster(t, nil)
	alone.Spec.GKEConnect = &v1alpha1.GKEConnect{ProjectID: "my-project-123", Location: "global"}
	checkErr(t, admin.Update(t.Context(), alone), "when cluster is not ready")
}

// A cluster from before there were issuers has the default one, and can be changed like any other.
func TestClusterFromBefore(t *testing.T) {
	crd := &unstructured.Unstructured{}
	crd.SetGroupVersionKind(schema.GroupVersionKind{
		Group: "apiextensions.k8s.io", Version: "v1", Kind: "CustomResourceDefinition",
	})
	crd.SetName("userclusters.keyturn.dev")
	const key = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/ksaSigningKey"
	before := `[
		{"op": "remove", "path": "` + key + `/x-kubernetes-validations"},
		{"op": "remove", "path": "` + key + `/properties/issuer"},
		{"op": "remove", "path": "` + key + `/properties/publish"},
		{"op": "remove", "path": "` + key + `/properties/publishMaxAgeSeconds"},
		{"op": "replace", "path": "` + key + `/required", "value": ["version"]}]`
	if err := admin.Patch(t.Context(), crd, client.RawPatch(types.JSONPatchType, []byte(before))); err != nil {
		t.Fatal(err)
	}
	// It is a new cluster each time, until the API server knows no issuers.
	old := newCluster("before")
	created := func() error {
		old.ResourceVersion = ""
		return errors.Join(client.IgnoreNotFound(admin.Delete(t.Context(), newCluster("before"))),
			admin.Create(t.Context(), old))
	}
	err := eventually(t.Context(), func(err error) bool { return err == nil && old.Spec.KSASigningKey.Issuer == "" },
		created)
	if err := errors.Join(err, install.Apply(t.Context(), config)); err != nil {
		t.Fatal(err)
	}
	read := func() error { return admin.Get(t.Context(), client.ObjectKeyFromObject(old), old) }
	err = eventually(t.Context(), func(err error) bool { return err == nil && old.Spec.KSASigningKey.Issuer != "" }, read)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(newCluster("before").Spec, old.Spec); diff != "" {
		t.Errorf("spec (-want +got):\n%s", diff)
	}
	finish(t, old)
	named := old.DeepCopy()
	named.Spec.KSASigningKey.Issuer = "https://a.test"
	checkErr(t, admin.Update(t.Context(), named), "ksaSigningKey.issuer cannot be changed")
	rotate(t, old)
}
