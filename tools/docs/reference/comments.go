package reference

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
)

// source is a file of Go code whose comments are used.
type source struct{ *ast.File }

func parse(root, path string) (source, error) {
	f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, path), nil, parser.ParseComments)
	return source{f}, err
}

// types calls visit for each type that is declared.
func (s source) types(visit func(*ast.TypeSpec)) {
	for _, d := range s.Decls {
		if g, ok := d.(*ast.GenDecl); ok && g.Tok == token.TYPE {
			for _, spec := range g.Specs {
				visit(spec.(*ast.TypeSpec))
			}
		}
	}
}

// fieldComments returns the comments of the fields of structs, by names such as "Network.PodCIDR".
func (s source) fieldComments() map[string]string {
	comments := map[string]string{}
	s.types(func(t *ast.TypeSpec) {
		structure, ok := t.Type.(*ast.StructType)
		if !ok {
			return
		}
		for _, f := range structure.Fields.List {
			for _, name := range f.Names {
				comments[t.Name.Name+"."+name.Name] = oneLine(f.Doc)
			}
		}
	})
	return comments
}

// constant is a constant with a string as its value.
type constant struct{ name, value, comment string }

// group is a declaration of constants.
type group struct {
	comment   string
	constants []constant
}

// constants returns the declarations of constants, in their order.
func (s source) constants() (groups []group) {
	for _, d := range s.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		all := group{comment: oneLine(g.Doc)}
		for _, spec := range g.Specs {
			v := spec.(*ast.ValueSpec)
			literal, ok := v.Values[0].(*ast.BasicLit)
			if !ok {
				continue
			}
			value, err := strconv.Unquote(literal.Value)
			if err != nil {
				continue
			}
			all.constants = append(all.constants, constant{v.Names[0].Name, value, oneLine(v.Doc)})
		}
		groups = append(groups, all)
	}
	return groups
}

// oneLine is the text of a comment without its line breaks.
func oneLine(c *ast.CommentGroup) string { return strings.Join(strings.Fields(c.Text()), " ") }
