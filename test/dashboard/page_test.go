package dashboard_test

import (
	"bytes"
	"fmt"
	"image/png"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"golang.org/x/sync/errgroup"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// TestCluster wants the page of a cluster to show what its status has.
func TestCluster(t *testing.T) {
	admin.create(t, refreshing("prod-eu"))
	b := open(t, admin.serve(t))
	b.look(1280, 900, "light")
	b.visit("prod-eu")
	for _, want := range []struct{ section, text string }{
		{"rotation", "From key version 1 to 2"},
		{"rotation", "Waiting for machine prod-eu-workers-7xk2p to join the cluster"},
		{"rotation", "pod shop/cart-0 on node prod-eu-workers-9m4ds to be evicted"},
		{"servers", "apiserver-2\tyes\taccepts\taccepts signs\thttps://10.0.0.13:6443"},
		{"keys", "yE647sh_9uVJ8yq3nKf0cXb2Lr5dAa1mWzPq7TgHs4E"},
		{"outside", membership + "\taccepts\taccepts"},
		{"nodes", "workers\t7\t6\t3"},
		{"tokens", "StatefulSet/cart\tBound\tshop/cart\t-\t1\t3"},
		{"tokens", "UTC (in 3"},
		{"more", "gkectl describe clusters --cluster prod-eu -o json"},
	} {
		if got := b.text("#s-" + want.section); !strings.Contains(got, want.text) {
			t.Errorf("section %s lacks %q:\n%s", want.section, want.text, got)
		}
	}
	steps := eval[[]string](b, `[...document.querySelectorAll('.steps li')].map((e) => e.dataset.step + ' ' + e.dataset.state)`)
	if want := []string{"Generate done", "Publish done", "Switch done", "Refresh now", "Retire todo"}; !slices.Equal(steps, want) {
		t.Errorf("the steps are %v, want %v", steps, want)
	}
}

// TestNamespaces shows two clusters of one name, in two namespaces.
func TestNamespaces(t *testing.T) {
	here, there := settled("twin", day), blocked("twin")
	there.Namespace = "default"
	admin.create(t, here)
	admin.create(t, there)
	b := open(t, admin.serve(t))
	b.until(`document.querySelectorAll('#clusters tbody tr').length === 2`)
	const link = `#clusters a[href="#/clusters/default/twin"]`
	b.do("document.querySelector('" + link + "').click()")
	b.until(`document.querySelector('#s-more')`)
	if got := b.text("#cluster"); !strings.Contains(got, "namespace default") ||
		!strings.Contains(got, "gkectl describe clusters --cluster twin --namespace default -o json") {
		t.Errorf("the page is of another cluster:\n%s", got)
	}
	b.press(kb.Escape)
	b.until("document.activeElement === document.querySelector('" + link + "')")
	if err := admin.admin.Delete(t.Context(), there); err != nil {
		t.Fatal(err)
	}
	b.until(`document.querySelectorAll('#clusters tbody tr').length === 1`)
	if got := b.text("#clusters tbody"); !strings.Contains(got, v1alpha1.SystemNamespace) {
		t.Errorf("the cluster that is left is\n%s", got)
	}
}

// TestMarkup has every text of a cluster try to be markup.
func TestMarkup(t *testing.T) {
	const evil = `<img src=x onerror="document.title='taken'"><script>document.title='taken'</script>`
	uc := refreshing("evil")
	k := &uc.Status.KSASigningKey
	k.WaitingFor, k.Keys[0].KeyID = evil+"waiting", evil+"kid"
	k.Rotations[0].Steps[3].Waits[1].For = evil + "waited"
	k.Tokens.Unknown = []string{evil + "unknown"}
	k.Tokens.Workloads[0].Workload, k.Tokens.Workloads[0].Audience = evil+"workload", evil+"audience"
	k.OldTokens = &v1alpha1.OldTokenStatus{Total: 1, Pods: []v1alpha1.OldTokenHolder{{Namespace: evil, Name: "pod", Holds: evil + "holds"}}}
	uc.Status.APIServers[0].Name, uc.Status.APIServers[0].Endpoint = evil+"server", evil+"endpoint"
	uc.Status.APIServers[0].ForeignKeyIDs = []string{evil + "foreign"}
	uc.Status.Publications[0].Name, uc.Status.Publications[0].WaitingFor = evil+"publication", evil+"propagation"
	uc.Status.NodePools[0].Name = evil + "pool"
	uc.Status.Conditions[0].Message = evil + "message"
	admin.create(t, uc)

	b := open(t, admin.serve(t))
	b.until(`document.querySelector('#clusters .wait')`)
	listed := b.text("#clusters")
	b.visit("evil")
	shown := b.text("#cluster")
	for _, at := range []string{
		"waiting", "kid", "waited", "unknown", "workload", "audience", "holds", "server", "endpoint", "foreign", "publication",
		"propagation", "pool", "message",
	} {
		if !strings.Contains(shown, evil+at) {
			t.Errorf("the page does not show the text of %s as it is", at)
		}
	}
	if !strings.Contains(listed, evil+"waiting") {
		t.Errorf("the list does not show what is waited for as it is:\n%s", listed)
	}
	b.do("location.hash = '#/clusters/a/' + encodeURIComponent(" + quote(evil) + ")")
	b.until(`document.querySelector('h1').textContent && document.querySelector('#cluster h1').textContent.includes('<img')`)
	if n := eval[int](b, `document.querySelectorAll('img, script:not([src="page/main.js"]), iframe, svg').length`); n != 0 {
		t.Errorf("%d elements were made from text", n)
	}
	b.noViolation()
}

// noViolation wants the page to have tried nothing that its policy forbids, and to have asked no other host.
func (b *browser) noViolation() {
	b.Helper()
	if all := eval[[]string](b, "violations"); len(all) > 0 {
		b.Errorf("the policy was violated: %v", all)
	}
	others := eval[[]string](b, `performance.getEntriesByType('resource').map((r) => r.name).filter((n) => !n.startsWith(location.origin))`)
	if len(others) > 0 {
		b.Errorf("the page asked %v", others)
	}
}

// many is how many clusters the page must be fine with.
const many = 1000

// TestThousand has the page show many clusters, find some, follow one, and get no more than what has changed.
func TestThousand(t *testing.T) {
	all := manyClusters(t)
	b := open(t, admin.serve(t))
	b.look(1280, 900, "light")
	b.until(fmt.Sprintf(`document.querySelectorAll('#clusters tbody tr').length === %d`, many))
	b.picture("thousand")
	if got := b.text("#summary"); got != "1,000 clusters" {
		t.Errorf("the summary is %q", got)
	}
	whole := eval[int](b, "messages[0]")

	b.slash()
	b.press("c-05")
	b.until(`document.querySelectorAll('#clusters tbody tr').length === 100`)
	b.press("01")
	b.until(`document.querySelectorAll('#clusters tbody tr').length === 1`)

	changed := all[501]
	was := changed.Status
	changed.Status = blocked(changed.Name).Status
	admin.observe(t, changed)
	b.until(`document.querySelector('#clusters tbody .state').textContent === 'Blocked'`)
	b.until(`document.getElementById('changes').textContent === 'c-0501: Blocked'`)
	if last := eval[int](b, "messages.at(-1)"); last > 2000 || whole < 100_000 {
		t.Errorf("all clusters took %d bytes, and the change of one %d", whole, last)
	}
	b.run(chromedp.Click(chromedp.CSS(`input[value="blocked"] + span`)))
	b.until(`document.getElementById('summary').textContent === '1 of 1,000 clusters'`)
	changed.Status = was
	admin.observe(t, changed)
	b.until(`document.querySelectorAll('#clusters tbody tr').length === 0`)
	b.until(`document.getElementById('none').textContent === 'No cluster is like that.'`)
}

// manyClusters makes many clusters until the test ends.
func manyClusters(t *testing.T) []*v1alpha1.UserCluster {
	t.Helper()
	var all []*v1alpha1.UserCluster
	var g errgroup.Group
	g.SetLimit(8)
	for i := range many {
		uc := settled(fmt.Sprintf("c-%04d", i), time.Duration(i)*6*time.Hour)
		all = append(all, uc)
		g.Go(func() error {
			admin.create(t, uc)
			return nil
		})
	}
	_ = g.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return all
}

// TestKeyboard uses the page without a mouse.
func TestKeyboard(t *testing.T) {
	for _, name := range []string{"a", "b", "c"} {
		admin.create(t, rotated(name))
	}
	b := open(t, admin.serve(t))
	b.until(`document.querySelectorAll('#clusters tbody tr').length === 3`)
	focused := func() string {
		return eval[string](b, "document.activeElement.textContent || document.activeElement.id")
	}
	b.slash()
	if got := focused(); got != "find" {
		t.Fatalf("after /, the focus is at %q", got)
	}
	for range 15 { // the phases, and a button for each column
		if b.press(kb.Tab); focused() == "a" {
			break
		}
	}
	for _, step := range []struct{ key, want string }{
		{"", "a"}, {kb.ArrowDown, "b"}, {kb.End, "c"}, {kb.ArrowDown, "c"}, {kb.Home, "a"}, {kb.ArrowDown, "b"},
	} {
		if step.key != "" {
			b.press(step.key)
		}
		if got := focused(); got != step.want {
			t.Fatalf("after %q, the focus is at %q, want %q", step.key, got, step.want)
		}
	}
	b.press(kb.Enter)
	b.until(`document.querySelector('#s-more')`)
	if got, title := focused(), eval[string](b, "document.title"); got != "b" || title != "b – Keyturn" {
		t.Errorf("on the page of b, the focus is at %q and the title %q", got, title)
	}
	b.press(kb.Escape)
	b.until(`!document.getElementById('list').hidden`)
	if got := focused(); got != "b" {
		t.Errorf("back in the list, the focus is at %q", got)
	}
}

// contrast returns the texts of the page whose contrast is below what WCAG 2 wants for level AA.
const contrast = `(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const parse = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (e) => {
    for (; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const low = new Set();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !e.checkVisibility() || e.closest('noscript')) continue;
    const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(background(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.add(e.tagName + '.' + e.className + ' ' + ((a + 0.05) / (b + 0.05)).toFixed(2) + ': ' + e.textContent.slice(0, 40));
  }
  return [...low];
})()`

// TestLooks wants text to be readable in light and dark, and nothing wider than a narrow screen.
func TestLooks(t *testing.T) {
	for _, uc := range []*v1alpha1.UserCluster{
		refreshing("prod-eu"), blocked("prod-us"), rotated("staging"), settled("test", 400*day), pending("new"),
	} {
		admin.create(t, uc)
	}
	b := open(t, admin.serve(t))
	for _, scheme := range []string{"light", "dark"} {
		for _, width := range []int64{1280, 360} {
			b.look(width, 900, scheme)
			b.do("location.hash = '#/'")
			b.until(`!document.getElementById('list').hidden && document.querySelectorAll('#clusters tbody tr').length === 5`)
			b.wantReadable(fmt.Sprintf("list-%s-%d", scheme, width))
			for _, name := range []string{"prod-eu", "prod-us", "staging", "new"} {
				b.visit(name)
				b.wantReadable(fmt.Sprintf("%s-%s-%d", name, scheme, width))
			}
		}
	}
	b.noViolation()
}

// wantReadable wants enough contrast, and no scrolling sideways.
func (b *browser) wantReadable(name string) {
	b.Helper()
	b.picture(name)
	if low := eval[[]string](b, contrast); len(low) > 0 {
		b.Errorf("%s: too little contrast:\n%s", name, strings.Join(low, "\n"))
	}
	if over := eval[int](b, "document.documentElement.scrollWidth - innerWidth"); over > 0 {
		b.Errorf("%s: the page is %d pixels too wide", name, over)
	}
}

// readmePicture is the picture in the README, and maxPicture how many bytes it may have.
const (
	readmePicture = root + "/docs/pictures/dashboard.png"
	maxPicture    = 200 << 10
)

// TestPicture makes the picture of the README with -update, and wants the one that is there to be small.
func TestPicture(t *testing.T) {
	if *update {
		admin.create(t, refreshing("prod-eu"))
		b := open(t, admin.serve(t))
		b.look(1280, 940, "light")
		b.visit("prod-eu")
		if err := os.MkdirAll(filepath.Dir(readmePicture), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(readmePicture, b.screenshot(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(readmePicture)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := png.Decode(bytes.NewReader(data)); err != nil || len(data) > maxPicture {
		t.Errorf("the picture has %d bytes, at most %d are allowed: %v", len(data), maxPicture, err)
	}
}
