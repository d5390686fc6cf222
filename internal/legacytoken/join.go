package legacytoken

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// column is a list that is read in parallel to the Secrets. It holds one namespace at a time, by name of ServiceAccount
// or Secret.
//
// All lists are sorted by namespace. So they are read side by side, page by page, at the same cost for any number of
// namespaces. Items that are out of order are missed, but not mistaken for others: callers must be able to do without
// them.
type column[V any] struct {
	pages *pages[item[V]]

	rest      []item[V] // read, and of this or a later namespace
	namespace string
	values    map[string][]V // of that namespace; never changed once whole
	whole     bool
}

type item[V any] struct {
	namespace, name string
	value           V
}

// in returns the items of a namespace. Namespaces must be requested in the order of the list. After an error, the same
// namespace may be requested again.
func (c *column[V]) in(ctx context.Context, namespace string) (map[string][]V, error) {
	if c.values == nil || c.namespace != namespace {
		c.namespace, c.values, c.whole = namespace, map[string][]V{}, false
	}
	for !c.whole {
		c.rest = collect(c.rest, namespace, c.values)
		if len(c.rest) > 0 || c.pages.end() {
			c.whole = true
			break
		}
		var err error
		c.rest, err = c.pages.read(ctx)
		switch {
		case errors.Is(err, errRestart):
			c.values = map[string][]V{}
		case err != nil:
			return nil, err
		}
	}
	return c.values, nil
}

// collect takes the items up to the end of a namespace and returns the rest.
func collect[V any](items []item[V], namespace string, values map[string][]V) []item[V] {
	// The API server sorts by "namespace/name".
	wanted := namespace + "/"
	for i, it := range items {
		switch key := it.namespace + "/"; {
		case key > wanted:
			return items[i:]
		case key == wanted:
			values[it.name] = append(values[it.name], it.value)
		}
	}
	return nil
}

func newAccounts(client kubernetes.Interface, limit int64) *column[types.UID] {
	list := func(ctx context.Context, o metav1.ListOptions) ([]item[types.UID], string, error) {
		l, err := client.CoreV1().ServiceAccounts(metav1.NamespaceAll).List(ctx, o)
		if err != nil {
			return nil, "", err
		}
		items := make([]item[types.UID], len(l.Items))
		for i, a := range l.Items {
			items[i] = item[types.UID]{namespace: a.Namespace, name: a.Name, value: a.UID}
		}
		return items, l.Continue, nil
	}
	return &column[types.UID]{pages: &pages[item[types.UID]]{what: "ServiceAccounts", list: list, limit: limit}}
}

// runningPods excludes pods that no kubelet runs.
const runningPods = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"

// newUses reads the uses of Secrets by running pods.
func newUses(client kubernetes.Interface, limit int64) *column[use] {
	list := func(ctx context.Context, o metav1.ListOptions) ([]item[use], string, error) {
		o.FieldSelector = runningPods
		l, err := client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, o)
		if err != nil {
			return nil, "", err
		}
		var items []item[use]
		for i := range l.Items {
			items = appendUses(items, &l.Items[i])
		}
		return items, l.Continue, nil
	}
	return &column[use]{pages: &pages[item[use]]{what: "pods", list: list, limit: limit}}
}

// newSecrets reads the Secrets that hold legacy tokens, or should.
func newSecrets(client kubernetes.Interface, limit int64) *pages[corev1.Secret] {
	list := func(ctx context.Context, o metav1.ListOptions) ([]corev1.Secret, string, error) {
		o.FieldSelector = "type=" + string(corev1.SecretTypeServiceAccountToken)
		l, err := client.CoreV1().Secrets(metav1.NamespaceAll).List(ctx, o)
		if err != nil {
			return nil, "", err
		}
		return l.Items, l.Continue, nil
	}
	return &pages[corev1.Secret]{
		what: "Secrets of type " + string(corev1.SecretTypeServiceAccountToken), list: list, limit: limit,
	}
}
