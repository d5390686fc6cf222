package cli

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/keyturn/keyturn/internal/hint"
)

// A hint is printed once, last and on its own line, wherever in an error it is.
func TestHintIsPrintedLast(t *testing.T) {
	deep := fmt.Errorf("creating admin cluster: %w",
		errors.Join(fmt.Errorf("starting etcd: %w", hint.Errorf("run `make kube`", "no etcd")), errors.New("ending it")))
	unreachable := &url.Error{Op: "Get", URL: "https://admin", Err: errors.New("refused")}
	for name, c := range map[string]struct {
		err  error
		want string
		code int
	}{
		"deep": {deep, "Error: creating admin cluster: starting etcd: no etcd\nending it\nhint: run `make kube`\n",
			ExitFailed},
		"within an error with an exit code": {
			&exitError{code: ExitRefused, err: deep},
			"Error: creating admin cluster: starting etcd: no etcd\nending it\nhint: run `make kube`\n", ExitRefused,
		},
		"none": {errors.New("no"), "Error: no\n", ExitFailed},
		"its own, and one for its kind": {
			hint.Errorf("ask them", "asking: %w", unreachable),
			"Error: asking: Get \"https://admin\": refused\nhint: ask them\n", ExitFailed,
		},
		"for its kind": {
			unreachable, "Error: Get \"https://admin\": refused\n" +
				"hint: the admin cluster does not answer; `gkectl create admin` starts what is missing of a local one\n",
			ExitFailed,
		},
		"text of another server": {
			fmt.Errorf("inspecting user cluster a: %w", apierrors.NewBadRequest("\x1b[2J\x1b]0;owned\a\nno")),
			"Error: inspecting user cluster a:  [2J ]0;owned \nno\n", ExitFailed,
		},
		"nobody": {
			fmt.Errorf("listing: %w", apierrors.NewUnauthorized("expired")), "Error: listing: expired\n" +
				"hint: name a kubeconfig file with valid credentials with --kubeconfig; they may have expired\n", ExitFailed,
		},
		"outermost": {usage("see --help", "wrong: %w", deep), "Error: wrong: " + deep.Error() + "\nhint: see --help\n",
			ExitUsage},
	} {
		var out bytes.Buffer
		a := &app{program: gkectl, Env: Env{Err: &out}}
		if code := a.report(t.Context(), c.err); code != c.code || out.String() != c.want {
			t.Errorf("%s: code %d and\n%swant %d and\n%s", name, code, out.String(), c.code, c.want)
		}
	}
}
