package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
	"github.com/keyturn/keyturn/internal/kubetest"
)

// server is the API server that all scripts share: the admin cluster, and the user cluster of those who need one.
var server *rest.Config

// TestMain runs the scripts' gkectl and kubectl-keyturn from this very binary.
func TestMain(m *testing.M) {
	testscript.Main(withServer{m}, map[string]func(){
		"gkectl": main(Run), "kubectl-keyturn": main(RunPlugin, "gkectl"), completer: main(RunPlugin, "gkectl"),
	})
}

// main is the function of that name of a program that must not print some words.
func main(run func(context.Context, Env, []string) int, forbidden ...string) func() {
	return func() {
		env := System()
		env.Out, env.Err = &guard{to: env.Out, forbidden: forbidden}, &guard{to: env.Err, forbidden: forbidden}
		// The scripts have no terminal; with TERMINAL=1 their standard input counts as one.
		env.IsTerminal = func(stream any) bool { return stream == os.Stdin && os.Getenv("TERMINAL") == "1" }
		os.Exit(run(context.Background(), env, arguments()))
	}
}

// withServer runs tests with an API server that is set up as an admin cluster.
type withServer struct{ m *testing.M }

func (w withServer) Run() int {
	config, stop, err := kubetest.Launch(kubetest.Options{
		APIServerArgs: map[string][]string{"service-account-issuer": {"https://issuer.test"}},
	})
	if err == nil {
		server = config
		err = makeAdmin(context.Background(), config)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := w.m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func TestScripts(t *testing.T) { runScripts(t, "script") }

func runScripts(t *testing.T, dir string) {
	t.Helper()
	t.Cleanup(func() { deleteClusters(t) })
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", dir),
		Setup: func(e *testscript.Env) error {
			programs, err := kubetest.BinDir()
			if err != nil {
				return err
			}
			e.Setenv("PATH", e.Getenv("PATH")+string(filepath.ListSeparator)+programs)
			return writeAdminKubeconfig(filepath.Join(e.WorkDir, "kubeconfig"), server)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"observe":     cmdObserve,
			"answer":      cmdAnswer,
			"await":       cmdAwait,
			"apply":       cmdApply,
			"usercluster": cmdUserCluster,
			"finish":      cmdFinish,
			"exitcode":    exitCodeOf("gkectl"),
			"pluginexit":  exitCodeOf("kubectl-keyturn"),
			"mode":        cmdMode,
			"newkey":      cmdNewKey,
			"newcert":     cmdNewCertificate,
			"secret":      cmdSecret,
			"as":          cmdAs,
			"keysecret":   cmdKeySecret,
		},
	})
}

// deleteClusters leaves nothing of the scripts in the admin cluster.
func deleteClusters(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	c, err := controllerClient()
	if err != nil {
		t.Fatal(err)
	}
	list := &v1alpha1.UserClusterList{}
	if err := c.List(ctx, list); err != nil {
		t.Fatal(err)
	}
	for _, uc := range list.Items {
		for _, o := range []client.Object{&uc, kubeconfigSecret(&uc, nil), credentialsOf(uc.Name)} {
			if err := client.IgnoreNotFound(c.Delete(ctx, o)); err != nil {
				t.Error(err)
			}
		}
		release := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
		if err := client.IgnoreNotFound(c.Patch(ctx, &uc, release)); err != nil {
			t.Error(err)
		}
	}
}

func kubeconfigSecret(uc *v1alpha1.UserCluster, data []byte) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: uc.Namespace, Name: v1alpha1.KubeconfigSecretName(uc.Name),
			Labels: map[string]string{v1alpha1.LabelCluster: uc.Name, v1alpha1.LabelClusterUID: string(uc.UID)},
		},
		Type: v1alpha1.SecretTypeKubeconfig,
		Data: map[string][]byte{v1alpha1.KubeconfigKey: data},
	}
}

