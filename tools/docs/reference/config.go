package reference

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/config"
)

// The files from which defaults are read: they have what a file must have, and nothing else.
const (
	localFile = `{apiVersion: v1, kind: UserCluster, name: a, gkeOnPremVersion: ` + config.DefaultVersion + `,
		network: {serviceCIDR: 10.96.0.0/20, podCIDR: 192.168.0.0/16}, nodePools: [{name: a, replicas: 1}],
		gkeConnect: {projectID: my-project}}`
	kubeadmFile    = `{apiVersion: v1, kind: UserCluster, name: a, infrastructure: {kubeadm: {}}}`
	clusterAPIFile = `{apiVersion: v1, kind: UserCluster, name: a,
		infrastructure: {clusterAPI: {namespace: a, cluster: a}}}`
)

// emptyFiles have every structure, and no field in them: what is missing is required.
var emptyFiles = []string{
	`{gkeConnect: {}, nodePools: [{taints: [{}]}]}`, `{infrastructure: {clusterAPI: {}}}`,
}

// configFields reads the fields of configuration files from the types of package config.
type configFields struct {
	comments       map[string]string
	required       map[string]bool
	local, adopted []reflect.Value
	unused         []string
	page           *page
}

// configPage describes the configuration files of user clusters.
func configPage(root string) (*page, error) {
	source, err := parse(root, "internal/config/config.go")
	if err != nil {
		return nil, err
	}
	c := configFields{comments: source.fieldComments(), page: newPage("The configuration file of a user cluster")}
	if c.required, err = required(); err != nil {
		return nil, err
	}
	for _, file := range []string{localFile, kubeadmFile, clusterAPIFile} {
		parsed, err := config.Parse([]byte(file))
		if err != nil {
			return nil, err
		}
		if v := reflect.ValueOf(*parsed); parsed.Adopts() {
			c.adopted = append(c.adopted, v)
		} else {
			c.local = append(c.local, v)
		}
	}
	return c.page, c.write()
}

func (c *configFields) write() error {
	p := c.page
	p.text("A user cluster is described by a YAML file, the documented `kind: UserCluster`. `gkectl create-config " +
		"cluster` writes one to begin with, and `gkectl check-config` checks it without changing anything. A field that is " +
		"not named here is an error, and so is a value of another type. A number may be in quotes. A duration is like " +
		"`90s`, `10m` or `24h`, in whole seconds.")
	p.text("A file with `infrastructure` names a cluster that somebody else made. It has no field that describes how to " +
		"make one: *local* marks these.")
	p.heading(2, "Fields")
	if err := c.structure("", reflect.TypeFor[config.UserCluster](), c.local, c.adopted); err != nil {
		return err
	}
	p.WriteByte('\n')
	p.heading(2, "Fields without effect")
	p.text("These fields of the documented product may have any content. They have no use here, and gkectl names those " +
		"that a file has.")
	for _, list := range c.unused {
		p.item(0, list)
	}
	p.WriteByte('\n')
	p.heading(2, "A file to begin with")
	template, err := config.Template("my-user-cluster", "")
	if err != nil {
		return err
	}
	p.code("yaml", string(template))
	return nil
}

// structure describes the fields of a structure, given what they are in files of local and of adopted clusters.
func (c *configFields) structure(path string, t reflect.Type, local, adopted []reflect.Value) error {
	var unused []string
	for f := range t.Fields() {
		unused = append(unused, strings.Fields(f.Tag.Get("unused"))...)
		name := f.Tag.Get("yaml")
		if name == "" {
			continue
		}
		comment := c.comments[t.Name()+"."+f.Name]
		if comment == "" {
			return fmt.Errorf("field %s of %s has no comment", f.Name, t)
		}
		if err := c.field(join(path, name), comment, f.Type, fieldOf(local, f), fieldOf(adopted, f)); err != nil {
			return err
		}
	}
	if len(unused) > 0 {
		slices.Sort(unused)
		of := "At the top"
		if path != "" {
			of = "In " + code(path)
		}
		c.unused = append(c.unused, of+": `"+strings.Join(unused, "`, `")+"`.")
	}
	return nil
}

