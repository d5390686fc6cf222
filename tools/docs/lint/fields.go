package lint

import (
	"fmt"
	"reflect"
	"regexp"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/config"
)

// dotted is how a field within another is written, perhaps with its value.
var dotted = regexp.MustCompile(`^[a-z][A-Za-z]*(\[\])?(\.[a-zA-Z]+(\[\])?)+(: .*)?$`)

// fields finds code spans that name a field within one that exists, and do not exist themselves: fields of
// configuration files, of UserClusters (with what they are in or without), and values of the chart.
func fields(r *repository) ([]Fault, error) {
	k, err := r.known()
	if err != nil {
		return nil, err
	}
	schema, err := userCluster()
	if err != nil {
		return nil, err
	}
	spec := schema.Properties["spec"]
	file := reflect.TypeFor[config.UserCluster]()
	return r.eachPage(func(p *page, fault func(int, string)) {
		p.spans(func(line int, code string) {
			if !dotted.MatchString(code) || strings.HasSuffix(code, "."+v1alpha1.GroupVersion.Group) {
				return
			}
			name, _, _ := strings.Cut(code, ":")
			path := strings.Split(strings.ReplaceAll(name, "[]", ""), ".")
			first := path[:1]
			begins := hasField(file, first) || hasProperty(spec, first) || hasProperty(schema, first) ||
				hasValue(k.values, first)
			if begins && !hasField(file, path) && !within(schema, path) && !hasValue(k.values, path) {
				fault(line, fmt.Sprintf("there is no field or value %s", name))
			}
		})
	}), nil
}

// userCluster is the schema of the API.
func userCluster() (s apiextensions.JSONSchemaProps, err error) {
	data, err := v1alpha1.Manifests.ReadFile("manifests/keyturn.dev_userclusters.yaml")
	if err != nil {
		return s, err
	}
	var crd apiextensions.CustomResourceDefinition
	if err := yaml.UnmarshalStrict(data, &crd); err != nil {
		return s, fmt.Errorf("reading the definition of UserClusters: %w", err)
	}
	return *crd.Spec.Versions[0].Schema.OpenAPIV3Schema, nil
}

// hasProperty reports whether objects of a schema have a field at a path. Metadata has any.
func hasProperty(s apiextensions.JSONSchemaProps, path []string) bool {
	if len(path) == 0 {
		return true
	}
	if s.Items != nil {
		s = *s.Items.Schema
	}
	inner, ok := s.Properties[path[0]]
	return ok && (path[0] == "metadata" || hasProperty(inner, path[1:]))
}

// within reports whether objects of a schema, or any object in them, have a field at a path.
func within(s apiextensions.JSONSchemaProps, path []string) bool {
	if s.Items != nil {
		s = *s.Items.Schema
	}
	if hasProperty(s, path) {
		return true
	}
	for _, inner := range s.Properties {
		if within(inner, path) {
			return true
		}
	}
	return false
}

// hasField reports whether configuration files have a field at a path, even if it has no effect.
func hasField(t reflect.Type, path []string) bool {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if len(path) == 0 {
		return true
	}
	if t.Kind() != reflect.Struct {
		return t.Kind() == reflect.Map
	}
	for f := range t.Fields() {
		if f.Tag.Get("yaml") == path[0] {
			return hasField(f.Type, path[1:])
		}
		for unused := range strings.FieldsSeq(f.Tag.Get("unused")) {
			if unused == path[0] {
				return true
			}
		}
	}
	return false
}
