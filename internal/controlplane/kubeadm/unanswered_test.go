package kubeadm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestExplain has errors as they were seen while static pods of kube-apiserver were started again.
func TestExplain(t *testing.T) {
	const upgrade = `asking whether it is ready: Get "https://cp-1:6443/readyz": forwarding port 6443 of pod ` +
		`kube-apiserver-cp-1: unable to upgrade streaming request: websocket: bad handshake (500 Internal Server Error): `
	for text, want := range map[string]string{
		upgrade + `pod not found ("kube-apiserver-cp-1_kube-system")`: "it does not run",
		upgrade + `failed to find sandboxID for pod kube-apiserver-cp-1_kube-system(5b260921f48266c790f55001bdbb712c)`: "it " +
			"does not run",
		upgrade + `Authorization error (user=kube-apiserver-kubelet-client, verb=get, resource=nodes, subresource=proxy)`: "the " +
			"kubelet cannot ask an API server whether it may be reached",
		`Get "https://cp-1:6443/readyz": the kubelet answers: error forwarding port 6443 to pod 7a, uid : failed to connect to ` +
			`localhost:6443 inside namespace "": dial tcp4 127.0.0.1:6443: connect: connection refused`: "it does not listen yet",
		`Get "https://cp-1:6443/readyz": net/http: TLS handshake timeout`: "it has not answered in time",
		`forbidden: User "system:serviceaccount:a:b" cannot get path "/readyz"`: "it is starting, and does not know the rights " +
			"of Keyturn yet",
		"an error on the server (\"[+]ping ok\\n[-]poststarthook/start-apiextensions-controllers failed: reason withheld\\n" +
			"[-]poststarthook/crd-informer-synced failed: reason withheld\\n[+]log ok\\nreadyz check failed\") has prevented the " +
			"request from succeeding": "it is not ready: of its checks, poststarthook/start-apiextensions-controllers, " +
			"poststarthook/crd-informer-synced fails",
	} {
		cause := errors.New(text)
		err := explain(cause, "it", "Keyturn asks again")
		if want += "; Keyturn asks again"; err == nil || err.Error() != want || !errors.Is(err, cause) {
			t.Errorf("%s\nbecomes %v\nwant    %s", text, err, want)
		}
	}
	for _, text := range []string{"Unauthorized", `dial tcp 10.0.0.1:6443: connect: connection refused`} {
		if err := explain(errors.New(text), "it", "again"); err == nil || err.Error() != text {
			t.Errorf("%s becomes %v", text, err)
		}
	}
	if err := explain(fmt.Errorf("asking: %w", context.DeadlineExceeded), "it", "again"); !errors.Is(err, context.DeadlineExceeded) ||
		!strings.HasPrefix(err.Error(), "it has not answered") {
		t.Errorf("a deadline becomes %v", err)
	}
	if explain(nil, "it", "again") != nil {
		t.Error("no error becomes one")
	}
}
