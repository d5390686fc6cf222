package plane

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFailedChecks(t *testing.T) {
	for body, want := range map[string]string{
		"ok": "",
		"[+]ping ok\n[-]etcd failed: reason withheld\nreadyz check failed\n": "etcd",
		"[-]a failed\n[-]b failed\n[-]c failed\n[-]d failed\n[-]e failed\n":  "a, b, c and 2 more",
	} {
		if got := failedChecks(body); got != want {
			t.Errorf("%q: got %q", body, got)
		}
	}
}

func TestParseServerStates(t *testing.T) {
	const out = `1
# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state srv_uweight srv_iweight
3 apiservers 1 apiserver-0 10.88.1.11 2 0 1 1 36 15 3 4 6 0 0 0 - 6443 - 0 0 - - 0
3 apiservers 2 apiserver-1 10.88.1.12 2 8 1 1 36 15 3 4 6 0 0 0 - 6443 - 0 0 - - 0
3 apiservers 3 apiserver-2 10.88.1.13 0 0 1 1 36 15 3 4 6 0 0 0 - 6443 - 0 0 - - 0
`
	got, err := parseServerStates(out)
	want := map[string]bool{"apiserver-0": true, "apiserver-1": false, "apiserver-2": false}
	if err != nil || !cmp.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
}
