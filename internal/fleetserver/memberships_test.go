package fleetserver_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/api/gkehub/v1"
	"google.golang.org/api/googleapi"

	"github.com/keyturn/keyturn/internal/fleetserver"
	"github.com/keyturn/keyturn/internal/keystore"
)

// TestLife takes a membership from its beginning to its end with Google's client.
func TestLife(t *testing.T) {
	f := newFleet(t)
	created, err := f.memberships().Create(parent, &gkehub.Membership{
		Authority: &gkehub.Authority{Issuer: issuer, OidcJwks: encoded(keySet(t, first))},
		Labels:    map[string]string{"team": "till"}, ExternalId: "b3a1",
		Description: "ignored", UniqueId: "ignored", DeleteTime: "ignored", ClusterTier: "STANDARD",
		Endpoint: &gkehub.MembershipEndpoint{OnPremCluster: &gkehub.OnPremCluster{ClusterMissing: true}},
	}).MembershipId("m").Do()
	must(t, err)
	result := finished(t, f, created, "create")
	m, err := f.memberships().Get(name("m")).Do()
	must(t, err)
	if !sameJSON(t, result, m) {
		t.Errorf("the operation has %v, the membership is %v", result, m)
	}
	checkMembership(t, m)

	// The patch holds other fields too, which the mask does not name.
	patch := &gkehub.Membership{
		ExternalId: "other", Authority: &gkehub.Authority{OidcJwks: encoded(keySet(t, first, second))},
	}
	patched, err := f.memberships().Patch(name("m"), patch).UpdateMask("authority.oidcJwks").Do()
	must(t, err)
	result = finished(t, f, patched, "update")
	if result.ExternalId != "b3a1" || result.Authority.Issuer != issuer ||
		result.Authority.OidcJwks != patch.Authority.OidcJwks ||
		result.UniqueId != m.UniqueId || result.CreateTime != m.CreateTime || result.UpdateTime <= m.UpdateTime {
		t.Errorf("patched to %+v", result)
	}
	if !f.accepts("m", first) || !f.accepts("m", second) {
		t.Error("a published key is refused")
	}

	deleted, err := f.memberships().Delete(name("m")).Force(true).Do()
	must(t, err)
	finished(t, f, deleted, "delete")
	_, err = f.memberships().Get(name("m")).Do()
	checkStatus(t, "get after delete", err, 404, "NOT_FOUND")
	if a := f.exchange("m", f.good(first)); a.Error != "invalid_target" {
		t.Errorf("exchange after delete: %s", a.body)
	}
	f.register("m", second)
	if again, err := f.memberships().Get(name("m")).Do(); err != nil || again.UniqueId == m.UniqueId {
		t.Errorf("created again: %v, %v", again, err)
	}
}

func checkMembership(t *testing.T, m *gkehub.Membership) {
	t.Helper()
	if m.Name != name("m") || m.UniqueId == "" || m.UniqueId == "ignored" || m.State.Code != "READY" ||
		m.ExternalId != "b3a1" ||
		m.Labels["team"] != "till" || m.Description != "" || m.DeleteTime != "" || !m.Endpoint.OnPremCluster.ClusterMissing {
		t.Errorf("membership is %+v", m)
	}
	a := m.Authority
	if a.Issuer != issuer || a.OidcJwks != encoded(keySet(t, first)) ||
		a.WorkloadIdentityPool != "demo-project.svc.id.goog" ||
		a.IdentityProvider != "https://gkehub.googleapis.com/"+name("m") {
		t.Errorf("authority is %+v", a)
	}
	for _, when := range []string{m.CreateTime, m.UpdateTime} {
		if _, err := time.Parse(time.RFC3339, when); err != nil {
			t.Error(err)
		}
	}
}

