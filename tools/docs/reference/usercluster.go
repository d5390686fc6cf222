package reference

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/keyturn/keyturn/api/v1alpha1"
	"github.com/keyturn/keyturn/internal/rotation"
)

// userClusterPage describes the API: the fields of a UserCluster, and the names in its status and metadata.
func userClusterPage(root string) (*page, error) {
	crd, err := definition()
	if err != nil {
		return nil, err
	}
	names, err := parse(root, "api/v1alpha1/names.go")
	if err != nil {
		return nil, err
	}
	version := crd.Spec.Versions[0]
	p := newPage("UserCluster")
	p.text(fmt.Sprintf("`apiVersion: %s/%s`, `kind: %s`. `kubectl explain %s` shows the same. The admission policies in "+
		"[policy.yaml](../../api/v1alpha1/manifests/policy.yaml) refuse more.",
		crd.Spec.Group, version.Name, crd.Spec.Names.Kind, crd.Spec.Names.Singular))
	schema := *version.Schema.OpenAPIV3Schema
	p.text(escape(sentence(schema.Description)))
	p.rules(0, schema)
	p.WriteByte('\n')
	for _, part := range []string{"spec", "status"} {
		p.heading(2, part)
		s := schema.Properties[part]
		p.text(escape(sentence(s.Description)))
		p.rules(0, s)
		if len(s.XValidations) > 0 {
			p.WriteByte('\n')
			p.text("Fields:")
		}
		p.properties(0, s)
		p.WriteByte('\n')
	}
	p.names(names.constants())
	return p, nil
}

// definition returns the CustomResourceDefinition that is installed.
func definition() (*apiextensions.CustomResourceDefinition, error) {
	data, err := v1alpha1.Manifests.ReadFile("manifests/keyturn.dev_userclusters.yaml")
	if err != nil {
		return nil, err
	}
	crd := &apiextensions.CustomResourceDefinition{}
	return crd, yaml.UnmarshalStrict(data, crd)
}

// properties lists the fields of an object, and those in them.
func (p *page) properties(depth int, object apiextensions.JSONSchemaProps) {
	for _, name := range slices.Sorted(maps.Keys(object.Properties)) {
		s := object.Properties[name]
		facts := []string{schemaType(s)}
		if slices.Contains(object.Required, name) && s.Default == nil {
			facts = append(facts, "required")
		}
		p.entry(depth, name, append(facts, limits(s)...), strings.ReplaceAll(s.Description, "\n", " "))
		inner := s
		if s.Items != nil {
			inner = *s.Items.Schema
		}
		p.rules(depth+1, s)
		if s.Items != nil {
			p.rules(depth+1, inner)
		}
		p.properties(depth+1, inner)
	}
}

// rules lists the rules of validation, in the words in which the API server refuses what breaks them.
func (p *page) rules(depth int, s apiextensions.JSONSchemaProps) {
	for _, rule := range s.XValidations {
		p.item(depth, "Rule: "+escape(sentence(rule.Message)))
	}
}

// schemaType is the type of a field in words.
func schemaType(s apiextensions.JSONSchemaProps) string {
	switch {
	case s.Items != nil && s.XListType != nil && *s.XListType == "map":
		return "list of objects by " + code(strings.Join(s.XListMapKeys, ", "))
	case s.Items != nil && s.XListType != nil && *s.XListType == "set":
		return "set of " + s.Items.Schema.Type + "s"
	case s.Items != nil:
		return "list of " + s.Items.Schema.Type + "s"
	case s.AdditionalProperties != nil:
		return "map of " + s.AdditionalProperties.Schema.Type + "s"
	case s.Format == "date-time":
		return "time"
	}
	return s.Type
}

// limits are what a field may hold, besides its type.
func limits(s apiextensions.JSONSchemaProps) (facts []string) {
	add := func(format string, args ...any) { facts = append(facts, fmt.Sprintf(format, args...)) }
	if len(s.Enum) > 0 {
		var values []string
		for _, v := range s.Enum {
			values = append(values, code(strings.Trim(string(v.Raw), `"`)))
		}
		add("%s", strings.Join(values, ", "))
	}
	if s.Default != nil && s.Type != "object" && string(s.Default.Raw) != `""` {
		add("default %s", code(strings.Trim(string(s.Default.Raw), `"`)))
	}
	if s.Minimum != nil || s.Maximum != nil {
		add("%s", between(whole(s.Minimum), whole(s.Maximum), ""))
	}
	if s.MinLength != nil || s.MaxLength != nil {
		add("%s", between(s.MinLength, s.MaxLength, " characters"))
	}
	if s.MaxItems != nil || s.MaxProperties != nil {
		add("%s", between(nil, cmp.Or(s.MaxItems, s.MaxProperties), " entries"))
	}
	if s.Pattern != "" {
		add("%s", code(s.Pattern))
	}
	return facts
}

// between says within which limits a number of something is.
func between(from, to *int64, of string) string {
	switch {
	case from == nil:
		return fmt.Sprintf("at most %d%s", *to, of)
	case to == nil:
		return fmt.Sprintf("at least %d%s", *from, of)
	}
	return fmt.Sprintf("%d to %d%s", *from, *to, of)
}

// whole is a limit of an integer, which schemas keep as a float.
func whole(limit *float64) *int64 {
	if limit == nil {
		return nil
	}
	n := int64(*limit)
	return &n
}

// names lists the conditions and their reasons, events, and what is in the metadata of objects.
func (p *page) names(groups []group) {
	p.heading(2, "Conditions and reasons")
	var metadata []constant
	for _, g := range groups {
		switch {
		case strings.HasPrefix(g.comment, "Condition types"), strings.HasPrefix(g.comment, "Reasons"):
			p.text(escape(g.comment))
			p.constants(g.constants)
		default:
			metadata = append(metadata, g.constants...)
		}
	}
	p.heading(2, "Events")
	p.text(fmt.Sprintf("When a step of a rotation begins, there is an event with the name of the step as its reason: "+
		"`%s`, `%s`, `%s`, `%s` or `%s`. `%s` is its end. Warnings are `%s`, `%s` and `%s`.",
		rotation.StepGenerate, rotation.StepPublish, rotation.StepSwitch, rotation.StepRefresh, rotation.StepRetire,
		v1alpha1.ReasonRotationCompleted, v1alpha1.ReasonRotationBlocked, v1alpha1.ReasonOldTokens,
		v1alpha1.ReasonRetiredInUse))
	for _, kind := range []struct{ prefix, title string }{
		{"Annotation", "Annotations"}, {"Label", "Labels"}, {"Finalizer", "Finalizers"}, {"SecretType", "Types of Secrets"},
	} {
		p.heading(2, kind.title)
		p.constants(slices.DeleteFunc(slices.Clone(metadata), func(c constant) bool {
			return !strings.HasPrefix(c.name, kind.prefix)
		}))
	}
}

// constants lists the values of constants with their comments, without the names that these begin with.
func (p *page) constants(list []constant) {
	for _, c := range list {
		p.item(0, code(c.value)+escape(strings.TrimPrefix(c.comment, c.name)))
	}
	p.WriteByte('\n')
}
