package legacytoken

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/jwks"
)

// TestRefresher runs everything against one API server. A Pass is about all of its Secrets, so the tests take turns.
func TestRefresher(t *testing.T) {
	c := newCluster(t, jwks.ES256)
	for _, test := range []struct {
		name string
		run  func(*testing.T, *cluster)
	}{
		{"Resign", testResign},
		{"RSA", testRSA},
		{"Unusual", testUnusual},
		{"ConcurrentWriter", testConcurrentWriter},
		{"CancelAndResume", testCancelAndResume},
		{"NewRefresherResumes", testNewRefresherResumes},
		{"Budget", testBudget},
		{"CreatedMeanwhile", testCreatedMeanwhile},
		{"WriteFaults", testWriteFaults},
		{"LastingFault", testLastingFault},
		{"Refused", testRefused},
		{"ReadFaults", testReadFaults},
		{"TokenReview", testTokenReview},
		{"BoundedMemory", testBoundedMemory},
		{"Pods", testPods},
		{"PodOfTwoSecrets", testPodOfTwoSecrets},
		{"CrashBeforePods", testCrashBeforePods},
		{"Guard", testGuard},
		{"DeadTokens", testDeadTokens},
		{"WrittenBack", testWrittenBack},
		{"DeadWebhook", testDeadWebhook},
	} {
		t.Run(test.name, func(t *testing.T) {
			defer c.empty(t)
			test.run(t, c)
		})
	}
}

// testResign has namespaces whose order differs with and without the slash that follows them.
func testResign(t *testing.T, c *cluster) {
	var all []*corev1.Secret
	for _, namespace := range []string{"a", "a-b", "a0", "b"} {
		all = append(all, c.fill(t, namespace, 23)...)
	}
	r := &Refresher{Client: c.client, PageSize: 10}
	target := targetOf(t, c.new)
	result := pass(t, r, target)
	if result.Total != len(all) || result.Resigned != len(all) || result.Stale != 0 || result.Proven() {
		t.Errorf("first walk: %+v, want all %d re-signed, and no proof", result, len(all))
	}
	for _, s := range all {
		c.wantResigned(t, s)
	}
	result = pass(t, r, target)
	if !result.Proven() || result.Total != len(all) {
		t.Errorf("second walk: %+v, want a proof for %d", result, len(all))
	}
}

func testRSA(t *testing.T, c *cluster) {
	c.fill(t, "a", 3)
	k := generate(t, 3, jwks.RS256)
	if result := pass(t, &Refresher{Client: c.client}, targetOf(t, k)); result.Resigned != 3 {
		t.Errorf("result = %+v, want 3 re-signed", result)
	}
}

