package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// managing is a cluster with nodes for the controllers.
func managing() string {
	return strings.Replace(head(), "name: e2e", "name: managing", 1) + `masterNode:
  replicas: 1
nodePools:
- name: pool-1
  replicas: 2
`
}

// One cluster manages another: Helm installs two controllers into it, whose pods reach keyturn-local. The leader
// is stopped in a rotation and woken after it; then both are killed in another; then the chart is upgraded in a third,
// which a Job of the chart's schedule starts.
func TestRotateInstalledByHelm(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("nodes need root")
	}
	host := newPlace(t)
	host.createCluster(managing())
	in := newInstallation(t, host)
	in.createCluster(highlyAvailable(v1alpha1.KeySourceExternal))
	in.makeLegacy(t)
	verified := in.startVerifying(t, "go-oidc", v1alpha1.DefaultIssuer, in.clusterDocuments(t))

	in.rotate(t, 2, in.byHand, in.stopLeader)
	in.rotate(t, 3, in.byHand, in.killAll)
	in.rotate(t, 4, in.bySchedule, func() func() {
		in.helm("upgrade", "keyturn", chart, "--reuse-values", "--set", "podAnnotations.upgraded=yes")
		return func() {
			in.awaitControllers()
			in.mustKubectl("--namespace", v1alpha1.SystemNamespace, "wait", "job/now", "--for=condition=Complete",
				"--timeout=2m")
		}
	})

	verified()
	in.must("delete", "cluster", "--config", in.config(), "--kubeconfig", in.kubeconfig(), "--skip-prompt")
	in.helm("uninstall", "keyturn")
	host.must("delete", "cluster", "--config", host.config(), "--kubeconfig", host.kubeconfig(), "--skip-prompt")
	host.must("delete", "admin", "--data-dir", host.dataDir(), "--kubeconfig", host.kubeconfig(),
		"--network", host.network, "--skip-prompt")
	host.nothingLeft(t)
}

const chart = "../../deploy/charts/keyturn"

// installation is the place of the clusters that a cluster of another place manages.
type installation struct {
	*place
	host *place
}

// newInstallation installs the chart in the cluster "managing" of a place.
func newInstallation(t *testing.T, host *place) *installation {
	t.Helper()
	in := &installation{
		place: &place{t: t, bin: host.bin, dir: t.TempDir(), network: host.network, patience: host.patience}, host: host,
	}
	copyFile(t, host.userKubeconfig("managing"), in.kubeconfig())
	in.importImages(t)
	credentials := filepath.Join(host.dir, "local-credentials")
	for _, args := range [][]string{
		{"create", "namespace", v1alpha1.SystemNamespace},
		{"label", "namespace", v1alpha1.SystemNamespace, "pod-security.kubernetes.io/enforce=restricted"},
		{"--namespace", v1alpha1.SystemNamespace, "create", "secret", "generic", "keyturn-local",
			"--from-file=" + filepath.Join(credentials, "tls.crt"), "--from-file=" + filepath.Join(credentials, "tls.key"),
			"--from-file=" + filepath.Join(credentials, "ca.crt")},
	} {
		in.mustKubectl(args...)
	}
	// The schedule never comes: the Job is made by hand.
	in.helm("install", "keyturn", chart, "--set", "local.secretName=keyturn-local",
		"--set", "local.endpoint=https://"+strings.TrimSuffix(host.network, "0.0/16")+"0.6:9443",
		"--set", "schedule.enabled=true", "--set", "schedule.cron=0 0 31 2 *", "--set", "schedule.olderThan=1s")
	in.awaitControllers()
	return in
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	source, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(target, source); errors.Join(err, target.Close()) != nil {
		t.Fatalf("copying %s to %s: %v", from, to, err)
	}
}

// importImages packs the programs as `make images` does, and gives the images of the chart to the nodes.
func (in *installation) importImages(t *testing.T) {
	t.Helper()
	pack := exec.Command("go", "run", "../../tools/images", "-programs", in.bin, "-out", in.dir)
	if out, err := pack.CombinedOutput(); err != nil {
		t.Fatalf("packing the images: %v\n%s", err, out)
	}
	machines := slices.DeleteFunc(in.host.processes(), func(q proc) bool {
		return q.name != "keyturn-machine" || !strings.HasSuffix(q.command, " init")
	})
	if len(machines) != 2 {
		t.Fatalf("there are %d machines, want 2", len(machines))
	}
	for _, m := range machines {
		for _, archive := range []string{"keyturn-controller.tar", "gkectl.tar"} {
			copyFile(t, filepath.Join(in.dir, archive), fmt.Sprintf("/proc/%d/root/var/%s", m.pid, archive))
			out, err := exec.Command("nsenter", "-t", fmt.Sprint(m.pid), "-a",
				"ctr", "-n", "k8s.io", "images", "import", "/var/"+archive).CombinedOutput()
			if err != nil {
				t.Fatalf("importing the image: %v\n%s", err, out)
			}
		}
	}
}

