package dashboard_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// browser is one tab of a Chromium of its own.
type browser struct {
	*testing.T
	ctx context.Context
}

// open shows a URL in a new browser.
func open(t *testing.T, url string) *browser {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		t.Fatalf("%v\nhint: apt-get install chromium", err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.WindowSize(1280, 900),
		chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(patience), chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("disable-dev-shm-usage", true))
	if os.Getuid() == 0 {
		options = append(options, chromedp.NoSandbox) // it refuses root otherwise
	}
	ctx, closeBrowser := chromedp.NewExecAllocator(t.Context(), options...)
	ctx, closeTab := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx)
		closeTab()
		closeBrowser()
	})
	b := &browser{t, ctx}
	if err := chromedp.Do(ctx); err != nil { // the browser ends with the context of the first call
		t.Fatal(err)
	}
	b.run(call(page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{Source: record}),
		call(emulation.SetFocusEmulationEnabled, emulation.SetFocusEmulationEnabledParams{Enabled: true}), chromedp.Navigate(url))
	b.until(`document.getElementById('link').textContent === 'Live'`)
	return b
}

// record notes how large each message of the stream is, and what the page would not let happen.
const record = `window.messages = []; window.violations = [];
addEventListener('error', (e) => violations.push(e.message));
addEventListener('unhandledrejection', (e) => violations.push(String(e.reason)));
addEventListener('securitypolicyviolation', (e) => violations.push(e.violatedDirective + ' ' + e.blockedURI));
window.EventSource = class extends EventSource {
  set onmessage(f) { super.onmessage = (e) => { messages.push(e.data.length); f(e); }; }
};`

// call is an action that calls a method of the browser.
func call[P, R any](command cdp.Command[P, R], params P) chromedp.Action[chromedp.Void] {
	return func(ctx context.Context, t *chromedp.Target) (none chromedp.Void, err error) {
		_, err = cdp.Call(ctx, t, command, params)
		return none, err
	}
}

func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, actions...); err != nil {
		b.Fatal(err)
	}
}

// eval returns what an expression of JavaScript is in the page.
func eval[T any](b *browser, expression string) T {
	b.Helper()
	value := evaluate[string](b, "JSON.stringify("+expression+")")
	var result T
	if err := json.Unmarshal([]byte(value), &result); err != nil {
		b.Fatalf("%s is %s: %v", expression, value, err)
	}
	return result
}

func evaluate[T any](b *browser, expression string) T {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		b.Fatalf("%s: %v", expression, err)
	}
	return value
}

// do runs statements of JavaScript in the page.
func (b *browser) do(script string) {
	b.Helper()
	evaluate[bool](b, script+"; true")
}

// until waits until an expression is true.
func (b *browser) until(expression string) {
	b.Helper()
	err := wait.PollUntilContextTimeout(b.ctx, 50*time.Millisecond, patience, true, func(context.Context) (bool, error) {
		return eval[bool](b, "Boolean("+expression+")"), nil
	})
	if err != nil {
		b.Fatalf("waiting for %s: %v; the page is\n%s", expression, err, b.text("body"))
	}
}

// text is what can be read in an element.
func (b *browser) text(selector string) string {
	b.Helper()
	return eval[string](b, "document.querySelector("+quote(selector)+")?.innerText ?? ''")
}

// texts are what can be read in each element that a selector finds.
func (b *browser) texts(selector string) []string {
	b.Helper()
	return eval[[]string](b, "[...document.querySelectorAll("+quote(selector)+")].map((e) => e.innerText)")
}

func quote(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(quoted)
}

// press presses keys, one after the other.
func (b *browser) press(keys ...string) {
	b.Helper()
	for _, key := range keys {
		b.run(chromedp.KeyEvent(key))
	}
}

// slash presses the key that leads to the filter. Unlike a keyboard, KeyEvent would type the character even so.
func (b *browser) slash() {
	b.Helper()
	b.run(call(input.DispatchKeyEvent, input.DispatchKeyEventParams{
		Type: input.DispatchKeyEventTypeRawKeyDown, Key: "/", Code: "Slash", WindowsVirtualKeyCode: 191,
	}))
}

// visit shows the page of a cluster.
func (b *browser) visit(cluster string) {
	b.Helper()
	b.do("location.hash = '#/clusters/" + v1alpha1.SystemNamespace + "/" + cluster + "'")
	b.until(`document.querySelector('#s-more')`)
}

// look has the page in a size, and in light or dark.
func (b *browser) look(width, height int64, scheme string) {
	b.Helper()
	b.run(
		call(emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
			Width: width, Height: height, DeviceScaleFactor: 1,
		}),
		call(emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
		}}),
	)
}

// picture writes a screenshot to the directory that -pictures names, if it names one.
func (b *browser) picture(name string) {
	b.Helper()
	if *pictures == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(*pictures, name+".png"), b.screenshot(), 0o644); err != nil {
		b.Fatal(err)
	}
}

func (b *browser) screenshot() []byte {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	image, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.Fatal(err)
	}
	return image
}