// finished finds the operation again and returns its response.
func finished(t *testing.T, f *fleet, o *gkehub.Operation, verb string) *gkehub.Membership {
	t.Helper()
	o, err := f.hub.Projects.Locations.Operations.Get(o.Name).Do()
	must(t, err)
	var about gkehub.OperationMetadata
	must(t, json.Unmarshal(o.Metadata, &about))
	if !o.Done || o.Error != nil || about.Verb != verb || about.Target != name("m") || about.EndTime == "" {
		t.Errorf("operation is %+v, %+v", o, about)
	}
	var typed struct {
		Type string `json:"@type"`
	}
	var m gkehub.Membership
	must(t, json.Unmarshal(o.Response, &typed))
	must(t, json.Unmarshal(o.Response, &m))
	want := "type.googleapis.com/google.cloud.gkehub.v1.Membership"
	if verb == "delete" {
		want = "type.googleapis.com/google.protobuf.Empty"
	}
	if typed.Type != want {
		t.Errorf("response of type %s", typed.Type)
	}
	return &m
}

func sameJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, err := json.Marshal(a)
	must(t, err)
	y, err := json.Marshal(b)
	must(t, err)
	return string(x) == string(y)
}

func checkStatus(t *testing.T, what string, err error, code int, status string) {
	t.Helper()
	e, ok := errors.AsType[*googleapi.Error](err)
	if !ok || e.Code != code || !strings.Contains(e.Body, `"status":"`+status+`"`) || e.Message == "" {
		t.Errorf("%s: %v, want %d %s", what, err, code, status)
	}
}

