package snapshot

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/printable"
)

// The bounds of what is read.
const (
	maxObjects  = 2000
	maxLogBytes = 8 << 20
	maxLogLines = 20000
)

// Source is what a bundle is made of.
type Source struct {
	// Config reaches the admin cluster.
	Config *rest.Config
	// Clusters are the UserClusters, and Reports what was diagnosed, by the name of a file. Each Report is written as
	// JSON, and Texts as they are.
	Clusters []v1alpha1.UserCluster
	Reports  map[string]any
	Texts    map[string]string
	// Progress is called with what is read next, in words.
	Progress func(what string)
}

// bundle are the files of a bundle, without secrets.
type bundle struct {
	files map[string][]byte
	// keep are long texts that are no secrets, and missing is what could not be read.
	keep    map[string]bool
	missing []string
}

// Take returns a bundle as a gzipped tar archive whose files are below a directory. What the caller may not read is
// left out, and file missing.txt names it.
func Take(ctx context.Context, s Source, directory string, now time.Time) ([]byte, error) {
	b := &bundle{files: map[string][]byte{}, keep: kids(s.Clusters)}
	c, err := connect(s.Config)
	if err != nil {
		return nil, fmt.Errorf("using the kubeconfig: %w", err)
	}
	for name, report := range s.Reports {
		b.object(name, report)
	}
	for name, text := range s.Texts {
		b.text(name, text)
	}
	for _, step := range []struct {
		what string
		read func(context.Context, *bundle, Source) error
	}{
		{"UserClusters", c.clusters}, {"events", c.events}, {"metadata of Secrets", c.secrets},
		{"the controller", c.controller}, {"Leases", c.leases}, {"logs", c.logs}, {"policies", c.policies},
	} {
		s.Progress("reading " + step.what)
		if err := step.read(ctx, b, s); err != nil {
			b.missing = append(b.missing, step.what+": "+printable.Line(err.Error()))
		}
	}
	if len(b.missing) > 0 {
		b.text("missing.txt", strings.Join(b.missing, "\n")+"\n")
	}
	return b.archive(directory, now)
}

// kids are the ids of keys that UserClusters name.
func kids(clusters []v1alpha1.UserCluster) map[string]bool {
	all := map[string]bool{}
	for _, uc := range clusters {
		for _, k := range uc.Status.KSASigningKey.Keys {
			all[k.KeyID] = true
		}
		for _, s := range uc.Status.APIServers {
			for _, kid := range s.ForeignKeyIDs {
				all[kid] = true
			}
		}
		if k := uc.Status.Infrastructure.Adopted(); k != nil {
			for _, r := range k.Retired {
				all[r.KeyID] = true
			}
			for _, l := range k.Leftovers {
				all[l.KeyID] = true
			}
		}
	}
	return all
}

// clients reach the admin cluster.
type clients struct {
	kube     kubernetes.Interface
	dynamic  dynamic.Interface
	metadata metadata.Interface
}

func connect(config *rest.Config) (c clients, err error) {
	if c.kube, err = kubernetes.NewForConfig(config); err != nil {
		return c, err
	}
	if c.dynamic, err = dynamic.NewForConfig(config); err != nil {
		return c, err
	}
	c.metadata, err = metadata.NewForConfig(config)
	return c, err
}

func (c clients) clusters(_ context.Context, b *bundle, s Source) error {
	for _, uc := range s.Clusters {
		uc := uc.DeepCopy()
		uc.APIVersion, uc.Kind = v1alpha1.GroupVersion.String(), "UserCluster"
		b.object("userclusters/"+uc.Namespace+"/"+uc.Name+".yaml", strip(uc))
	}
	return nil
}

// namespaces hold Keyturn and the clusters.
func namespaces(s Source) []string {
	all := []string{v1alpha1.SystemNamespace}
	for _, uc := range s.Clusters {
		if !slices.Contains(all, uc.Namespace) {
			all = append(all, uc.Namespace)
		}
	}
	return all
}

