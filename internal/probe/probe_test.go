package probe

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestTokensAreAcceptedAndTheReportOutlivesTheProbe(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stop := b.start()
	before := b.until("uses of all kinds", allAccepted)
	stop()
	report, _ := b.kept()
	for _, kind := range apiServerKinds() {
		if c := uses(report, kind, first); c.Refused != 0 || c.Unavailable != 0 ||
			c.Requests() < uses(before, kind, first).Requests() {
			t.Errorf("%s token: %+v", kind, c)
		}
		if report.Mounted[kind] != first.id {
			t.Errorf("%s token in its file has kid %s, want %s", kind, report.Mounted[kind], first.id)
		}
	}

	var out, talk bytes.Buffer
	code := Main(b.ctx, Env{Stdout: &out, Stderr: &talk, Getenv: os.Getenv},
		[]string{"report", "--kubeconfig", b.kubeconfig(), "-n", b.ns})
	if code != exitOK || !strings.Contains(out.String(), "third-party") || !strings.Contains(out.String(), first.id[:8]) {
		t.Errorf("report exits with %d:\n%s%s", code, &out, &talk)
	}
}

// What happened since the report was last kept must not be lost when the pod ends.
func TestTheLastReportIsKept(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.options.Save = time.Hour
	r, err := newRunner(b.options)
	must(t, err)
	ctx, cancel := context.WithCancel(b.ctx)
	done := make(chan struct{})
	go func() { r.run(ctx); close(done) }()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(time.Minute); !r.rec.ready(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not ready: %+v", r.rec.snapshot())
		}
	}
	cancel()
	<-done
	kept, _ := b.kept()
	opts := cmp.Transformer("instant", func(t time.Time) int64 { return t.UnixNano() })
	want := r.rec.snapshot()
	want.Ended = true
	if diff := cmp.Diff(want, kept, opts); diff != "" {
		t.Errorf("kept report (-recorded +kept):\n%s", diff)
	}
}

func TestTokensOfAnUnknownKeyAreRefused(t *testing.T) {
	for _, kind := range []Kind{Bound, ThirdParty} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			// The report is kept with the bound token, so it must work apart from the one that is used.
			own := filepath.Join(b.dir, "own")
			must(t, os.WriteFile(own, []byte(b.request("")), 0o600))
			b.options.Config.BearerTokenFile = own
			good, err := b.options.Files.read(kind)
			must(t, err)
			stop := b.start()
			b.until("uses of all kinds", allAccepted)
			b.mount(kind, b.resign(good, unknown))
			b.until("refusals", func(r Report) bool { return uses(r, kind, unknown).Refused >= 3 })
			b.mount(kind, good)
			r := b.until("the end of the spell", func(r Report) bool {
				l := line(r, kind, host)
				return len(l.Spells) > 0 && !l.Spells[len(l.Spells)-1].End.IsZero()
			})
			stop()
			l := line(r, kind, host)
			// The bound token is used by two lanes, since reviews are asked with it too. When its file is replaced, the answer
			// to one of them may be older than that to the other, and cuts a short spell off at either end.
			most := map[Kind]int{Bound: 3, ThirdParty: 1}[kind]
			if len(l.Spells) == 0 || len(l.Spells) > most || l.StaleSeconds <= 0 {
				t.Errorf("spells %+v of at most %vs", l.Spells, l.StaleSeconds)
			}
			for _, s := range l.Spells {
				if s.KeyID != unknown.id || s.StaleFile {
					t.Errorf("spell %+v", s)
				}
			}
			if uses(r, kind, first).Refused != 0 || uses(r, kind, unknown).Accepted != 0 || uses(r, Legacy, first).Refused != 0 {
				t.Errorf("others were refused, or it was accepted: %+v", r.Lines)
			}
			var out, talk bytes.Buffer
			args := []string{"report", "--kubeconfig", b.kubeconfig(), "-n", b.ns, "-o", "json"}
			if code := Main(b.ctx, Env{Stdout: &out, Stderr: &talk, Getenv: os.Getenv}, args); code != exitRefused {
				t.Errorf("report exits with %d:\n%s%s", code, &out, &talk)
			}
			var s Summary
			must(t, json.Unmarshal(out.Bytes(), &s))
			if !s.Failed() {
				t.Errorf("summary: %+v", s)
			}
		})
	}
}

