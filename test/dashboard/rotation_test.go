package dashboard_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubetest"
	"github.com/keyturn/keyturn/test/bench/simulated"
)

// follow notes each state of the cluster that the page shows, and each step that it shows as the one that runs.
const follow = `window.seen = []; new MutationObserver(() => {
  const note = (what) => { if (what && seen.at(-1) !== what) seen.push(what); };
  note(document.querySelector('#cluster .state')?.textContent);
}).observe(document.body, { subtree: true, childList: true, characterData: true })`

// TestRotation sees a rotation from start to end. The controller is the real one; the control plane of the cluster is
// simulated. Its signers have no ledgers, so that Retire waits until the test lets it go on.
func TestRotation(t *testing.T) {
	w := startController(t)
	uc := newUserCluster("blue", 3)
	if err := w.admin.Create(t.Context(), uc); err != nil {
		t.Fatal(err)
	}
	b := open(t, w.serve(t))
	b.until(`document.querySelector('#clusters .state')?.textContent === 'Ready'`)
	b.visit("blue")
	b.do(follow)
	if got := eval[[]string](b, serverMarks); !slices.Equal(got, []string{"accepts signs", "accepts signs", "accepts signs"}) {
		t.Errorf("before, the API servers are shown as %q", got)
	}

	w.change(t, uc, `{"spec":{"ksaSigningKey":{"version":2}}}`)
	b.until(`document.querySelector('.steps [data-step=Retire]')?.dataset.state === 'now'`)
	b.until(`document.querySelector('.waiting')?.textContent.includes('tokens')`)
	both := []string{"accepts", "accepts signs", "accepts", "accepts signs", "accepts", "accepts signs"}
	if got := eval[[]string](b, serverMarks); !slices.Equal(got, both) {
		t.Errorf("in Retire, the API servers are shown as %q", got)
	}
	b.picture("rotation")

	w.change(t, uc, `{"spec":{"ksaSigningKey":{"retire":"AfterRefresh"}}}`)
	b.until(`document.querySelector('#cluster .state').textContent === 'Ready'`)
	b.until(`document.querySelector('.headline').textContent.includes('completed')`)
	steps := []string{"Generate", "Publish", "Switch", "Refresh", "Retire"}
	if got := b.texts("#s-rotation tbody th"); !slices.Equal(got, steps) {
		t.Errorf("the time line has the steps %v, want %v", got, steps)
	}
	if got := eval[int](b, `document.querySelectorAll('.steps [data-state=done]').length`); got != len(steps) {
		t.Errorf("%d steps are shown as done", got)
	}
	if got := eval[[]string](b, serverMarks); !slices.Equal(got, []string{"accepts signs", "accepts signs", "accepts signs"}) {
		t.Errorf("at the end, the API servers are shown as %q", got)
	}
	if got := b.texts("#s-keys tbody th"); !slices.Equal(got, []string{"2"}) {
		t.Errorf("at the end, key versions %v are shown", got)
	}
	wantInOrder(t, eval[[]string](b, "seen"), append(steps, "Ready"))
	b.noViolation()
}

// serverMarks are the cells of key versions in the table of API servers.
const serverMarks = `[...document.querySelectorAll('#s-servers tbody td[data-label^="Key version"]')].map((e) => e.innerText.trim())`

// wantInOrder wants what was seen to go forward only: the page may miss a step that was over before it was sent.
func wantInOrder(t *testing.T, seen, order []string) {
	t.Helper()
	last := -1
	if len(seen) > 0 && seen[0] == "Ready" { // as it was before
		seen = seen[1:]
	}
	for _, s := range seen {
		i := slices.Index(order, s)
		if s != "Not ready" && i < last {
			t.Errorf("the page showed %v, want the order %v", seen, order)
			return
		}
		last = max(last, i)
	}
	if !slices.Contains(seen, "Retire") || last != len(order)-1 {
		t.Errorf("the page showed %v, want Retire among them and Ready at the end", seen)
	}
}

// startController runs keyturn-controller on an admin cluster of its own, with a host whose control planes are
// simulated.
func startController(t *testing.T) *cluster {
	t.Helper()
	c, err := newCluster(kubetest.Start(t, kubetest.Options{}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	host, err := simulated.Serve(ctx, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	cmd := program(t, "keyturn-controller", "--kubeconfig="+kubetest.WriteKubeconfig(t, kubetest.AsController(c.config)),
		"--local-endpoint="+host.Endpoint(), "--local-credentials="+host.Credentials(), "--leader-elect=false",
		"--metrics-bind-address=0", "--health-probe-bind-address=0")
	log, err := os.Create(filepath.Join(t.TempDir(), "controller.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("the log of the controller:\n%s", text)
		}
		log.Close()
	})
	cmd.Stdout, cmd.Stderr = log, log
	start(t, cmd)
	return c
}

// change changes a cluster as an administrator does.
func (c *cluster) change(t *testing.T, uc *v1alpha1.UserCluster, patch string) {
	t.Helper()
	if err := c.admin.Patch(t.Context(), uc.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(patch))); err != nil {
		t.Fatal(err)
	}
}
