package diagnose

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/install"
)

// askTimeout bounds one question to an API server that does not answer.
const askTimeout = 15 * time.Second

// Source is how facts are gathered.
type Source struct {
	// Config reaches the admin cluster, and Namespace holds the UserClusters.
	Config    *rest.Config
	Namespace string
	// Program, Preview and Down are as in Facts.
	Program, Preview, Down string
	// Reach returns how to reach a user cluster as its administrator.
	Reach func(ctx context.Context, uc *v1alpha1.UserCluster) (*rest.Config, error)
	// Progress is called with what is read next, in words.
	Progress func(what string)
}

// admin are the clients of the admin cluster.
type admin struct {
	Source
	kube     kubernetes.Interface
	dynamic  dynamic.Interface
	metadata metadata.Interface
}

func (s Source) connect() (a admin, err error) {
	config := rest.CopyConfig(s.Config)
	config.QPS = -1 // One request after the other is slow enough.
	a.Source = s
	if a.kube, err = kubernetes.NewForConfig(config); err != nil {
		return a, err
	}
	if a.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return a, err
	}
	a.metadata, err = metadata.NewForConfig(config)
	return a, err
}

// Gather reads the facts of the admin cluster. An error means that the kubeconfig is of no use.
func Gather(ctx context.Context, s Source) (Facts, error) {
	f := Facts{Program: s.Program, Preview: s.Preview, Down: s.Down}
	a, err := s.connect()
	if err != nil {
		return f, fmt.Errorf("using the kubeconfig: %w", err)
	}
	s.Progress("asking the admin cluster")
	f.Admin.Server = read(func() (Server, error) { return ask(ctx, s.Config, "/version") })
	if f.Admin.Server.Err != nil {
		return f, nil //nolint:nilerr // it is one of the facts
	}
	f.Admin.Rights = read(func() ([]Right, error) { return a.rights(ctx) })
	s.Progress("reading what is installed")
	if f.Admin.Installed, err = a.installed(ctx); err != nil {
		return f, err
	}
	s.Progress("reading the state of the controller")
	a.controller(ctx, &f.Admin)
	return f, nil
}

// Serves reports whether UserClusters can be read: whether their definition is installed, as far as that is known.
func (f AdminFacts) Serves() bool {
	for _, i := range f.Installed {
		if i.Wanted.GetKind() == "CustomResourceDefinition" && apierrors.IsNotFound(i.Found.Err) {
			return false
		}
	}
	return f.Server.Err == nil
}

func read[T any](f func() (T, error)) Read[T] {
	value, err := f()
	return Read[T]{value, err}
}

// ask asks an API server for a document, and what time it is there.
func ask(ctx context.Context, config *rest.Config, path string) (Server, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	clock := &clock{}
	config = rest.CopyConfig(config)
	config.Wrap(clock.wrap)
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return Server{}, err
	}
	body, err := client.Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
	if err != nil {
		return Server{}, err
	}
	var of version.Info
	if path == "/version" {
		if err := json.Unmarshal(body, &of); err != nil {
			return Server{}, fmt.Errorf("reading its version: %w", err)
		}
	}
	return clock.server(of.GitVersion), nil
}

// clock learns the time of a server from the header Date of its answers.
type clock struct {
	next http.RoundTripper
	// at is the time there in the middle of the latest request, and here is the time of this machine then.
	at, here time.Time
}

func (c *clock) wrap(next http.RoundTripper) http.RoundTripper {
	c.next = next
	return c
}

// RoundTrip implements http.RoundTripper.
func (c *clock) RoundTrip(r *http.Request) (*http.Response, error) {
	begun := time.Now()
	resp, err := c.next.RoundTrip(r)
	c.here = begun.Add(time.Since(begun) / 2)
	c.at = c.here
	if err != nil {
		return resp, err
	}
	if at, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		c.at = at.Add(time.Second / 2) // the header has no fractions
	}
	return resp, nil
}

func (c *clock) server(version string) Server {
	return Server{Version: version, At: c.at, Skew: c.at.Sub(c.here)}
}

// rights asks what the caller may do that no other check shows.
func (a admin) rights(ctx context.Context) ([]Right, error) {
	all := []Right{
		{Words: "patch userclusters in namespace " + a.Namespace, For: "start a rotation"},
		{Words: "create userclusters in namespace " + a.Namespace, For: "adopt or create a cluster"},
		{Words: "read logs of pods in namespace " + v1alpha1.SystemNamespace,
			For: "make a snapshot with the logs of the controller"},
	}
	of := []authorizationv1.ResourceAttributes{
		{Namespace: a.Namespace, Verb: "patch", Group: v1alpha1.GroupVersion.Group, Resource: "userclusters"},
		{Namespace: a.Namespace, Verb: "create", Group: v1alpha1.GroupVersion.Group, Resource: "userclusters"},
		{Namespace: v1alpha1.SystemNamespace, Verb: "get", Resource: "pods", Subresource: "log"},
	}
	for i := range all {
		review, err := a.kube.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
			&authorizationv1.SelfSubjectAccessReview{
				Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &of[i]},
			}, metav1.CreateOptions{})
		if err != nil {
			return nil, err
		}
		all[i].Allowed = review.Status.Allowed
	}
	return all, nil
}

// resources are the kinds of v1alpha1.Manifests on which UserClusters depend.
var resources = map[string]string{
	"CustomResourceDefinition":         "customresourcedefinitions",
	"ValidatingAdmissionPolicy":        "validatingadmissionpolicies",
	"ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}

func (a admin) installed(ctx context.Context) (all []Installed, err error) {
	objects, err := install.Objects()
	if err != nil {
		return nil, err
	}
	for _, o := range objects {
		name, ok := resources[o.GetKind()]
		if !ok {
			continue
		}
		i := Installed{Wanted: o}
		of := a.dynamic.Resource(o.GroupVersionKind().GroupVersion().WithResource(name))
		i.Found.Value, i.Found.Err = of.Get(ctx, o.GetName(), metav1.GetOptions{})
		all = append(all, i)
	}
	return all, nil
}

func (a admin) controller(ctx context.Context, f *AdminFacts) {
	namespace := v1alpha1.SystemNamespace
	f.Deployment.Value, f.Deployment.Err = a.kube.AppsV1().Deployments(namespace).Get(ctx, ControllerName,
		metav1.GetOptions{})
	f.Pods.Err = f.Deployment.Err
	if f.Deployment.Err == nil {
		f.Pods = read(func() ([]corev1.Pod, error) { return a.podsOf(ctx, f.Deployment.Value.Spec.Selector) })
	}
	f.Lease.Value, f.Lease.Err = a.kube.CoordinationV1().Leases(namespace).Get(ctx, ControllerName, metav1.GetOptions{})
}

func (a admin) podsOf(ctx context.Context, selector *metav1.LabelSelector) ([]corev1.Pod, error) {
	list, err := a.kube.CoreV1().Pods(v1alpha1.SystemNamespace).List(ctx, metav1.ListOptions{
		LabelSelector: metav1.FormatLabelSelector(selector),
	})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

// keySecrets reads the metadata of the Secrets that hold key versions of a cluster.
func (a admin) keySecrets(ctx context.Context, cluster string) ([]metav1.PartialObjectMetadata, error) {
	list, err := a.metadata.Resource(schema.GroupVersionResource{Version: "v1",
		Resource: "secrets"}).Namespace(a.Namespace).
		List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelCluster + "=" + cluster + "," + v1alpha1.LabelKeyVersion})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}
