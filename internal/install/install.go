// Package install turns an API server into an admin cluster: it applies the manifests of the UserCluster API.
package install

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/keyturn/keyturn/api/v1alpha1"
)

// installer applies manifests to an API server.
type installer struct {
	client dynamic.Interface
	mapper meta.RESTMapper
}

// fieldManager owns what is applied.
const fieldManager = "keyturn"

// Apply applies v1alpha1.Manifests by server-side apply, in the order of the file names, and waits until the
// UserCluster API is served. It can be repeated. The policies take effect a moment later.
func Apply(ctx context.Context, cfg *rest.Config) error {
	in, err := newInstaller(cfg)
	if err != nil {
		return err
	}
	objects, err := Objects()
	if err != nil {
		return err
	}
	for _, o := range objects {
		if err := in.apply(ctx, o); err != nil {
			return fmt.Errorf("applying %s %s: %w", o.GetKind(), o.GetName(), err)
		}
		if o.GetKind() == "CustomResourceDefinition" {
			if err := in.awaitEstablished(ctx, o.GetName()); err != nil {
				return err
			}
		}
	}
	return nil
}

func newInstaller(cfg *rest.Config) (*installer, error) {
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("making a client for the admin cluster: %w", err)
	}
	d, err := discovery.NewDiscoveryClientForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("making a client for the admin cluster: %w", err)
	}
	return &installer{client: client, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(d))}, nil
}

// Objects returns the objects of v1alpha1.Manifests, in the order of the files' names.
func Objects() ([]*unstructured.Unstructured, error) {
	names, err := fs.Glob(v1alpha1.Manifests, "manifests/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("listing manifests: %w", err)
	}
	var objects []*unstructured.Unstructured
	for _, name := range names {
		raw, err := v1alpha1.Manifests.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("reading manifest %s: %w", name, err)
		}
		read, err := Decode(raw)
		if err != nil {
			return nil, fmt.Errorf("reading manifest %s: %w", name, err)
		}
		objects = append(objects, read...)
	}
	return objects, nil
}

// Decode reads a stream of YAML documents, each an object of the Kubernetes API. It skips empty documents.
func Decode(documents []byte) ([]*unstructured.Unstructured, error) {
	var objects []*unstructured.Unstructured
	for d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(documents), 4<<10); ; {
		var o unstructured.Unstructured
		if err := d.Decode(&o); errors.Is(err, io.EOF) {
			return objects, nil
		} else if err != nil {
			return nil, err
		}
		if len(o.Object) > 0 {
			objects = append(objects, &o)
		}
	}
}

func (in *installer) apply(ctx context.Context, o *unstructured.Unstructured) error {
	gvk := o.GroupVersionKind()
	mapping, err := in.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if err != nil {
		return err
	}
	var client dynamic.ResourceInterface = in.client.Resource(mapping.Resource)
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		client = in.client.Resource(mapping.Resource).Namespace(o.GetNamespace())
	}
	_, err = client.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
	return err
}

// awaitEstablished waits until the objects of a CustomResourceDefinition are served.
func (in *installer) awaitEstablished(ctx context.Context, name string) error {
	crds := in.client.Resource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions"))
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		crd, err := crds.Get(ctx, name, metav1.GetOptions{})
		if err == nil && established(crd) {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("waiting for CustomResourceDefinition %s to be established: %w", name, ctx.Err()), err)
		case <-tick.C:
		}
	}
}

func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, c := range conditions {
		m, ok := c.(map[string]any)
		if ok && m["type"] == string(apiextensionsv1.Established) && m["status"] == string(metav1.ConditionTrue) {
			return true
		}
	}
	return false
}