func TestRefusedWrites(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	before, err := f.memberships().Get(name("m")).Do()
	must(t, err)
	create := func(id string, m gkehub.Membership) error {
		_, err := f.memberships().Create(parent, &m).MembershipId(id).Do()
		return err
	}
	patch := func(id, mask string, m gkehub.Membership) error {
		_, err := f.memberships().Patch(name(id), &m).UpdateMask(mask).Do()
		return err
	}
	keys := func(document string) gkehub.Membership {
		return gkehub.Membership{Authority: &gkehub.Authority{Issuer: issuer, OidcJwks: encoded([]byte(document))}}
	}
	var many []keystore.KeyPair
	for i := range 17 {
		k := first
		k.KeyID = fmt.Sprint("kid-", i)
		many = append(many, k)
	}
	private := strings.Replace(string(keySet(t, first)), `"crv"`, `"d":"c2VjcmV0","crv"`, 1)
	anyone := gkehub.Membership{}
	longEndpoint := gkehub.Membership{Endpoint: &gkehub.MembershipEndpoint{
		OnPremCluster: &gkehub.OnPremCluster{ResourceLink: strings.Repeat("x", 16<<10)},
	}}
	_, deleteUnknown := f.memberships().Delete(name("unknown")).Do()
	_, wrongForce := f.memberships().Delete(name("m")).Do(googleapi.QueryParameter("force", "perhaps"))
	_, wrongParent := f.memberships().Create("projects/demo-project/locations/-", &anyone).MembershipId("x").Do()
	_, wrongRequest := f.memberships().Create(parent, &anyone).MembershipId("x").RequestId("1").Do()
	_, zeroRequest := f.memberships().Create(parent, &anyone).MembershipId("x").
		RequestId("00000000-0000-0000-0000-000000000000").Do()
	for what, test := range map[string]struct {
		err    error
		code   int
		status string
	}{
		"create twice":     {create("m", anyone), 409, "ALREADY_EXISTS"},
		"create unnamed":   {create("", anyone), 400, "INVALID_ARGUMENT"},
		"upper case":       {create("M", anyone), 400, "INVALID_ARGUMENT"},
		"64 characters":    {create(strings.Repeat("m", 64), anyone), 400, "INVALID_ARGUMENT"},
		"wrong location":   {wrongParent, 400, "INVALID_ARGUMENT"},
		"wrong request ID": {wrongRequest, 400, "INVALID_ARGUMENT"},
		"zero request ID":  {zeroRequest, 400, "INVALID_ARGUMENT"},
		"http issuer": {
			create("x", gkehub.Membership{Authority: &gkehub.Authority{Issuer: "http://issuer.example"}}), 400,
			"INVALID_ARGUMENT",
		},
		"long issuer": {
			create("x", gkehub.Membership{Authority: &gkehub.Authority{Issuer: issuer + "/" + strings.Repeat("x", 2000)}}), 400,
			"INVALID_ARGUMENT",
		},
		"no JWKS":     {create("x", keys("secret")), 400, "INVALID_ARGUMENT"},
		"private key": {create("x", keys(private)), 400, "INVALID_ARGUMENT"},
		"17 keys":     {create("x", keys(string(keySet(t, many...)))), 400, "INVALID_ARGUMENT"},
		"long JWKS":   {create("x", keys(`{"keys":[]`+strings.Repeat(" ", 64<<10)+"}")), 400, "INVALID_ARGUMENT"},
		"no base64": {
			create("x", gkehub.Membership{Authority: &gkehub.Authority{OidcJwks: "*"}}), 400, "INVALID_ARGUMENT",
		},
		"external ID":       {create("x", gkehub.Membership{ExternalId: "a b"}), 400, "INVALID_ARGUMENT"},
		"label":             {create("x", gkehub.Membership{Labels: map[string]string{"A": "b"}}), 400, "INVALID_ARGUMENT"},
		"long endpoint":     {create("x", longEndpoint), 400, "INVALID_ARGUMENT"},
		"patch unknown":     {patch("unknown", "labels", anyone), 404, "NOT_FOUND"},
		"no mask":           {patch("m", "", anyone), 400, "INVALID_ARGUMENT"},
		"unknown mask":      {patch("m", "labels,secret", anyone), 400, "INVALID_ARGUMENT"},
		"patch to bad keys": {patch("m", "authority.oidcJwks", keys("{}")), 400, "INVALID_ARGUMENT"},
		"other issuer": {
			patch("m", "authority.issuer", gkehub.Membership{Authority: &gkehub.Authority{Issuer: issuer + "/2"}}), 400,
			"FAILED_PRECONDITION",
		},
		"other authority": {
			patch("m", "authority", gkehub.Membership{Authority: &gkehub.Authority{Issuer: issuer + "/2"}}), 400,
			"FAILED_PRECONDITION",
		},
		"other everything": {
			patch("m", "*", gkehub.Membership{Authority: &gkehub.Authority{Issuer: issuer + "/2"}}), 400, "FAILED_PRECONDITION",
		},
		"delete unknown": {deleteUnknown, 404, "NOT_FOUND"},
		"force":          {wrongForce, 400, "INVALID_ARGUMENT"},
	} {
		checkStatus(t, what, test.err, test.code, test.status)
		if strings.Contains(fmt.Sprint(test.err), "c2VjcmV0") {
			t.Errorf("%s: the error quotes a key", what)
		}
	}
	after, err := f.memberships().Get(name("m")).Do()
	must(t, err)
	list, err := f.memberships().List(parent).Do()
	if must(t, err); !sameJSON(t, before, after) || len(list.Resources) != 1 {
		t.Errorf("a refused write changed %v to %v, of %d", before, after, len(list.Resources))
	}
}

func TestBadBodies(t *testing.T) {
	f := newFleet(t)
	access := f.account(nil).AccessToken
	for _, body := range []string{
		"", "x", "[]", `{"secret":1}`, `{}{}`, `{"endpoint":5}`, `{"labels":{"a":1}}`, `{"authority":{"secret":1}}`,
	} {
		r := httptest.NewRequest(http.MethodPost, "/v1/"+parent+"/memberships?membershipId=m", strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+access)
		if a := f.send(r); a.status != http.StatusBadRequest || !strings.Contains(a.body, "INVALID_ARGUMENT") {
			t.Errorf("%s: %d %s", body, a.status, a.body)
		}
	}
	m := &gkehub.Membership{ExternalId: strings.Repeat("x", 256<<10)}
	_, err := f.memberships().Create(parent, m).MembershipId("m").Do()
	checkStatus(t, "long body", err, 400, "INVALID_ARGUMENT")
}