// testUnusual has one Secret of each kind that is not simply old.
func testUnusual(t *testing.T, c *cluster) {
	uid := c.account(t, "a", "robot")
	secret := func(name string, change func(*corev1.Secret)) *corev1.Secret {
		s := legacySecret(t, c.old, "a", name, "robot", uid)
		change(s)
		return c.create(t, s)
	}
	yes := true
	resigned := []*corev1.Secret{
		secret("garbage", func(s *corev1.Secret) { s.Data["token"] = []byte("not.a.token") }),
		secret("no-uid", func(s *corev1.Secret) { delete(s.Annotations, corev1.ServiceAccountUIDKey) }),
	}
	secret("fresh", func(s *corev1.Secret) { *s = *legacySecret(t, c.new, "a", "fresh", "robot", uid) })
	secret("empty", func(s *corev1.Secret) { s.Data = nil })
	secret("opaque", func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque })
	odd := []*corev1.Secret{
		secret("orphan", func(s *corev1.Secret) { s.Annotations[corev1.ServiceAccountNameKey] = "gone" }),
		secret("other-uid", func(s *corev1.Secret) { s.Annotations[corev1.ServiceAccountUIDKey] = "earlier" }),
		secret("immutable", func(s *corev1.Secret) { s.Immutable = &yes }),
	}
	r := &Refresher{Client: c.client}
	result := pass(t, r, targetOf(t, c.new))
	want := "Immutable a/immutable, Orphaned a/other-uid"
	if result.Total != 6 || result.Resigned != 2 || result.Pending != 1 || result.Stale != 2 || problems(result) != want {
		t.Errorf("result = %+v, want 6 in all, 2 re-signed, 1 pending, 2 stale: %s", result, want)
	}
	for _, s := range resigned {
		c.wantResigned(t, s)
	}
	if again := pass(t, r, targetOf(t, c.new)); again.Proven() || again.Stale != 2 {
		t.Errorf("second walk: %+v, want no proof while 2 are stale", again)
	}
	for _, s := range odd {
		if err := c.client.CoreV1().Secrets("a").Delete(t.Context(), s.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if again := pass(t, r, targetOf(t, c.new)); !again.Proven() || again.Pending != 1 {
		t.Errorf("third walk: %+v, want a proof", again)
	}
}

// testConcurrentWriter has somebody else count in a label of each Secret, as everybody should: reading and
// writing again on a conflict. No count may be lost.
func testConcurrentWriter(t *testing.T, c *cluster) {
	all := c.fill(t, "a", 30)
	ctx, cancel := context.WithCancel(t.Context())
	counts := make([]int, len(all))
	var others sync.WaitGroup
	var conflicts atomic.Int64
	for i, s := range all {
		others.Go(func() {
			for ctx.Err() == nil {
				now := c.get(t, s)
				now.Labels["count"] = fmt.Sprint(counts[i] + 1)
				_, err := c.client.CoreV1().Secrets("a").Update(t.Context(), now, metav1.UpdateOptions{})
				switch {
				case err == nil:
					counts[i]++
				case apierrors.IsConflict(err):
					conflicts.Add(1)
				default:
					t.Error(err)
				}
			}
		})
	}
	r := &Refresher{Client: c.client}
	for !pass(t, r, targetOf(t, c.new)).Proven() {
	}
	cancel()
	others.Wait()
	for i, s := range all {
		s.Labels["count"] = fmt.Sprint(counts[i])
		c.wantResigned(t, s)
	}
	t.Logf("the other writers met %d conflicts", conflicts.Load())
}

// hook returns a client whose requests for Secrets pass through a function first.
func (c *cluster) hook(t *testing.T, method string, f func(*http.Request) kubetest.Fault) *Refresher {
	t.Helper()
	config := kubetest.Inject(c.config, func(r *http.Request) kubetest.Fault {
		if r.Method == method && strings.Contains(r.URL.Path, "/secrets") {
			return f(r)
		}
		return kubetest.None
	})
	return &Refresher{Client: newClient(t, config), PageSize: 10, Workers: 4}
}

func testCancelAndResume(t *testing.T, c *cluster) {
	all := c.fill(t, "a", 60)
	ctx, cancel := context.WithCancel(t.Context())
	var writes atomic.Int64
	r := c.hook(t, http.MethodPut, func(*http.Request) kubetest.Fault {
		if writes.Add(1) == 25 {
			cancel()
		}
		return kubetest.None
	})
	part, err := r.Pass(ctx, targetOf(t, c.new))
	if !errors.Is(err, context.Canceled) || part.Complete || part.Resigned < 20 || part.Resigned > 30 || part.Stale != 0 {
		t.Fatalf("cancelled pass: %+v, %v, want about 25 re-signed", part, err)
	}
	result := pass(t, r, targetOf(t, c.new))
	if result.Total != 60 || result.Resigned != 60 || result.Stale != 0 {
		t.Errorf("result = %+v, want the walk to end with all 60", result)
	}
	// Those in flight when ctx ended are tried twice, nothing else.
	if n := writes.Load(); n > 60+int64(r.Workers) {
		t.Errorf("%d writes for 60 Secrets", n)
	}
	for _, s := range all {
		c.wantResigned(t, s)
	}
}

func testNewRefresherResumes(t *testing.T, c *cluster) {
	c.fill(t, "a", 40)
	ctx, cancel := context.WithCancel(t.Context())
	var writes atomic.Int64
	count := func(*http.Request) kubetest.Fault {
		if writes.Add(1) == 15 {
			cancel()
		}
		return kubetest.None
	}
	part, err := c.hook(t, http.MethodPut, count).Pass(ctx, targetOf(t, c.new))
	if err == nil {
		t.Fatalf("cancelled pass: %+v, want an error", part)
	}
	r := c.hook(t, http.MethodPut, count)
	result := pass(t, r, targetOf(t, c.new))
	if result.Total != 40 || result.Stale != 0 || result.Resigned > 40-part.Resigned {
		t.Errorf("result = %+v after %+v, want only the rest re-signed", result, part)
	}
	if n := writes.Load(); n > 40+int64(r.Workers) {
		t.Errorf("%d writes for 40 Secrets", n)
	}
}

func testBudget(t *testing.T, c *cluster) {
	c.fill(t, "a", 50)
	r := c.hook(t, http.MethodPut, func(r *http.Request) kubetest.Fault { return kubetest.None })
	r.Budget, r.Workers = 30*time.Millisecond, 1
	passes, last := 0, Result{}
	for !last.Complete {
		result, err := r.Pass(t.Context(), targetOf(t, c.new))
		if err != nil {
			t.Fatal(err)
		}
		if result.Total < last.Total || result.Resigned < last.Resigned {
			t.Fatalf("pass %d: %+v after %+v", passes, result, last)
		}
		passes, last = passes+1, result
	}
	if passes < 2 || last.Total != 50 || last.Resigned != 50 {
		t.Errorf("%d passes, result = %+v, want several and 50", passes, last)
	}
}

// testCreatedMeanwhile creates a Secret where the walk has been already.
func testCreatedMeanwhile(t *testing.T, c *cluster) {
	c.fill(t, "b", 30)
	uid := c.account(t, "a", "robot")
	late := legacySecret(t, c.old, "a", "late", "robot", uid)
	var once sync.Once
	r := c.hook(t, http.MethodPut, func(*http.Request) kubetest.Fault {
		once.Do(func() { late = c.create(t, late) })
		return kubetest.None
	})
	first := pass(t, r, targetOf(t, c.new))
	if first.Proven() || first.Total != 30 {
		t.Errorf("first walk: %+v, want the 30 that were there, and no proof", first)
	}
	if second := pass(t, r, targetOf(t, c.new)); second.Proven() || second.Resigned != 1 {
		t.Errorf("second walk: %+v, want the late one re-signed, and no proof", second)
	}
	if third := pass(t, r, targetOf(t, c.new)); !third.Proven() || third.Total != 31 {
		t.Errorf("third walk: %+v, want a proof", third)
	}
	c.wantResigned(t, late)
}

// testWriteFaults makes the first write of each Secret fail in one way.
func testWriteFaults(t *testing.T, c *cluster) {
	for _, fault := range []kubetest.Fault{
		kubetest.LoseRequest, kubetest.LoseAnswer, http.StatusConflict, http.StatusTooManyRequests,
		http.StatusInternalServerError, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
	} {
		all := c.fill(t, "a", 12)
		var failed sync.Map
		r := c.hook(t, http.MethodPut, func(r *http.Request) kubetest.Fault {
			if _, again := failed.LoadOrStore(r.URL.Path, true); again {
				return kubetest.None
			}
			return fault
		})
		if result := pass(t, r, targetOf(t, c.new)); result.Total != 12 || result.Resigned != 12 || result.Stale != 0 {
			t.Errorf("fault %d: %+v, want 12 re-signed", fault, result)
		}
		for _, s := range all {
			c.wantResigned(t, s)
		}
		if result := pass(t, r, targetOf(t, c.new)); !result.Proven() {
			t.Errorf("fault %d, second walk: %+v, want a proof", fault, result)
		}
		c.empty(t)
	}
}

// testLastingFault has one Secret that cannot be written for a whole walk. It does not block the others.
func testLastingFault(t *testing.T, c *cluster) {
	all := c.fill(t, "a", 25)
	var healed atomic.Bool
	r := c.hook(t, http.MethodPut, func(r *http.Request) kubetest.Fault {
		if strings.HasSuffix(r.URL.Path, "/token-00003") && !healed.Load() {
			return http.StatusInternalServerError
		}
		return kubetest.None
	})
	result := pass(t, r, targetOf(t, c.new))
	if result.Stale != 1 || result.Resigned != 24 || problems(result) != "Failed a/token-00003" ||
		result.Blocked[0].NeedsAction() {
		t.Errorf("result = %+v, want 24 re-signed and token-00003 to have failed", result)
	}
	healed.Store(true)
	if result := pass(t, r, targetOf(t, c.new)); result.Resigned != 1 || result.Stale != 0 {
		t.Errorf("second walk: %+v, want the last one re-signed", result)
	}
	for _, s := range all {
		c.wantResigned(t, s)
	}
}

func testRefused(t *testing.T, c *cluster) {
	c.fill(t, "a", 5)
	var writes atomic.Int64
	r := c.hook(t, http.MethodPut, func(*http.Request) kubetest.Fault {
		writes.Add(1)
		return http.StatusForbidden
	})
	result := pass(t, r, targetOf(t, c.new))
	if result.Stale != 5 || result.Resigned != 0 || writes.Load() != 5 || !result.Blocked[0].NeedsAction() {
		t.Errorf("result = %+v after %d writes, want 5 refused by 5", result, writes.Load())
	}
}

// testReadFaults makes a page in the middle fail. The next pass continues or, where the list has expired, starts again.
func testReadFaults(t *testing.T, c *cluster) {
	for _, fault := range []kubetest.Fault{kubetest.LoseRequest, http.StatusInternalServerError, http.StatusGone} {
		all := c.fill(t, "a", 45)
		var reads atomic.Int64
		r := c.hook(t, http.MethodGet, func(r *http.Request) kubetest.Fault {
			if r.URL.Query().Get("limit") != "" && reads.Add(1) == 3 {
				return fault
			}
			return kubetest.None
		})
		result, err := r.Pass(t.Context(), targetOf(t, c.new))
		if fault == http.StatusGone {
			if err != nil || !result.Complete {
				t.Errorf("expired list: %+v, %v, want a complete walk", result, err)
			}
		} else if err == nil || result.Complete || result.Total != 20 {
			t.Errorf("fault %d: %+v, %v, want an error after two pages", fault, result, err)
		}
		for !result.Complete {
			result = pass(t, r, targetOf(t, c.new))
		}
		if result.Total != 45 || result.Stale != 0 {
			t.Errorf("fault %d: %+v, want 45 in all", fault, result)
		}
		for _, s := range all {
			c.wantResigned(t, s)
		}
		c.empty(t)
	}
}

// testTokenReview asks the API server about the tokens.
func testTokenReview(t *testing.T, c *cluster) {
	before := c.fill(t, "a", 1)[0]
	if user := c.review(t, before); user != "system:serviceaccount:a:robot" {
		t.Fatalf("the old token is of %q before the walk", user)
	}
	pass(t, &Refresher{Client: c.client}, targetOf(t, c.new))
	after := c.get(t, before)
	if user := c.review(t, after); user != "system:serviceaccount:a:robot" {
		t.Errorf("the new token is of %q", user)
	}
	// The API server caches that it accepted a token for 10 s.
	deadline := time.Now().Add(30 * time.Second)
	for c.review(t, before) != "" {
		if time.Now().After(deadline) {
			t.Fatal("the old token is still accepted")
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// review returns the user of the token in a Secret, or nothing if it is refused.
func (c *cluster) review(t *testing.T, s *corev1.Secret) string {
	t.Helper()
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: string(s.Data["token"])}}
	review, err := c.client.AuthenticationV1().TokenReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return review.Status.User.Username
}

// testBoundedMemory checks that a page is asked for only when the one before the last is done with: at most
// two pages and what the workers hold are in memory.
func testBoundedMemory(t *testing.T, c *cluster) {
	c.fill(t, "a", 120)
	var pages, writes atomic.Int64
	config := kubetest.Inject(c.config, func(r *http.Request) kubetest.Fault {
		switch {
		case r.Method == http.MethodPut:
			writes.Add(1)
		case r.URL.Path == "/api/v1/secrets":
			page := pages.Add(1)
			if done := writes.Load(); done < (page-2)*10-4 {
				t.Errorf("page %d is read after %d writes", page, done)
			}
			if r.URL.Query().Get("limit") != "10" {
				t.Errorf("a list has limit %q", r.URL.Query().Get("limit"))
			}
		}
		return kubetest.None
	})
	r := &Refresher{Client: newClient(t, config), PageSize: 10, Workers: 4}
	if result := pass(t, r, targetOf(t, c.new)); result.Resigned != 120 || pages.Load() != 12 {
		t.Errorf("%d pages, result = %+v, want 12 and 120", pages.Load(), result)
	}
}

// testGuard re-signs only with a key that the API server accepts, as a process does that was paused for a whole
// rotation.
func testGuard(t *testing.T, c *cluster) {
	all := c.fill(t, "a", 3)
	result := pass(t, &Refresher{Client: c.client, Guard: Served(c.client)}, targetOf(t, generate(t, 9, jwks.ES256)))
	if result.Resigned != 0 || result.Stale != len(all) {
		t.Errorf("with a key that no API server accepts: %+v", result)
	}
	if len(result.Blocked) == 0 || !strings.Contains(result.Blocked[0].String(), "do not accept key version 9") {
		t.Errorf("blocked by %v", result.Blocked)
	}
	result = pass(t, &Refresher{Client: c.client, Guard: Served(c.client)}, targetOf(t, c.new))
	if result.Resigned != len(all) {
		t.Errorf("with a key that the API server accepts: %+v", result)
	}
}
