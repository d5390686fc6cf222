package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/kubeconfig"
)

// requestTimeout limits one request to an API server.
const requestTimeout = 30 * time.Second

// admin reads and writes the admin cluster without a cache.
type admin struct {
	client client.WithWatch
	config *rest.Config
	// namespace is the namespace of the UserClusters; empty for all. usual is the one that commands use if no flag names
	// one.
	namespace, usual string
	program          program
}

// connect returns the admin cluster of a kubeconfig file. In a pod without one, it is the cluster of the pod. It makes
// no request.
func (a *app) connect(path string) (admin, error) {
	config, err := readKubeconfig(path)
	if err != nil {
		return admin{}, err
	}
	return a.adminOf(config, v1alpha1.SystemNamespace, v1alpha1.SystemNamespace)
}

// adminOf returns the admin cluster of a client configuration.
func (a *app) adminOf(config *rest.Config, namespace, usual string) (admin, error) {
	config.UserAgent = a.program.userAgent()
	config.WarningHandler = rest.NewWarningWriter(a.Err, rest.WarningWriterOptions{Deduplicate: true})
	c, err := client.NewWithWatch(config, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		return admin{}, usage("name the kubeconfig file of the admin cluster with --kubeconfig", "using the kubeconfig: %w",
			err)
	}
	return admin{client: c, config: config, namespace: namespace, usual: usual, program: a.program}, nil
}

// in returns the admin cluster with the UserClusters of a namespace; empty for all.
func (c admin) in(namespace string) admin {
	c.namespace = namespace
	return c
}

// arguments returns what names a cluster on a command line: its name, and its namespace unless commands use that
// without a flag.
func (c admin) arguments(name string) string {
	if c.namespace == "" || c.namespace == c.usual {
		return name
	}
	return name + " --namespace " + c.namespace
}

func readKubeconfig(path string) (*rest.Config, error) {
	if path == "" {
		return nil, usage("for example --kubeconfig "+defaultKubeconfig, "no kubeconfig file of the admin cluster given")
	}
	file, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if config, err := rest.InClusterConfig(); err == nil && path == defaultKubeconfig {
			return config, nil
		}
		return nil, usage("name it with --kubeconfig, or make an admin cluster with `gkectl create admin`",
			"the kubeconfig file %s of the admin cluster does not exist", path)
	}
	if err != nil {
		return nil, usage("name the kubeconfig file of the admin cluster with --kubeconfig",
			"reading the kubeconfig file: %w", err)
	}
	config, err := clientcmd.NewDefaultClientConfig(*file, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, usage("name the kubeconfig file of the admin cluster with --kubeconfig",
			"using the kubeconfig file %s: %w", path, err)
	}
	return config, nil
}

// scheme and mapper know the kinds that gkectl uses, so it need not ask the API server for them.
var (
	scheme = newScheme()
	mapper = newMapper()
)

func newScheme() *runtime.Scheme {
	s := runtime.NewScheme()
	must(v1alpha1.AddToScheme(s))
	must(corev1.AddToScheme(s))
	return s
}

func newMapper() *meta.DefaultRESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	m.Add(v1alpha1.GroupVersion.WithKind("UserCluster"), meta.RESTScopeNamespace)
	m.Add(corev1.SchemeGroupVersion.WithKind("Secret"), meta.RESTScopeNamespace)
	return m
}

func (c admin) get(ctx context.Context, name string) (*v1alpha1.UserCluster, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	uc := &v1alpha1.UserCluster{}
	err := c.client.Get(ctx, client.ObjectKey{Namespace: c.namespace, Name: name}, uc)
	return uc, inWords(err, "reading user cluster %s", name)
}

// existing is get for a cluster that must exist.
func (c admin) existing(ctx context.Context, name string) (*v1alpha1.UserCluster, error) {
	uc, err := c.get(ctx, name)
	if isMissing(err) {
		return nil, failed("`"+c.program.list+"` lists the clusters",
			"user cluster %s does not exist in namespace %s", name, c.namespace)
	}
	return uc, err
}

func (c admin) list(ctx context.Context, o ...client.ListOption) (*v1alpha1.UserClusterList, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	list := &v1alpha1.UserClusterList{}
	err := c.client.List(ctx, list, append(o, client.InNamespace(c.namespace))...)
	return list, inWords(err, "listing user clusters")
}

// access reads an administrator's access to a user cluster from the Secret that the controller wrote. It uses nothing
// of a Secret that the controller did not write for this cluster.
func (c admin) access(ctx context.Context, uc *v1alpha1.UserCluster) (kubeconfig.Access, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: uc.Namespace, Name: v1alpha1.KubeconfigSecretName(uc.Name)}
	if err := c.client.Get(ctx, key, secret); err != nil {
		return kubeconfig.Access{}, fmt.Errorf("reading the kubeconfig of user cluster %s: %w", uc.Name, err)
	}
	if secret.Type != v1alpha1.SecretTypeKubeconfig || secret.Labels[v1alpha1.LabelCluster] != uc.Name ||
		secret.Labels[v1alpha1.LabelClusterUID] != uc.Identity() {
		return kubeconfig.Access{}, failed("delete that Secret if nobody needs it; the controller then writes its own",
			"reading the kubeconfig of user cluster %s: the controller did not write Secret %s: "+
				"it lacks the type %s, or the UID of the cluster in its label %s",
			uc.Name, key, v1alpha1.SecretTypeKubeconfig, v1alpha1.LabelClusterUID)
	}
	access, err := kubeconfig.Parse(secret.Data[v1alpha1.KubeconfigKey])
	if err != nil {
		return kubeconfig.Access{}, failed("delete that Secret as docs/operations/recover.md says; the controller writes "+
			"it again",
			"Secret %s: %w", key, err)
	}
	return access, nil
}

// isMissing reports whether the object does not exist.
func isMissing(err error) bool { return apierrors.IsNotFound(err) && !lacksAPI(err) }

// lacksAPI reports whether the API server does not know our API. It then also answers "not found", but without a
// Status.
func lacksAPI(err error) bool {
	return apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

// errNotInstalled means that the API server does not know UserClusters.
var errNotInstalled = fmt.Errorf("this cluster does not know %s",
	schema.GroupKind{Group: v1alpha1.GroupVersion.Group, Kind: "UserCluster"})

// inWords wraps an error of the admin cluster's API.
func inWords(err error, format string, args ...any) error {
	switch {
	case err == nil:
		return nil
	case lacksAPI(err):
		return &exitError{code: ExitFailed, err: errNotInstalled}
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// change changes the spec of a cluster, unless the spec has changed since it was read.
func (c admin) change(
	ctx context.Context, read *v1alpha1.UserCluster, edit func(*v1alpha1.UserCluster), o ...client.PatchOption,
) error {
	old := read
	for {
		changed := old.DeepCopy()
		edit(changed)
		err := c.patch(ctx, changed, client.MergeFromWithOptions(old, client.MergeFromWithOptimisticLock{}), o...)
		if !apierrors.IsConflict(err) {
			return err
		}
		// The controller often writes the status; only a changed spec is a conflict.
		if old, err = c.existing(ctx, read.Name); err != nil {
			return err
		}
		if old.UID != read.UID || old.Generation != read.Generation {
			return refused("run the command again to see what it would do now",
				"user cluster %s was changed by somebody else meanwhile; nothing was done", read.Name)
		}
	}
}

func (c admin) patch(ctx context.Context, uc *v1alpha1.UserCluster, patch client.Patch, o ...client.PatchOption) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	return c.client.Patch(ctx, uc, patch, o...)
}