func (in *installation) mustKubectl(args ...string) {
	in.t.Helper()
	if out, err := in.kubectl(in.t, in.kubeconfig(), args...); err != nil {
		in.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (in *installation) helm(args ...string) {
	in.t.Helper()
	args = append(args, "--namespace", v1alpha1.SystemNamespace, "--kubeconfig", in.kubeconfig())
	if out, err := exec.Command(filepath.Join(in.bin, "tools", "helm"), args...).CombinedOutput(); err != nil {
		in.t.Fatalf("helm %s: %v\n%s\nhint: run `make bin/tools/helm`", strings.Join(args, " "), err, out)
	}
}

// awaitControllers waits until both controllers run and are ready. A Deployment alone does not tell: for a moment it has
// a controller for ready whose process has just ended.
func (in *installation) awaitControllers() {
	in.t.Helper()
	in.bothControllers()
	in.mustKubectl("--namespace", v1alpha1.SystemNamespace, "rollout", "status",
		"deployment/keyturn-controller", "--timeout=3m")
}

// byHand starts a rotation as a person does.
func (in *installation) byHand() { in.must(in.credentials("rotate", "--skip-prompt")...) }

// bySchedule starts one by a Job of the chart's CronJob.
func (in *installation) bySchedule() {
	in.mustKubectl("--namespace", v1alpha1.SystemNamespace, "create", "job", "now", "--from=cronjob/keyturn-rotate")
}

// rotate rotates to a version and, once that has begun, has something done and, at the end, made good again.
func (in *installation) rotate(t *testing.T, version int, start func(), disturb func() (mend func())) {
	t.Helper()
	old := in.mint(t, "")
	start()
	in.eventually("the rotation to begin", func(context.Context) error {
		if stored := len(in.cluster("e2e").Status.KSASigningKey.Keys); stored < 2 {
			return fmt.Errorf("%d keys are stored", stored)
		}
		return nil
	})
	mend := disturb()
	in.must(in.credentials("status", "--wait", "--timeout", rotateTimeout.String())...)
	in.expectStatus(version)
	mend()
	in.waitReady(t)
	in.expectStatus(version)
	in.expectLegacy(t, version)
	in.expectRefused(t, old)
}

// stopLeader stops the controller that works, so that the other one has to take over, and wakes it in the end: it must
// find out that it is the leader no more.
func (in *installation) stopLeader() (wake func()) {
	in.t.Helper()
	leader := in.leader()
	pid, ok := in.controllers()[leader]
	if !ok {
		in.t.Fatalf("no process is of pod %s", leader)
	}
	in.signal(pid, syscall.SIGSTOP)
	return func() {
		if now := in.leader(); now == leader {
			in.t.Errorf("%s was stopped and is still the leader", leader)
		}
		in.signal(pid, syscall.SIGCONT)
		in.eventually("the woken controller to end", func(context.Context) error {
			if in.controllers()[leader] == pid {
				return errors.New("it runs")
			}
			return nil
		})
		in.awaitControllers()
	}
}

// killAll kills both controllers at once.
func (in *installation) killAll() (wait func()) {
	in.t.Helper()
	for _, pid := range in.bothControllers() {
		in.signal(pid, syscall.SIGKILL)
	}
	return in.awaitControllers
}

func (in *installation) signal(pid int, s syscall.Signal) {
	in.t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		in.t.Fatalf("sending %v to process %d: %v", s, pid, err)
	}
}

// leader is the pod that has the Lease.
func (in *installation) leader() string {
	in.t.Helper()
	var lease *coordinationv1.Lease
	in.eventually("reading the Lease", func(ctx context.Context) (err error) {
		lease, err = in.host.user("managing").CoordinationV1().Leases(v1alpha1.SystemNamespace).Get(
			ctx, "keyturn-controller", metav1.GetOptions{})
		if err == nil && lease.Spec.HolderIdentity == nil {
			err = errors.New("nobody has it")
		}
		return err
	})
	pod, _, _ := strings.Cut(*lease.Spec.HolderIdentity, "_")
	return pod
}

// bothControllers waits until two controllers run, and returns their processes by the name of the pod.
func (in *installation) bothControllers() (all map[string]int) {
	in.t.Helper()
	in.eventually("both controllers to run", func(context.Context) error {
		if all = in.controllers(); len(all) != 2 {
			return fmt.Errorf("%d run", len(all))
		}
		return nil
	})
	return all
}

// controllers are the processes of the controllers in pods, by the name of the pod.
func (in *installation) controllers() map[string]int {
	all := map[string]int{}
	for _, q := range in.host.processes() {
		if q.name != "keyturn-controller" || q.command[0] != '/' || strings.Contains(q.command, in.bin) {
			continue
		}
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/etc/hostname", q.pid)); err == nil {
			all[strings.TrimSpace(string(name))] = q.pid
		}
	}
	return all
}