// TestIssuer is cleared before another is set, and meanwhile nothing is trusted.
func TestIssuer(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	patch := func(mask string, a *gkehub.Authority) {
		t.Helper()
		_, err := f.memberships().Patch(name("m"), &gkehub.Membership{Authority: a}).UpdateMask(mask).Do()
		must(t, err)
	}
	patch("authority.issuer", nil)
	if a := f.exchange("m", f.good(first)); a.Error != "invalid_target" {
		t.Errorf("without an issuer: %s", a.body)
	}
	patch("authority.issuer", &gkehub.Authority{Issuer: issuer + "/2"})
	if f.accepts("m", first) {
		t.Error("the old issuer is accepted")
	}
	c := claims(f.now())
	c.Issuer = issuer + "/2"
	if a := f.exchange("m", sign(t, first, c)); a.status != http.StatusOK {
		t.Errorf("the new issuer: %s", a.body)
	}
	patch("authority", nil)
	m, err := f.memberships().Get(name("m")).Do()
	if must(t, err); m.Authority != nil {
		t.Errorf("authority is %+v", m.Authority)
	}
}

// TestMasks takes names as in JSON and as in protocol buffers, and ignores those of fields that only the server sets.
func TestMasks(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	m := &gkehub.Membership{
		ExternalId: "e", Labels: map[string]string{"a": "b"}, Description: "d",
		Authority: &gkehub.Authority{OidcJwks: encoded(keySet(t, second))},
	}
	_, err := f.memberships().Patch(name("m"), m).UpdateMask(
		"external_id,labels,authority.oidc_jwks,description,uniqueId",
	).Do()
	must(t, err)
	got, err := f.memberships().Get(name("m")).Do()
	must(t, err)
	if got.ExternalId != "e" || got.Labels["a"] != "b" || got.Description != "" || got.UniqueId == "" ||
		got.Authority.Issuer != issuer || got.Authority.OidcJwks != m.Authority.OidcJwks {
		t.Errorf("membership is %+v", got)
	}
}

func TestList(t *testing.T) {
	f := newFleet(t)
	var want []string
	for _, id := range []string{"c", "a", "e", "b", "d"} {
		f.register(id)
		want = append(want, name(id))
	}
	elsewhere := "projects/demo-project/locations/europe-west1"
	for _, parent := range []string{elsewhere, "projects/other-project/locations/global"} {
		_, err := f.memberships().Create(parent, &gkehub.Membership{}).MembershipId("z").Do()
		must(t, err)
	}
	slices.Sort(want)
	list := func(parent string, size int64) (names []string) {
		call, pages := f.memberships().List(parent).PageSize(size), 0
		must(t, call.Pages(t.Context(), func(page *gkehub.ListMembershipsResponse) error {
			for _, m := range page.Resources {
				names = append(names, m.Name)
			}
			pages++
			return nil
		}))
		if wantPages := 3; size == 2 && pages != wantPages {
			t.Errorf("%d pages", pages)
		}
		return names
	}
	for _, size := range []int64{0, 1, 2, 5, 6} {
		if got := list(parent, size); !slices.Equal(got, want) {
			t.Errorf("pages of %d: %q", size, got)
		}
	}
	if got := list("projects/demo-project/locations/-", 0); !slices.Equal(got,
		slices.Insert(want, 0, elsewhere+"/memberships/z")) {
		t.Errorf("in all locations: %q", got)
	}
	for what, call := range map[string]*gkehub.ProjectsLocationsMembershipsListCall{
		"filter": f.memberships().List(parent).Filter("labels.a:*"), "size": f.memberships().List(parent).PageSize(-1),
		"token": f.memberships().List(parent).PageToken("*"),
	} {
		_, err := call.Do()
		checkStatus(t, what, err, 400, "INVALID_ARGUMENT")
	}
}

func TestIfMatch(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	m, err := f.memberships().Get(name("m")).Do()
	must(t, err)
	patch := func() error {
		call := f.memberships().Patch(name("m"), &gkehub.Membership{ExternalId: "e"}).UpdateMask("externalId")
		call.Header().Set("If-Match", m.Header.Get("ETag"))
		_, err := call.Do()
		return err
	}
	must(t, patch())
	checkStatus(t, "with an old ETag", patch(), 412, "FAILED_PRECONDITION")
}

