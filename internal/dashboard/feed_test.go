package dashboard

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// said is what an update tells, as text.
func said(u update) []string {
	var all []string
	if u.Full {
		all = append(all, "full")
	}
	for _, raw := range u.Rows {
		var row Row
		if err := json.Unmarshal(raw, &row); err != nil {
			panic(err)
		}
		all = append(all, row.Name+" "+row.Revision)
	}
	for _, name := range u.Gone {
		all = append(all, "no "+name)
	}
	if u.Problem != "" {
		all = append(all, u.Problem)
	}
	return all
}

// wantSince wants what is newer than a version, and returns the version after that.
func wantSince(t *testing.T, f *feed, version uint64, want ...string) uint64 {
	t.Helper()
	u, now, _ := f.since(version)
	if diff := cmp.Diff(want, said(u)); diff != "" {
		t.Errorf("since %d (-want +got):\n%s", version, diff)
	}
	return now
}

// A reader gets everything once, and then what is new to it.
func TestFeed(t *testing.T) {
	f := newFeed()
	f.setProblem("no answer")
	if at := wantSince(t, f, 0, "no answer"); at != 0 {
		t.Errorf("version %d of clusters that were never read, want 0", at)
	}
	f.replace([]v1alpha1.UserCluster{named("a", "1"), named("b", "1")}, testRow)
	f.setProblem("")
	at := wantSince(t, f, 0, "full", "a 1", "b 1")
	wantSince(t, f, at)
	_, _, more := f.since(at)
	b, c := named("b", "2"), named("c", "1")
	f.set(&b, testRow)
	f.set(&c, testRow)
	f.drop(types.NamespacedName{Namespace: "team-a", Name: "a"})
	f.drop(types.NamespacedName{Namespace: "team-a", Name: "unknown"})
	<-more
	next := wantSince(t, f, at, "b 2", "c 1", "no team-a/a")
	f.replace([]v1alpha1.UserCluster{named("b", "2"), named("a", "3")}, testRow)
	next = wantSince(t, f, next, "a 3", "no team-a/c")
	wantSince(t, f, at, "a 3", "b 2", "no team-a/c")
	wantSince(t, f, next+10, "full", "a 3", "b 2") // it comes from another server
}

// A cluster that is made again under its name is another one, and is not gone.
func TestFeedMadeAgain(t *testing.T) {
	f := newFeed()
	f.replace([]v1alpha1.UserCluster{named("a", "1")}, testRow)
	at := wantSince(t, f, 0, "full", "a 1")
	f.drop(types.NamespacedName{Namespace: "team-a", Name: "a"})
	a := named("a", "5")
	f.set(&a, testRow)
	wantSince(t, f, at, "a 5")
}

// Clusters of one name in two namespaces are two clusters.
func TestFeedNamespaces(t *testing.T) {
	f := newFeed()
	a, other := named("a", "1"), named("a", "2")
	other.Namespace = "team-b"
	f.replace([]v1alpha1.UserCluster{a, other}, testRow)
	at := wantSince(t, f, 0, "full", "a 1", "a 2")
	for _, uc := range []v1alpha1.UserCluster{a, other} {
		if got, ok := f.cluster(keyOf(&uc)); !ok || got.Namespace != uc.Namespace {
			t.Errorf("%s is %v", keyOf(&uc), got)
		}
	}
	f.drop(keyOf(&a))
	at = wantSince(t, f, at, "no team-a/a")
	f.replace([]v1alpha1.UserCluster{a}, testRow)
	wantSince(t, f, at, "a 1", "no team-b/a")
}

// Removals are not remembered for ever: who lacks them gets everything.
func TestFeedForgets(t *testing.T) {
	f := newFeed()
	var all []v1alpha1.UserCluster
	for i := range maxGone + 2 {
		all = append(all, named(fmt.Sprint(i), "1"))
	}
	f.replace(all, testRow)
	_, at, _ := f.since(0)
	f.replace(all[:1], testRow)
	wantSince(t, f, at, "full", "0 1")
	u, now, _ := f.since(0)
	if !slices.Equal(said(u), []string{"full", "0 1"}) {
		t.Errorf("everything is %v", said(u))
	}
	wantSince(t, f, now)
}