func (c clients) events(ctx context.Context, b *bundle, s Source) error {
	for _, namespace := range namespaces(s) {
		list, err := c.kube.EventsV1().Events(namespace).List(ctx, metav1.ListOptions{Limit: maxObjects})
		if err != nil {
			return err
		}
		for i := range list.Items {
			strip(&list.Items[i])
		}
		b.object("events/"+namespace+".yaml", list.Items)
	}
	return nil
}

// secret is what is kept of a Secret: an annotation may hold all of its data.
type secret struct {
	Name              string            `json:"name"`
	CreationTimestamp metav1.Time       `json:"creationTimestamp"`
	ResourceVersion   string            `json:"resourceVersion"`
	Labels            map[string]string `json:"labels,omitempty"`
}

func (c clients) secrets(ctx context.Context, b *bundle, s Source) error {
	for _, namespace := range namespaces(s) {
		list, err := c.metadata.Resource(schema.GroupVersionResource{Version: "v1",
			Resource: "secrets"}).Namespace(namespace).
			List(ctx, metav1.ListOptions{Limit: maxObjects, LabelSelector: v1alpha1.LabelCluster})
		if err != nil {
			return err
		}
		all := []secret{}
		for _, o := range list.Items {
			all = append(all, secret{o.Name, o.CreationTimestamp, o.ResourceVersion, o.Labels})
		}
		b.object("secrets-metadata/"+namespace+".yaml", all)
	}
	return nil
}

// partOf selects what the Helm chart installs.
const partOf = "app.kubernetes.io/part-of=keyturn"

func (c clients) controller(ctx context.Context, b *bundle, _ Source) error {
	namespace, o := v1alpha1.SystemNamespace, metav1.ListOptions{Limit: maxObjects, LabelSelector: partOf}
	deployments, err := c.kube.AppsV1().Deployments(namespace).List(ctx, o)
	if err != nil {
		return err
	}
	for i := range deployments.Items {
		strip(&deployments.Items[i])
		hideEnv(&deployments.Items[i].Spec.Template.Spec)
	}
	b.object("controller/deployments.yaml", deployments.Items)
	pods, err := c.kube.CoreV1().Pods(namespace).List(ctx, o)
	if err != nil {
		return err
	}
	for i := range pods.Items {
		strip(&pods.Items[i])
		hideEnv(&pods.Items[i].Spec)
	}
	b.object("controller/pods.yaml", pods.Items)
	return nil
}

func (c clients) leases(ctx context.Context, b *bundle, _ Source) error {
	list, err := c.kube.CoordinationV1().Leases(v1alpha1.SystemNamespace).List(ctx, metav1.ListOptions{Limit: maxObjects})
	if err != nil {
		return err
	}
	for i := range list.Items {
		strip(&list.Items[i])
	}
	b.object("controller/leases.yaml", list.Items)
	return nil
}

// logs reads the logs of the controller's pods, and of their previous containers.
func (c clients) logs(ctx context.Context, b *bundle, _ Source) error {
	pods, err := c.kube.CoreV1().Pods(v1alpha1.SystemNamespace).List(ctx,
		metav1.ListOptions{Limit: maxObjects, LabelSelector: partOf})
	if err != nil {
		return err
	}
	var all error
	for _, p := range pods.Items {
		for _, container := range p.Spec.Containers {
			name := "logs/" + p.Name + "/" + container.Name
			all = errors.Join(all, c.log(ctx, b, p, container.Name, false, name+".log"))
			if restarted(p, container.Name) {
				all = errors.Join(all, c.log(ctx, b, p, container.Name, true, name+".previous.log"))
			}
		}
	}
	return all
}

func restarted(p corev1.Pod, container string) bool {
	return slices.ContainsFunc(p.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool {
		return s.Name == container && s.RestartCount > 0
	})
}

func (c clients) log(ctx context.Context, b *bundle, p corev1.Pod, container string, previous bool, name string) error {
	lines, most := int64(maxLogLines), int64(maxLogBytes)
	stream, err := c.kube.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{
		Container: container, Previous: previous, Timestamps: true, TailLines: &lines, LimitBytes: &most,
	}).Stream(ctx)
	if err != nil {
		return fmt.Errorf("reading the log of pod %s: %w", p.Name, err)
	}
	defer stream.Close()
	text, err := io.ReadAll(io.LimitReader(stream, most))
	if err != nil {
		return fmt.Errorf("reading the log of pod %s: %w", p.Name, err)
	}
	b.text(name, string(text))
	return nil
}