func TestOverwrittenLegacyTokenIsStale(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	stop := b.start()
	b.until("uses of all kinds", allAccepted)
	b.publishLegacy(next)
	// kube-apiserver accepts the old one for up to 10 s from its cache.
	b.until("refusals", func(r Report) bool { return uses(r, Legacy, first).Refused >= 3 })
	b.mount(Legacy, b.legacy())
	r := b.until("the new token", func(r Report) bool { return uses(r, Legacy, next).Accepted >= 3 })
	stop()
	l := line(r, Legacy, host)
	if len(l.Spells) != 1 || l.Spells[0].KeyID != first.id || l.Spells[0].End.IsZero() || l.StaleSeconds <= 0 {
		t.Errorf("spells %+v of at most %vs", l.Spells, l.StaleSeconds)
	}
	if r.FileLag.Changes != 1 || r.FileLag.MaxSeconds < l.StaleSeconds {
		t.Errorf("file lag %+v, and stale for %vs", r.FileLag, l.StaleSeconds)
	}
	if c := uses(r, Bound, first); c.Refused != 0 {
		t.Errorf("bound token: %+v", c)
	}
	if c := uses(r, Legacy, first); c.Overwritten != c.Refused {
		t.Errorf("of %d refusals of the old token, %d count as refusals after it was overwritten", c.Refused, c.Overwritten)
	}
	if s := Summarize([]Report{r}); s.Failed() {
		t.Errorf("a stale legacy token counts as failure: %+v", s)
	}
}

// While its Secret holds a token, nothing excuses its refusal.
func TestARefusedLegacyTokenThatItsSecretHolds(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.publishLegacy(unknown)
	b.mount(Legacy, b.legacy())
	stop := b.start()
	r := b.until("refusals", func(r Report) bool { return uses(r, Legacy, unknown).Refused >= 3 })
	stop()
	if c := uses(r, Legacy, unknown); c.Overwritten != 0 {
		t.Errorf("%d of %d refusals count as refusals of a token that was overwritten", c.Overwritten, c.Refused)
	}
	if !Summarize([]Report{r}).Failed() {
		t.Error("it is no failure")
	}
}

// A server that is not there, and one that is not well, say nothing about tokens, and do not disturb the others.
func TestServersThatAreDownAreUnavailable(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	unwell := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(unwell.Close)
	gone := httptest.NewTLSServer(http.NotFoundHandler())
	gone.Close()
	b.trust(unwell)
	b.options.Servers = []string{host, unwell.URL, gone.URL}
	stop := b.start()
	r := b.until("uses everywhere", func(r Report) bool {
		for _, server := range b.options.Servers {
			for _, kind := range apiServerKinds() {
				if line(r, kind, server).Counts().Requests() < 3 {
					return false
				}
			}
		}
		return true
	})
	stop()
	for _, kind := range apiServerKinds() {
		if c := line(r, kind, host).Counts(); c.Accepted != c.Requests() {
			t.Errorf("%s token where all is well: %+v", kind, c)
		}
		for server, reason := range map[string]string{unwell.URL: "429 Too Many Requests", gone.URL: "connection refused"} {
			l := line(r, kind, server)
			if c := l.Counts(); c.Unavailable != c.Requests() || !strings.Contains(l.UnavailableReason, reason) {
				t.Errorf("%s token at %s: %+v because of %q, want %q", kind, server, c, l.UnavailableReason, reason)
			}
		}
	}
}

// swapping replaces a file as soon as the API server has answered once.
type swapping struct {
	http.RoundTripper
	swap func()
}

func (s *swapping) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := s.RoundTripper.RoundTrip(r)
	if s.swap != nil {
		s.swap()
		s.swap = nil
	}
	return resp, err
}

func TestARefusalOfAFileThatHasChangedMeanwhileIsTold(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	good := b.request("")
	b.mount(Bound, b.resign(good, unknown))
	roots, err := readRoots(b.options.CAFile)
	must(t, err)
	rec := newRecorder("p", "n", time.Now())
	u := &user{
		server: host, files: b.options.Files, rec: rec,
		http: &http.Client{Transport: &swapping{RoundTripper: transport(roots), swap: func() { b.mount(Bound, good) }}},
	}
	u.use(b.ctx, Bound)
	l := line(rec.snapshot(), Bound, host)
	if len(l.Spells) != 1 || !l.Spells[0].StaleFile || l.Spells[0].Refusals != 1 || l.Spells[0].End.IsZero() {
		t.Errorf("spells %+v", l.Spells)
	}
	if c := l.Counts(); c != (Counts{Accepted: 1, Refused: 1}) {
		t.Errorf("counts %+v", c)
	}
}

func TestFilesThatAreEmptyOrMissing(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mount(Legacy, "")
	must(t, os.Remove(b.options.Files.ThirdParty))
	stop := b.start()
	r := b.until("uses of all kinds", func(r Report) bool {
		return line(r, Legacy, host).Counts().Requests() > 2 && line(r, ThirdParty, host).Counts().Requests() > 2
	})
	stop()
	if c := line(r, Legacy, host).Counts(); c.Refused != c.Requests() {
		t.Errorf("an empty legacy token: %+v", c)
	}
	if c := line(r, ThirdParty, host).Counts(); c.Unavailable != c.Requests() {
		t.Errorf("a missing third-party token: %+v", c)
	}
}

