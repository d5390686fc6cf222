package chart

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/cli"
	"github.com/keyturn/keyturn/internal/controller"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// scheduled is the CronJob of the chart with the values that the arguments give.
func scheduled(t *testing.T, args ...string) batchv1.CronJob {
	t.Helper()
	o := named(render(t, append(args, "--set", "schedule.enabled=true")...))["CronJob/keyturn-rotate"]
	if o == nil {
		t.Fatal("there is no CronJob")
	}
	var c batchv1.CronJob
	convert(t, o, &c)
	return c
}

// gkectl returns the program with arguments.
func gkectl(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	program, err := filepath.Abs(root + "bin/gkectl")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v\nhint: run `make build`", err)
	}
	return exec.CommandContext(t.Context(), program, args...)
}

// TestScheduleFlags has gkectl parse the arguments that the CronJob gives it.
func TestScheduleFlags(t *testing.T) {
	for name, args := range map[string][]string{"defaults": nil, "all values": {"--values", "testdata/all.yaml"}} {
		t.Run(name, func(t *testing.T) {
			given := scheduled(t, args...).Spec.JobTemplate.Spec.Template.Spec.Containers[0].Args
			if out, err := gkectl(t, append(given, "--help")...).CombinedOutput(); err != nil {
				t.Errorf("gkectl %s: %v: %s", strings.Join(given, " "), err, out)
			}
		})
	}
}

// TestScheduleExitCodes wants the Job not to try again after the exit codes that only a person can do something about.
func TestScheduleExitCodes(t *testing.T) {
	spec := scheduled(t).Spec.JobTemplate.Spec
	for _, rule := range spec.PodFailurePolicy.Rules {
		if rule.Action != batchv1.PodFailurePolicyActionFailJob {
			continue
		}
		want := []int32{cli.ExitUsage, cli.ExitRefused, cli.ExitTimeout, cli.ExitBlocked}
		if diff := cmp.Diff(want, rule.OnExitCodes.Values); diff != "" {
			t.Errorf("exit codes that end the Job (-want +chart):\n%s", diff)
		}
		if container := spec.Template.Spec.Containers[0].Name; *rule.OnExitCodes.ContainerName != container {
			t.Errorf("the exit codes are those of %s, want %s", *rule.OnExitCodes.ContainerName, container)
		}
		return
	}
	t.Error("no exit code ends the Job")
}

// TestScheduleIsSelectedByNothing wants the labels of the CronJob's pods to be others than the controllers have, of
// which a Service, a PodDisruptionBudget and a Deployment select pods.
func TestScheduleIsSelectedByNothing(t *testing.T) {
	objects := named(render(t, "--set", "schedule.enabled=true"))
	service := objects["Service/keyturn-controller-metrics"]
	selector := service.Object["spec"].(map[string]any)["selector"].(map[string]any)
	pods := scheduled(t).Spec.JobTemplate.Spec.Template.Labels
	same := 0
	for label, value := range selector {
		if pods[label] == value {
			same++
		}
	}
	if len(selector) == 0 || same == len(selector) {
		t.Errorf("the selector %v of the controllers selects pods with %v", selector, pods)
	}
}

func newUserCluster(namespace, name string) *v1alpha1.UserCluster {
	return &v1alpha1.UserCluster{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: v1alpha1.UserClusterSpec{
			Infrastructure: v1alpha1.Infrastructure{Local: &v1alpha1.LocalInfrastructure{
				KubernetesVersion: "v1.36.4",
				Network:           v1alpha1.Network{ServiceCIDR: "10.96.0.0/20", PodCIDR: "192.168.0.0/16"},
				ControlPlane:      v1alpha1.ControlPlane{Replicas: 1},
			}},
			KSASigningKey: v1alpha1.KSASigningKey{Version: 1, Algorithm: v1alpha1.RS256, Issuer: "https://blue.example"},
		},
	}
}

const scheduleAccount = "system:serviceaccount:" + v1alpha1.SystemNamespace + ":keyturn-rotate"