func writeAdminKubeconfig(path string, config *rest.Config) error {
	data, err := kubetest.Kubeconfig(config)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// controllerClient writes what only the controller may.
func controllerClient() (client.Client, error) {
	config := rest.CopyConfig(server)
	config.Impersonate = rest.ImpersonationConfig{UserName: v1alpha1.ControllerUser, Groups: []string{"system:masters"}}
	return client.New(config, client.Options{Scheme: scheme, Mapper: mapper})
}

// cmdObserve makes a status of a cluster the observed one: observe [-stale] CLUSTER STATUS_FILE. Its generations are
// the current one, or, with -stale, the one before, and its keys without a time are new.
func cmdObserve(ts *testscript.TestScript, _ bool, args []string) {
	var behind int64
	if args[0] == "-stale" {
		behind, args = 1, args[1:]
	}
	c, err := controllerClient()
	ts.Check(err)
	uc := getCluster(ts, c, args[0])
	var status v1alpha1.UserClusterStatus
	ts.Check(yaml.UnmarshalStrict([]byte(ts.ReadFile(args[1])), &status))
	status.ObservedGeneration = uc.Generation - behind
	for i := range status.Conditions {
		status.Conditions[i].ObservedGeneration = status.ObservedGeneration
		if status.Conditions[i].LastTransitionTime.IsZero() {
			status.Conditions[i].LastTransitionTime = metav1.Now()
		}
	}
	for i := range status.KSASigningKey.Keys {
		if status.KSASigningKey.Keys[i].CreatedAt.IsZero() {
			status.KSASigningKey.Keys[i].CreatedAt = metav1.Now()
		}
	}
	uc.Status = status
	ts.Check(c.Status().Update(context.Background(), uc))
}

// cmdAnswer waits until somebody asks for the tokens of a cluster that live, and answers: answer CLUSTER FILE.
func cmdAnswer(ts *testscript.TestScript, _ bool, args []string) {
	c, err := controllerClient()
	ts.Check(err)
	var tokens v1alpha1.TokensStatus
	ts.Check(yaml.UnmarshalStrict([]byte(ts.ReadFile(args[1])), &tokens))
	eventually(ts, fmt.Sprint(args), func() bool {
		uc := getCluster(ts, c, args[0])
		tokens.Request = uc.Annotations[v1alpha1.AnnotationShowTokens]
		was := uc.Status.KSASigningKey.Tokens
		if tokens.Request == "" || was != nil && was.Request == tokens.Request {
			return false
		}
		uc.Status.KSASigningKey.Tokens = &tokens
		return c.Status().Update(context.Background(), uc) == nil
	})
}

func getCluster(ts *testscript.TestScript, c client.Client, name string) *v1alpha1.UserCluster {
	uc := &v1alpha1.UserCluster{}
	ts.Check(c.Get(context.Background(), keyOf(name), uc))
	return uc
}

// keyOf returns what identifies the cluster that a script calls NAME or NAMESPACE/NAME.
func keyOf(name string) client.ObjectKey {
	namespace, rest, ok := strings.Cut(name, "/")
	if !ok {
		namespace, rest = v1alpha1.SystemNamespace, name
	}
	return client.ObjectKey{Namespace: namespace, Name: rest}
}

// cmdAwait waits until the spec of a cluster has a key version, or it is being deleted: await CLUSTER
// N|created|deleting.
func cmdAwait(ts *testscript.TestScript, _ bool, args []string) {
	c, err := controllerClient()
	ts.Check(err)
	wanted, _ := strconv.Atoi(args[1])
	eventually(ts, fmt.Sprint(args), func() bool {
		uc := &v1alpha1.UserCluster{}
		err := c.Get(context.Background(), keyOf(args[0]), uc)
		switch args[1] {
		case "created":
			return err == nil
		case "deleting":
			return err == nil && uc.DeletionTimestamp != nil
		}
		return err == nil && uc.Spec.KSASigningKey.Version == int32(wanted)
	})
}

func eventually(ts *testscript.TestScript, what string, done func() bool) {
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("timed out waiting for %s", what)
		}
	}
}

