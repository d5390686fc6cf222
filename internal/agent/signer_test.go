package agent

import (
	"bytes"
	"context"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/internal/rotation"
	"github.com/keyturn/keyturn/internal/signer/signercmd"
	"github.com/keyturn/keyturn/internal/signer/socket"
)

// startSigner plays the kubelet: once the agent has written the signer's manifest for these keys, it runs the signer
// with the arguments of that manifest. It returns how to stop it.
func (n node) startSigner(k rotation.Keys) (stop func()) {
	n.t.Helper()
	if r := n.apply(n.order(k, RestartMark(k, 1)), Waiting); r.Message != "the signer does not serve these keys yet" {
		n.t.Errorf("it waits because %s", r.Message)
	}
	var pod corev1.Pod
	must(n.t, yaml.UnmarshalStrict([]byte(n.read(n.Manifests+"/keyturn-signer.yaml")), &pod))
	ctx, cancel := context.WithCancel(n.t.Context())
	var running sync.WaitGroup
	var log bytes.Buffer
	running.Go(func() {
		signercmd.Run(ctx, append(pod.Spec.Containers[0].Args, "--supervise=false"), nil, &log)
	})
	stop = func() {
		cancel()
		running.Wait()
	}
	n.t.Cleanup(stop)
	for tick := time.Tick(10 * time.Millisecond); ; <-tick {
		if kids, err := serving(ctx, n.StateDir+"/signer/socket"); err == nil && len(kids) == len(k.Verify) {
			return stop
		}
		if n.t.Context().Err() != nil {
			n.t.Fatalf("the signer does not serve: %s", log.String())
		}
	}
}

// TestExternal converts a node to a signer, rotates with no restart, and converts it back.
func TestExternal(t *testing.T) {
	n := newNode(t, 1, 1)
	stop := n.startSigner(external(1, 1))
	if got := n.restart(); got.external {
		t.Error("kube-apiserver was converted before its signer served")
	}
	n.settled(external(1, 1))
	n.wantKeys(external(1, 1))
	manifest := n.read(n.Manifests + "/kube-apiserver.yaml")
	for _, k := range []rotation.Keys{external(1, 1, 2), external(2, 1, 2), external(2, 2)} {
		n.apply(n.order(k, ""), Done)
		n.wantKeys(k)
	}
	if got := n.read(n.Manifests + "/kube-apiserver.yaml"); got != manifest {
		t.Error("a rotation with a signer changed the manifest of kube-apiserver")
	}
	if r := n.apply(n.order(files(2, 2), ""), Waiting); r.Found.Signer == nil || !r.Found.Signer.Manifest {
		t.Errorf("signer %+v", r.Found.Signer)
	}
	n.apply(n.order(files(2, 2), "back"), Done)
	n.wantKeys(files(2, 2))
	if r := n.apply(n.do(Observe), Done); r.Found.Signer == nil {
		t.Error("the signer was removed before the change was settled")
	}
	n.apply(n.settle("back"), Done)
	stop()
	if r := n.apply(n.do(Observe), Done); r.Found.Signer != nil {
		t.Errorf("a signer is left: %+v", r.Found.Signer)
	}
	n.release()
	if _, err := os.Stat(n.pathOf(File{State, stateFile})); !os.IsNotExist(err) {
		t.Error("the node is not released")
	}
}

// release releases the node, on which a signer left files and has yet to end.
func (n node) release() {
	n.t.Helper()
	n.write(n.StateDir+"/signer/ledger", "which tokens live", 0o600)
	listener, err := socket.Listen(n.Paths().keys().Socket)
	must(n.t, err)
	n.apply(n.do(Release), Waiting)
	if n.read(n.StateDir+"/signer/ledger") == "" {
		n.t.Error("the files of a signer that runs are gone")
	}
	must(n.t, listener.Close())
	n.apply(n.do(Release), Done)
	if entries, err := os.ReadDir(n.StateDir + "/signer"); err != nil || len(entries) > 0 {
		n.t.Errorf("files of the signer are left: %v, %v", entries, err)
	}
}

func TestSignerManifest(t *testing.T) {
	text, err := signerPod(image, namespace,
		Paths{PKI: "/etc/kubernetes/pki", SignerDir: "/var/lib/keyturn/signer", KeyDir: "/var/lib/keyturn/keys"})
	must(t, err)
	golden, err := os.ReadFile("testdata/signer.golden")
	must(t, err)
	if diff := cmp.Diff(string(golden), string(text)); diff != "" {
		t.Errorf("testdata/signer.golden (-want +got):\n%s", diff)
	}
	var pod corev1.Pod
	must(t, yaml.UnmarshalStrict(text, &pod))
	want := []string{"--socket=/var/lib/keyturn/signer/socket", "--key-dir=/var/lib/keyturn/keys"}
	if c := pod.Spec.Containers[0]; !slices.Equal(c.Args, want) || c.Image != image {
		t.Errorf("%s with %s", c.Image, cmp.Diff(want, c.Args))
	}
	if *pod.Spec.SecurityContext.RunAsUser != 0 || !*pod.Spec.Containers[0].SecurityContext.ReadOnlyRootFilesystem {
		t.Errorf("security %+v", pod.Spec.SecurityContext)
	}
	for _, bad := range []string{"", "a b", "x\ny: z", "{}"} {
		if _, err := signerPod(bad, namespace, Paths{SignerDir: "/a", KeyDir: "/b"}); err == nil {
			t.Errorf("image %q is taken", bad)
		}
	}
}