// TestRequestID sends writes again whose answers may have been lost.
func TestRequestID(t *testing.T) {
	f := newFleet(t)
	const id = "6f1cf0ba-8f4b-4b3c-9b1c-0a5b8b1f6a10"
	var names []string
	for range 2 {
		o, err := f.memberships().Create(parent, &gkehub.Membership{}).MembershipId("m").RequestId(id).Do()
		must(t, err)
		names = append(names, o.Name)
		f.reopen()
	}
	for range 2 {
		o, err := f.memberships().Delete(name("m")).RequestId(id).Do()
		must(t, err)
		names = append(names, o.Name)
	}
	if names[0] != names[1] || names[2] != names[3] || names[0] == names[2] {
		t.Errorf("operations %q", names)
	}
}

func TestOperationsTakeTime(t *testing.T) {
	f := newFleet(t, func(o *fleetserver.Options) { o.Faults = &fleetserver.Faults{OperationDelay: time.Minute} })
	state := func() string {
		m, err := f.memberships().Get(name("m")).Do()
		must(t, err)
		return m.State.Code
	}
	begin := func(o *gkehub.Operation, err error) {
		t.Helper()
		must(t, err)
		if o, err = f.hub.Projects.Locations.Operations.Get(o.Name).Do(); err != nil || o.Done || len(o.Response) > 0 {
			t.Errorf("operation is %+v, %v", o, err)
		}
	}
	create := f.memberships().Create(parent, &gkehub.Membership{
		Authority: &gkehub.Authority{Issuer: issuer, OidcJwks: encoded(keySet(t, first))},
	}).MembershipId("m")
	patch := f.memberships().Patch(name("m"),
		&gkehub.Membership{Authority: &gkehub.Authority{OidcJwks: encoded(keySet(t, second))}}).
		UpdateMask("authority.oidcJwks")
	begin(create.Do())
	if got := state(); got != "CREATING" {
		t.Error(got)
	}
	_, err := patch.Do()
	checkStatus(t, "patch while creating", err, 409, "ABORTED")
	f.advance(time.Minute)
	if got := state(); got != "READY" || !f.accepts("m", first) {
		t.Error(got)
	}
	begin(patch.Do())
	if got := state(); got != "UPDATING" || !f.accepts("m", first) || f.accepts("m", second) {
		t.Errorf("%s; the new keys count too early", got)
	}
	f.advance(time.Minute)
	if f.accepts("m", first) || !f.accepts("m", second) {
		t.Error("the new keys do not count")
	}
	begin(f.memberships().Delete(name("m")).Do())
	if got := state(); got != "DELETING" {
		t.Error(got)
	}
	_, err = create.Do()
	checkStatus(t, "create while deleting", err, 409, "ALREADY_EXISTS")
	f.advance(time.Minute)
	_, err = f.memberships().Get(name("m")).Do()
	checkStatus(t, "get after delete", err, 404, "NOT_FOUND")
	begin(create.Do())
}

func TestOldOperationsAreForgotten(t *testing.T) {
	f := newFleet(t)
	o, err := f.memberships().Create(parent, &gkehub.Membership{}).MembershipId("m").Do()
	must(t, err)
	f.advance(time.Hour + time.Second)
	access := f.account(nil).AccessToken // not Google's client: it does not have the time of the server
	call := func(method, path string) int {
		r := httptest.NewRequest(method, path, strings.NewReader("{}"))
		r.Header.Set("Authorization", "Bearer "+access)
		return f.send(r).status
	}
	if got := call(http.MethodPost, "/v1/"+parent+"/memberships?membershipId=n"); got != http.StatusOK {
		t.Errorf("create: %d", got)
	}
	if got := call(http.MethodGet, "/v1/"+o.Name); got != http.StatusNotFound {
		t.Errorf("old operation: %d", got)
	}
}