// cmdFinish holds a cluster back from its deletion, or lets it go: finish -hold CLUSTER, finish CLUSTER.
func cmdFinish(ts *testscript.TestScript, _ bool, args []string) {
	c, err := controllerClient()
	ts.Check(err)
	var finalizers []string
	if args[0] == "-hold" {
		finalizers, args = []string{v1alpha1.Finalizer}, args[1:]
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"finalizers": finalizers}})
	ts.Check(err)
	ts.Check(c.Patch(context.Background(), getCluster(ts, c, args[0]), client.RawPatch(types.MergePatchType, patch)))
}

// cmdUserCluster writes the kubeconfig of a user cluster as the controller does; it is the shared API server. A line,
// if given, is added to its user, as if somebody had changed it: usercluster CLUSTER [LINE].
func cmdUserCluster(ts *testscript.TestScript, _ bool, args []string) {
	c, err := controllerClient()
	ts.Check(err)
	data, err := kubetest.Kubeconfig(server)
	ts.Check(err)
	if len(args) > 1 {
		data = bytes.Replace(data, []byte("  user:\n"), []byte("  user:\n    "+args[1]+"\n"), 1)
	}
	secret := kubeconfigSecret(getCluster(ts, c, args[0]), data)
	if err := c.Delete(context.Background(), secret); client.IgnoreNotFound(err) != nil {
		ts.Fatalf("deleting the kubeconfig of before: %v", err)
	}
	ts.Check(c.Create(context.Background(), secret))
	ts.Defer(func() { ts.Check(client.IgnoreNotFound(c.Delete(context.Background(), secret))) })
}

// cmdApply applies a file of objects, with their status if they have one, until the script ends: apply FILE.
func cmdApply(ts *testscript.TestScript, _ bool, args []string) {
	a, err := newApplier(server)
	ts.Check(err)
	objects, err := install.Decode([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	for _, o := range objects {
		ts.Check(a.apply(context.Background(), o))
		ts.Defer(func() { ts.Check(client.IgnoreNotFound(a.delete(context.Background(), o))) })
	}
}

// exitCodeOf runs a program and compares its exit code: exitcode N ARGS….
func exitCodeOf(program string) func(ts *testscript.TestScript, _ bool, args []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		err := ts.Exec(program, args[1:]...)
		got := 0
		if err != nil {
			var exit *exec.ExitError
			if !errors.As(err, &exit) {
				ts.Fatalf("running %s: %v", program, err)
			}
			got = exit.ExitCode()
		}
		if fmt.Sprint(got) != args[0] {
			ts.Fatalf("exit code %d, want %s", got, args[0])
		}
	}
}

// cmdMode compares the permissions of a file: mode 600 FILE.
func cmdMode(ts *testscript.TestScript, _ bool, args []string) {
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// applier applies any object, server-side.
type applier struct {
	client dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

func newApplier(config *rest.Config) (*applier, error) {
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	d, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return &applier{client: c, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d))}, nil
}

func (a *applier) apply(ctx context.Context, o *unstructured.Unstructured) error {
	resource, err := a.resource(o)
	if err != nil {
		return err
	}
	options := metav1.ApplyOptions{FieldManager: "test", Force: true}
	if _, err := resource.Apply(ctx, o.GetName(), o, options); err != nil {
		return err
	}
	if _, ok := o.Object["status"]; ok {
		_, err = resource.ApplyStatus(ctx, o.GetName(), o, options)
	}
	return err
}

func (a *applier) delete(ctx context.Context, o *unstructured.Unstructured) error {
	resource, err := a.resource(o)
	if err != nil {
		return err
	}
	var atOnce int64
	return resource.Delete(ctx, o.GetName(), metav1.DeleteOptions{GracePeriodSeconds: &atOnce})
}

func (a *applier) resource(o *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := o.GroupVersionKind()
	mapping, err := a.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return a.client.Resource(mapping.Resource).Namespace(o.GetNamespace()), nil
	}
	return a.client.Resource(mapping.Resource), nil
}
