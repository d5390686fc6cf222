package capi

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// fieldOwner is who applies manifests.
const fieldOwner = client.FieldOwner("keyturn-local-capi")

// inPods are the kinds of the manifests that are there for pods: programs are processes here, and certificates are
// files.
var inPods = []string{"Deployment", "Service", "Certificate", "Issuer"}

// webhooks are where the API server reaches a manager. The zero value: it has none.
type webhooks struct {
	url string
	ca  []byte
}

// serviceAccount is who a program is in the management cluster.
type serviceAccount struct{ namespace, name string }

// install applies the manifests of one program and returns its service account.
func install(ctx context.Context, config *rest.Config, path string, hooks webhooks) (serviceAccount, error) {
	objects, err := readManifests(path)
	if err != nil {
		return serviceAccount{}, err
	}
	c, err := client.New(config, client.Options{})
	if err != nil {
		return serviceAccount{}, err
	}
	var account serviceAccount
	var definitions []*unstructured.Unstructured
	for _, o := range objects {
		switch {
		case o.GetKind() == "CustomResourceDefinition":
			// clusterctl does this when it installs a provider, and moves only objects of such kinds.
			o.SetLabels(labels.Merge(o.GetLabels(), labels.Set{"clusterctl.cluster.x-k8s.io": ""}))
			definitions = append(definitions, o)
		case o.GetKind() == "ServiceAccount":
			account = serviceAccount{o.GetNamespace(), o.GetName()}
		case slices.Contains(inPods, o.GetKind()):
			continue
		}
		if err := hooks.point(o); err != nil {
			return serviceAccount{}, fmt.Errorf("reading %s %s of %s: %w", o.GetKind(), o.GetName(), path, err)
		}
		if err := Apply(ctx, c, o); err != nil {
			return serviceAccount{}, err
		}
	}
	// In a pod, a program that does not find its kinds is started again.
	for _, d := range definitions {
		if err := awaitServed(ctx, c, d); err != nil {
			return serviceAccount{}, err
		}
	}
	return account, nil
}

// awaitServed waits until the objects of a CustomResourceDefinition are served.
func awaitServed(ctx context.Context, c client.Client, definition *unstructured.Unstructured) error {
	d := &apiextensionsv1.CustomResourceDefinition{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(definition.Object, d); err != nil {
		return fmt.Errorf("reading CustomResourceDefinition %s: %w", definition.GetName(), err)
	}
	list := &unstructured.UnstructuredList{}
	for _, v := range d.Spec.Versions {
		if v.Storage {
			list.SetAPIVersion(d.Spec.Group + "/" + v.Name)
			list.SetKind(d.Spec.Names.Kind + "List")
		}
	}
	return untilServed(ctx, func() error {
		if err := c.List(ctx, list, client.Limit(1)); err != nil {
			return fmt.Errorf("listing %s: %w", d.Name, err)
		}
		return nil
	})
}

// ReadManifests decodes the documents of YAML text.
func ReadManifests(text []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096); ; {
		o := &unstructured.Unstructured{}
		err := decoder.Decode(o)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, o)
		}
	}
}

func readManifests(path string) ([]*unstructured.Unstructured, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the manifests of Cluster API, which `make capi` builds: %w", err)
	}
	objects, err := ReadManifests(text)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return objects, nil
}

// Apply applies an object. It waits while the API server does not know its kind yet, or does not reach its webhook.
func Apply(ctx context.Context, c client.Client, o *unstructured.Unstructured) error {
	return untilServed(ctx, func() error {
		err := c.Apply(ctx, client.ApplyConfigurationFromUnstructured(o.DeepCopy()), fieldOwner, client.ForceOwnership)
		if err != nil {
			return fmt.Errorf("applying %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		return nil
	})
}

// untilServed repeats a request while the API server does not know its kind yet, or does not reach its webhook.
func untilServed(ctx context.Context, request func() error) error {
	for {
		err := request()
		if err == nil || !meta.IsNoMatchError(err) && !apierrors.IsNotFound(err) && !apierrors.IsInternalError(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// point has the API server reach the webhooks that an object configures at their URL instead of a Service.
func (w webhooks) point(o *unstructured.Unstructured) error {
	switch o.GetKind() {
	case "CustomResourceDefinition":
		return w.pointClient(o.Object, "spec", "conversion", "webhook")
	case "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration":
		hooks, _, err := unstructured.NestedSlice(o.Object, "webhooks")
		if err != nil {
			return err
		}
		for i := range hooks {
			hook, ok := hooks[i].(map[string]any)
			if !ok {
				return errors.New("a webhook is no object")
			}
			if err := w.pointClient(hook); err != nil {
				return err
			}
		}
		return unstructured.SetNestedSlice(o.Object, hooks, "webhooks")
	}
	return nil
}

// pointClient replaces the clientConfig in a part of an object, if there is one.
func (w webhooks) pointClient(object map[string]any, fields ...string) error {
	fields = append(fields, "clientConfig")
	path, found, err := unstructured.NestedString(object, append(slices.Clone(fields), "service", "path")...)
	if err != nil || !found {
		return err
	}
	return unstructured.SetNestedMap(object, map[string]any{
		"url": w.url + path, "caBundle": base64.StdEncoding.EncodeToString(w.ca),
	}, fields...)
}

// tokenLife is longer than anybody develops or tests at a stretch. Management.Start gets another token.
const tokenLife = 24 * time.Hour

// kubeconfig returns a kubeconfig of the service account.
func (s serviceAccount) kubeconfig(ctx context.Context, config *rest.Config) ([]byte, error) {
	c, err := client.New(config, client.Options{})
	if err != nil {
		return nil, err
	}
	seconds := int64(tokenLife.Seconds())
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: s.namespace, Name: s.name}}
	if err := c.SubResource("token").Create(ctx, account, request); err != nil {
		return nil, fmt.Errorf("getting a token of service account %s/%s: %w", s.namespace, s.name, err)
	}
	const name = "management"
	return clientcmd.Write(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{name: {
			Server: config.Host, CertificateAuthorityData: config.CAData,
		}},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{name: {Token: request.Status.Token}},
		Contexts:       map[string]*clientcmdapi.Context{name: {Cluster: name, AuthInfo: name}},
		CurrentContext: name,
	})
}