// as returns a client with the rights of a user.
func (r *release) as(user string, groups ...string) (client.Client, *rest.Config) {
	r.t.Helper()
	scheme, err := controller.NewScheme()
	if err != nil {
		r.t.Fatal(err)
	}
	as := rest.CopyConfig(r.config)
	as.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	c, err := client.New(as, client.Options{Scheme: scheme})
	if err != nil {
		r.t.Fatal(err)
	}
	return c, as
}

// observe writes the status of a cluster whose key version is the only one.
func (r *release) observe(uc *v1alpha1.UserCluster, version int32) {
	r.t.Helper()
	c, _ := r.as(v1alpha1.ControllerUser, "system:masters")
	uc.Status.ObservedGeneration = uc.Generation
	uc.Status.KSASigningKey = v1alpha1.KSASigningKeyStatus{
		TokenVersion: version, PrivateKeyVersion: version, PublicKeyVersions: []int32{version},
		Keys: []v1alpha1.KeyVersionStatus{{
			Version: version, KeyID: "kid", Algorithm: v1alpha1.RS256, CreatedAt: metav1.NewTime(time.Unix(1e9, 0)),
		}},
	}
	uc.Status.Conditions = nil
	for condition, reason := range map[string]string{
		v1alpha1.ConditionReady:                 v1alpha1.ReasonReady,
		v1alpha1.ConditionKSASigningKeyRotation: v1alpha1.ReasonRotationCompleted,
	} {
		uc.Status.Conditions = append(uc.Status.Conditions, metav1.Condition{
			Type: condition, Status: metav1.ConditionTrue, Reason: reason, ObservedGeneration: uc.Generation,
			LastTransitionTime: metav1.Now(),
		})
	}
	if err := c.Status().Update(r.t.Context(), uc); err != nil {
		r.t.Fatal(err)
	}
}

// TestScheduleRotates runs the program with the arguments and the rights of the CronJob. They suffice, and they are
// good for nothing else.
func TestScheduleRotates(t *testing.T) {
	r := newRelease(t)
	r.helm("install", "keyturn", chart, "--create-namespace", "--set", "schedule.enabled=true")
	administrator, _ := r.as("administrator", "system:masters")
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}}
	if err := administrator.Create(t.Context(), namespace); err != nil {
		t.Fatal(err)
	}
	uc, other := newUserCluster(v1alpha1.SystemNamespace, "blue"), newUserCluster(namespace.Name, "blue")
	for _, uc := range []*v1alpha1.UserCluster{uc, other} {
		// The API server may know the definition a moment later than it has it.
		eventually(t, "the UserCluster to be taken", func(ctx context.Context) error {
			return administrator.Create(ctx, uc.DeepCopy())
		})
		if err := administrator.Get(t.Context(), client.ObjectKeyFromObject(uc), uc); err != nil {
			t.Fatal(err)
		}
		r.observe(uc, 1)
	}

	limited, config := r.as(scheduleAccount, "system:serviceaccounts", "system:authenticated")
	// The policy may be in force a moment later too.
	for what, edit := range map[string]func(*v1alpha1.UserCluster){
		"publish elsewhere": func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.Publish = []string{"gs://mine"} },
		"another algorithm": func(uc *v1alpha1.UserCluster) { uc.Spec.KSASigningKey.Algorithm = v1alpha1.ES256 },
		"join a fleet": func(uc *v1alpha1.UserCluster) {
			uc.Spec.GKEConnect = &v1alpha1.GKEConnect{ProjectID: "my-project", Location: "global"}
		},
		"break the glass": func(uc *v1alpha1.UserCluster) {
			uc.Annotations = map[string]string{v1alpha1.AnnotationBreakGlass: "x"}
		},
		"change labels": func(uc *v1alpha1.UserCluster) { uc.Labels = map[string]string{"stage": "test"} },
		"rotate and publish": func(uc *v1alpha1.UserCluster) {
			uc.Spec.KSASigningKey.Version, uc.Spec.KSASigningKey.Publish = 2, []string{"gs://mine"}
		},
	} {
		changed := uc.DeepCopy()
		edit(changed)
		eventually(t, what+" to be forbidden", func(ctx context.Context) error {
			err := limited.Patch(ctx, changed.DeepCopy(), client.MergeFrom(uc), client.DryRunAll)
			if apierrors.IsForbidden(err) && strings.Contains(err.Error(), "keyturn-rotate") {
				return nil
			}
			return fmt.Errorf("it got %w", err)
		})
	}

	args := slices.Clone(scheduled(t).Spec.JobTemplate.Spec.Template.Spec.Containers[0].Args)
	job := gkectl(t, append(args, "--kubeconfig", kubetest.WriteKubeconfig(t, config))...)
	var out, said strings.Builder
	job.Stdout, job.Stderr = &out, &said
	if err := job.Start(); err != nil {
		t.Fatal(err)
	}
	want := ""
	for _, uc := range []*v1alpha1.UserCluster{uc, other} {
		eventually(t, "the rotation to begin", func(ctx context.Context) error {
			err := administrator.Get(ctx, client.ObjectKeyFromObject(uc), uc)
			if err == nil && uc.Spec.KSASigningKey.Version != 2 {
				err = errors.New("the key version is the first")
			}
			return err
		})
		r.observe(uc, 2)
		want += "user cluster " + uc.Namespace + "/blue: the KSA signing key has KSASigningKeyVersion 2\n"
	}
	if err := job.Wait(); err != nil {
		t.Errorf("%v\n%s", err, &said)
	}
	if out.String() != want {
		t.Errorf("it prints %q, want %q", &out, want)
	}
}