// policies reads the admission policies of Keyturn.
func (c clients) policies(ctx context.Context, b *bundle, _ Source) error {
	group := schema.GroupVersion{Group: "admissionregistration.k8s.io", Version: "v1"}
	for _, resource := range []string{"validatingadmissionpolicies", "validatingadmissionpolicybindings"} {
		list, err := c.dynamic.Resource(group.WithResource(resource)).List(ctx, metav1.ListOptions{LabelSelector: partOf})
		if err != nil {
			return err
		}
		for i := range list.Items {
			strip(&list.Items[i])
		}
		b.object("policies/"+resource+".yaml", list.Items)
	}
	return nil
}

// strip takes out of an object what only the API server needs.
func strip[T metav1.Object](o T) T {
	o.SetManagedFields(nil)
	annotations := o.GetAnnotations()
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	o.SetAnnotations(annotations)
	return o
}

// hideEnv takes out the values of environment variables.
func hideEnv(spec *corev1.PodSpec) {
	for _, all := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for i := range all {
			for n := range all[i].Env {
				if all[i].Env[n].Value != "" {
					all[i].Env[n].Value = Redacted
				}
			}
		}
	}
}

// memberName is a path of names of objects, which have no other characters.
var memberName = regexp.MustCompile(`^[a-zA-Z0-9][-a-zA-Z0-9.]*(/[a-zA-Z0-9][-a-zA-Z0-9.]*)*$`)

// object adds an object as YAML or, if the name of the file says so, as JSON, each text in it redacted.
func (b *bundle) object(name string, o any) {
	raw, err := json.Marshal(o)
	var value any
	if err == nil {
		err = json.Unmarshal(raw, &value)
	}
	if value = b.redacted(value); value == nil {
		value = []any{} // a list without objects
	}
	if err == nil && path.Ext(name) == ".json" {
		raw, err = json.MarshalIndent(value, "", "  ")
	} else if err == nil {
		raw, err = yaml.Marshal(value)
	}
	if err != nil {
		b.missing = append(b.missing, name+": "+printable.Line(err.Error()))
		return
	}
	b.put(name, raw)
}

// redacted returns a value of JSON whose texts are redacted, those of names of fields too.
func (b *bundle) redacted(value any) any {
	switch value := value.(type) {
	case string:
		return printable.Text(redactLines(value, b.keep), maxLogBytes)
	case []any:
		for i := range value {
			value[i] = b.redacted(value[i])
		}
	case map[string]any:
		clean := map[string]any{}
		for field, v := range value {
			clean[Redact(field, b.keep)] = b.redacted(v)
		}
		return clean
	}
	return value
}

// text adds a text whose lines are redacted.
func (b *bundle) text(name, text string) {
	b.put(name, []byte(printable.Text(redactLines(text, b.keep), maxLogBytes)+"\n"))
}

func (b *bundle) put(name string, content []byte) {
	if !memberName.MatchString(name) {
		b.missing = append(b.missing, printable.Line(name)+": not the name of a file")
		return
	}
	b.files[name] = content
}

// archive writes all files. It fails if one has a secret, which no layer before this should have let through.
func (b *bundle) archive(directory string, now time.Time) ([]byte, error) {
	var out bytes.Buffer
	compressed := gzip.NewWriter(&out)
	w := tar.NewWriter(compressed)
	names := make([]string, 0, len(b.files))
	for name := range b.files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		content := b.files[name]
		if err := Scan(content); err != nil {
			return nil, fmt.Errorf("file %s of the bundle: %w", name, err)
		}
		h := &tar.Header{Name: path.Join(directory, name), Mode: 0o600, Size: int64(len(content)),
			ModTime: now.Truncate(time.Second)}
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(w.Close(), compressed.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