// field describes a field, and those in it.
func (c *configFields) field(path, comment string, t reflect.Type, local, adopted []reflect.Value) error {
	facts := []string{typeName(t)}
	if config.OnlyLocal(path) {
		facts = append(facts, "*local*")
	}
	if c.required[path] {
		facts = append(facts, "required")
	}
	if rule := config.Rule(path); rule != "" {
		facts = append(facts, "must be "+rule)
	}
	if !c.required[path] {
		facts = append(facts, defaults(local, adopted)...)
	}
	c.page.entry(strings.Count(path, "."), lastOf(path), facts, comment)
	switch inner := element(t); {
	case inner.Kind() != reflect.Struct:
		return nil
	case t.Kind() == reflect.Slice:
		return c.structure(path+"[]", inner, elements(local), elements(adopted))
	default:
		return c.structure(path, inner, elements(local), elements(adopted))
	}
}

// defaults returns the value of a field in files that do not name it.
func defaults(local, adopted []reflect.Value) []string {
	ofLocal, ofAdopted := shown(local), shown(adopted)
	switch {
	case ofLocal == ofAdopted && ofLocal != "", ofLocal != "" && ofAdopted == "":
		return []string{"default " + code(ofLocal)}
	case ofLocal == "" && ofAdopted != "":
		return []string{"default " + code(ofAdopted)}
	case ofLocal != "":
		return []string{"default " + code(ofLocal) + ", with `infrastructure` " + code(ofAdopted)}
	}
	return nil
}

// shown is the first value that is there, as a file would have it.
func shown(values []reflect.Value) string {
	for _, v := range values {
		for v.Kind() == reflect.Pointer && !v.IsNil() {
			v = v.Elem()
		}
		if d, ok := reflect.TypeAssert[time.Duration](v); ok {
			return duration(d)
		}
		switch v.Kind() {
		case reflect.Bool, reflect.Int32:
			return fmt.Sprint(v.Interface())
		case reflect.String:
			if v.String() != "" {
				return v.String()
			}
		default:
		}
	}
	return ""
}

// duration is a duration as people write it: 5m, not 5m0s.
func duration(d time.Duration) string {
	text := d.String()
	if d != 0 && d%time.Minute == 0 {
		text = strings.TrimSuffix(text, "0s")
	}
	if d != 0 && d%time.Hour == 0 {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// fieldOf is a field of each of some structures.
func fieldOf(structures []reflect.Value, f reflect.StructField) (fields []reflect.Value) {
	for _, s := range structures {
		fields = append(fields, s.FieldByIndex(f.Index))
	}
	return fields
}

// elements are the structures in fields that are there: themselves, what they point to, or the entries of a list.
func elements(fields []reflect.Value) (structures []reflect.Value) {
	for _, f := range fields {
		switch {
		case f.Kind() == reflect.Struct:
			structures = append(structures, f)
		case f.Kind() == reflect.Pointer && !f.IsNil():
			structures = append(structures, f.Elem())
		case f.Kind() == reflect.Slice && f.Len() > 0:
			structures = append(structures, f.Index(0))
		}
	}
	return structures
}

// element is the type of what a field holds.
func element(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		return t.Elem()
	}
	return t
}

// typeName is the type of a field in words.
func typeName(t reflect.Type) string {
	switch inner := element(t); {
	case t.Kind() == reflect.Slice && inner.Kind() == reflect.Struct:
		return "list of mappings"
	case t.Kind() == reflect.Slice:
		return "list of strings"
	case inner == reflect.TypeFor[time.Duration]():
		return "duration"
	case inner.Kind() == reflect.Struct:
		return "mapping"
	case inner.Kind() == reflect.Map:
		return "mapping of strings"
	case inner.Kind() == reflect.Bool:
		return "true or false"
	case inner.Kind() == reflect.Int32:
		return "number"
	}
	return "string"
}

var index = regexp.MustCompile(`\[\d+\]`)

// required asks the validation itself which fields must be there.
func required() (map[string]bool, error) {
	fields := map[string]bool{}
	for _, file := range emptyFiles {
		_, err := config.Parse([]byte(file))
		var invalid *config.InvalidError
		if !errors.As(err, &invalid) {
			return nil, fmt.Errorf("a file without required fields is not refused: %w", err)
		}
		for _, problem := range invalid.Problems {
			if problem.Line == 0 {
				fields[index.ReplaceAllString(problem.Path, "[]")] = true
			}
		}
	}
	return fields, nil
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// lastOf is the name at the end of a path.
func lastOf(path string) string { return path[strings.LastIndexByte(path, '.')+1:] }