// eventually waits until try succeeds, however long that takes on a busy machine.
func eventually(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, 5*time.Minute, true,
		func(ctx context.Context) (bool, error) {
			err := try(ctx)
			if ctx.Err() == nil {
				last = err
			}
			return err == nil, nil
		})
	if err != nil {
		t.Fatalf("waiting for %s: %v", what, errors.Join(last, err))
	}
}

// TestScheduleRights asks the API server what the account of the CronJob may do, and where. Its arguments name the same
// namespaces.
func TestScheduleRights(t *testing.T) {
	for _, name := range []string{"team-a", "team-b"} {
		namespace := &unstructured.Unstructured{}
		namespace.SetAPIVersion("v1")
		namespace.SetKind("Namespace")
		namespace.SetName(name)
		makeNamespace(t, namespace)
	}
	for name, test := range map[string]struct {
		values []string
		// in are the namespaces of the arguments; none means all.
		in []string
	}{
		"everywhere":     {},
		"where keys are": {[]string{"secretNamespaces={keyturn-system,team-a}"}, []string{"keyturn-system", "team-a"}},
		"in one":         {[]string{"schedule.namespaces={team-a}"}, []string{"team-a"}},
		"in one of those": {
			[]string{"schedule.namespaces={team-a},secretNamespaces={team-a,team-b}"}, []string{"team-a"},
		},
		"where no chart is in": {[]string{"schedule.namespaces={team-b,team-a}"}, []string{"team-b", "team-a"}},
	} {
		t.Run(name, func(t *testing.T) {
			values := []string{"--set", strings.Join(append(test.values, "schedule.enabled=true"), ",")}
			installRoles(t, values...)
			var want []string
			var rights []right
			for _, namespace := range []string{v1alpha1.SystemNamespace, "team-a", "team-b"} {
				of := func(verb, group, resource string, want bool) {
					rights = append(rights, right{scheduleAccount, verb, group, resource, "", namespace, "", want})
				}
				here := len(test.in) == 0 || slices.Contains(test.in, namespace)
				of("list", "keyturn.dev", "userclusters", here)
				of("watch", "keyturn.dev", "userclusters", here)
				of("patch", "keyturn.dev", "userclusters", here)
				of("create", "keyturn.dev", "userclusters", false)
				of("delete", "keyturn.dev", "userclusters", false)
				of("get", "", "secrets", false)
				of(v1alpha1.VerbBreakGlass, "keyturn.dev", "userclusters", false)
			}
			checkRights(t, rights)
			for _, namespace := range test.in {
				want = append(want, "--namespace="+namespace)
			}
			if len(want) == 0 {
				want = []string{"--all-namespaces"}
			}
			args := scheduled(t, values...).Spec.JobTemplate.Spec.Template.Spec.Containers[0].Args
			got := slices.DeleteFunc(args, func(a string) bool { return !strings.Contains(a, "namespace") })
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("namespaces of the arguments (-want +chart):\n%s", diff)
			}
		})
	}
}