func TestDirectory(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	slices := clientset.DiscoveryV1().EndpointSlices("default")
	port, name := int32(6443), "https"
	_, err := slices.Create(b.ctx, &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: b.ns, Labels: map[string]string{discoveryv1.LabelServiceName: "kubernetes"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port}},
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.11"}}, {Addresses: []string{"10.0.0.12"}}},
	}, metav1.CreateOptions{})
	must(t, err)
	r := &runner{options: b.options, directory: &directory{seen: map[string]time.Time{}}}
	r.Servers = nil
	must(t, r.connect())
	expect := func(now time.Time, first, second, fails bool) {
		t.Helper()
		got, err := r.directory.list(b.ctx, now)
		all := strings.Join(got, " ")
		if strings.Contains(all, "https://10.0.0.11:6443") != first ||
			strings.Contains(all, "https://10.0.0.12:6443") != second || (err != nil) != fails {
			t.Errorf("API servers %v, %v; want the first: %v, the second: %v, an error: %v", got, err, first, second, fails)
		}
	}
	expect(epoch, true, true, false)
	_, err = slices.Patch(b.ctx, b.ns, types.JSONPatchType, []byte(`[{"op":"remove","path":"/endpoints/1"}]`),
		metav1.PatchOptions{})
	must(t, err)
	expect(epoch.Add(linger), true, true, false)
	expect(epoch.Add(linger+time.Second), true, false, false)
	// When the cluster cannot be asked, the last known stay.
	r.directory.slices = &unlistable{EndpointSliceInterface: r.directory.slices}
	expect(epoch.Add(time.Hour), true, false, true)
}

func TestFixedDirectory(t *testing.T) {
	d, err := fixedDirectory([]string{"https://10.0.0.2:6443/", "https://10.0.0.1:6443"})
	must(t, err)
	if got, _ := d.list(t.Context(), epoch); strings.Join(got, " ") != "https://10.0.0.1:6443 https://10.0.0.2:6443" {
		t.Errorf("API servers %v", got)
	}
	for _, bad := range []string{"", "10.0.0.1:6443", "http://10.0.0.1", "https://", "https://10.0.0.1/api"} {
		if _, err := fixedDirectory([]string{bad}); err == nil {
			t.Errorf("%q is taken for an API server", bad)
		}
	}
}

func TestHandler(t *testing.T) {
	rec := newRecorder("p", "n", epoch)
	server := httptest.NewServer(handler(rec))
	defer server.Close()
	get := func(path string) (int, string) {
		t.Helper()
		u, err := url.JoinPath(server.URL, path)
		must(t, err)
		resp, err := http.Get(u)
		must(t, err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, string(body)
	}
	if code, _ := get("readyz"); code != http.StatusServiceUnavailable {
		t.Errorf("/readyz says %d before any use", code)
	}
	play(rec, Bound, "s", "a")
	play(rec, ThirdParty, "s", "a")
	play(rec, Legacy, "s", "arrra")
	rec.mounted(Legacy, "k1")
	if code, _ := get("readyz"); code != http.StatusOK {
		t.Errorf("/readyz says %d after all kinds were used", code)
	}
	_, metrics := get("metrics")
	for _, want := range []string{
		`keyturn_probe_requests_total{kid="k1",result="refused",server="s",token="legacy"} 3`,
		`keyturn_probe_requests_total{kid="k1",result="accepted",server="s",token="bound"} 1`,
		`keyturn_probe_refusals_total{kid="k1",server="s",token="legacy"} 3`,
		`keyturn_probe_stale_seconds_max{server="s",token="legacy"} 0.3`,
		`keyturn_probe_mounted_token{kid="k1",token="legacy"} 1`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("/metrics lacks %s:\n%s", want, metrics)
		}
	}
	_, body := get("report")
	var report Report
	if err := json.Unmarshal([]byte(body), &report); err != nil || report.Pod != "p" || len(report.Lines) != 3 {
		t.Errorf("/report is %s (%v)", body, err)
	}
}

// No token may be in what a probe keeps and tells.
func TestReportsHoldNoToken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.mount(ThirdParty, b.resign(b.request("keyturn-probe"), unknown))
	stop := b.start()
	b.until("a refusal", func(r Report) bool { return uses(r, ThirdParty, unknown).Refused > 0 })
	stop()
	list, err := clientset.CoreV1().ConfigMaps(b.ns).List(b.ctx,
		metav1.ListOptions{LabelSelector: labelApp + "=" + appName})
	must(t, err)
	for _, kind := range apiServerKinds() {
		bearer, err := b.options.Files.read(kind)
		must(t, err)
		for part := range strings.SplitSeq(bearer, ".") {
			if strings.Contains(list.Items[0].Data[reportKey], part) {
				t.Errorf("the report holds a part of the %s token", kind)
			}
		}
	}
}