// TestWritesDoNotUndoEachOther patches different fields at the same time.
func TestWritesDoNotUndoEachOther(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	const rounds = 20
	var wg sync.WaitGroup
	for mask, m := range map[string]func(i int) *gkehub.Membership{
		"externalId": func(i int) *gkehub.Membership { return &gkehub.Membership{ExternalId: fmt.Sprint(i)} },
		"labels": func(i int) *gkehub.Membership {
			return &gkehub.Membership{Labels: map[string]string{"i": fmt.Sprint(i)}}
		},
	} {
		wg.Go(func() {
			for i := range rounds {
				if _, err := f.memberships().Patch(name("m"), m(i)).UpdateMask(mask).Do(); err != nil {
					t.Error(err)
				}
				got, err := f.memberships().Get(name("m")).Do()
				if err != nil || mask == "labels" && got.Labels["i"] != fmt.Sprint(i) || mask == "externalId" &&
					got.ExternalId != fmt.Sprint(i) {
					t.Errorf("%s %d: %+v, %v", mask, i, got, err)
				}
			}
		})
	}
	wg.Wait()
}

// TestOnlyRegistrars may use the API.
func TestOnlyRegistrars(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	pod := f.exchange("m", f.good(first)).AccessToken
	narrow := f.account(map[string]any{"scope": "https://www.googleapis.com/auth/devstorage.read_only"}).AccessToken
	wide := f.account(nil).AccessToken
	for what, test := range map[string]struct {
		authorization, query string
		want                 int
	}{
		"nothing":        {"", "", http.StatusUnauthorized},
		"no such token":  {"Bearer x", "", http.StatusUnauthorized},
		"basic":          {"Basic " + wide, "", http.StatusUnauthorized},
		"in the query":   {"", "?access_token=" + wide, http.StatusUnauthorized},
		"the KSA token":  {"Bearer " + f.good(first), "", http.StatusUnauthorized},
		"a pod":          {"Bearer " + pod, "", http.StatusForbidden},
		"another scope":  {"Bearer " + narrow, "", http.StatusForbidden},
		"the registrar":  {"Bearer " + wide, "", http.StatusOK},
		"in lower cases": {"bearer " + wide, "", http.StatusOK},
	} {
		for _, method := range []string{http.MethodGet, http.MethodDelete} {
			if method == http.MethodDelete && test.want == http.StatusOK {
				continue
			}
			r := httptest.NewRequest(method, "/v1/"+name("m")+test.query, nil)
			r.Header.Set("Authorization", test.authorization)
			a := f.send(r)
			if a.status != test.want || (a.header.Get("WWW-Authenticate") != "") != (a.status == http.StatusUnauthorized) {
				t.Errorf("%s, %s: %d %s", what, method, a.status, a.body)
			}
		}
	}
}

// TestFormerRegistrar has an access token from before it was taken from the list.
func TestFormerRegistrar(t *testing.T) {
	f := newFleet(t)
	f.register("m", first)
	f.options.Registrars = nil
	access := f.account(nil).AccessToken
	f.reopen()
	r := httptest.NewRequest(http.MethodGet, "/v1/"+name("m"), nil)
	r.Header.Set("Authorization", "Bearer "+access)
	if a := f.send(r); a.status != http.StatusForbidden {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// TestPodThatIsCalledLikeARegistrar lists the principal of a pod as a registrar: the pod still is none.
func TestPodThatIsCalledLikeARegistrar(t *testing.T) {
	f := newFleet(t, func(o *fleetserver.Options) {
		double := registrar
		double.ClientEmail = wantPrincipal
		o.Registrars = append(o.Registrars, double)
	})
	f.register("m", first)
	r := httptest.NewRequest(http.MethodDelete, "/v1/"+name("m"), nil)
	r.Header.Set("Authorization", "Bearer "+f.exchange("m", f.good(first)).AccessToken)
	if a := f.send(r); a.status != http.StatusForbidden {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestUnknownPaths(t *testing.T) {
	f := newFleet(t)
	for _, path := range []string{
		"/", "/v1/projects/p/locations/l/features", "/v1/token/x", "/v1/" + name("m") + ":setIamPolicy",
	} {
		if a := f.send(httptest.NewRequest(http.MethodPost, path, nil)); a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
}
