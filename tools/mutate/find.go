package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"strings"

	"golang.org/x/tools/go/ast/inspector"
	"golang.org/x/tools/go/packages"
)

// mutant is one fault in a package.
type mutant struct {
	id       int
	file     string // relative to the module
	line     int
	function string
	// fault is what is wrong with the code, such as "condition never true".
	fault string
	// code is the source of what is wrong, on one line.
	code string
}

// mark names the mutant without its line, which other changes of the file move. Mutants of a function may share a mark.
func (m mutant) mark() string {
	return fmt.Sprintf("`%s` %s, %s: `%s`", m.file, m.function, m.fault, m.code)
}

// finder finds the mutants of one file, and the edits that plant them.
type finder struct {
	pkg     *packages.Package
	syntax  *ast.File
	name    string
	source  []byte
	mutants []mutant
	edits   []edit
	pairs   int
	// next is the id of the next mutant. The ids are unique in the package.
	next int
}

// find visits outer nodes before inner ones, as edits of a pair need it.
func (f *finder) find() {
	for c := range inspector.New([]*ast.File{f.syntax}).Root().Preorder() {
		switch n := c.Node().(type) {
		case ast.Stmt:
			f.statement(c, n)
		case ast.Expr:
			f.condition(c, n)
			f.value(c, n)
			f.call(c, n)
			f.operator(n)
		}
	}
}

// mutant adds a fault in the code of a node and returns its id.
func (f *finder) mutant(n ast.Node, fault string) int {
	start, end := f.offset(n.Pos()), f.offset(n.End())
	if loop, ok := n.(*ast.RangeStmt); ok {
		end = f.offset(loop.Body.Lbrace)
	}
	f.next++
	f.mutants = append(f.mutants, mutant{
		id:       f.next,
		file:     f.name,
		line:     f.pkg.Fset.Position(n.Pos()).Line,
		function: f.function(n.Pos()),
		fault:    fault,
		code:     oneLine(f.source[start:end]),
	})
	return f.next
}

// function returns the name of the function around a position, with its receiver's type.
func (f *finder) function(p token.Pos) string {
	for _, d := range f.syntax.Decls {
		if declared, ok := d.(*ast.FuncDecl); ok && declared.Pos() <= p && p < declared.End() {
			if declared.Recv == nil {
				return declared.Name.Name
			}
			return strings.TrimPrefix(types.ExprString(declared.Recv.List[0].Type), "*") + "." + declared.Name.Name
		}
	}
	return "no function"
}

func oneLine(source []byte) string {
	const most = 80
	line := strings.ReplaceAll(strings.Join(strings.Fields(string(source)), " "), "`", "'")
	if r := []rune(line); len(r) > most {
		line = string(r[:most]) + "…"
	}
	return line
}

func (f *finder) offset(p token.Pos) int { return f.pkg.Fset.Position(p).Offset }

// wrap puts text before and after a node.
func (f *finder) wrap(n ast.Node, before, after string) {
	f.pairs++
	f.edits = append(f.edits,
		edit{offset: f.offset(n.Pos()), text: before, number: f.pairs},
		edit{offset: f.offset(n.End()), text: after, number: f.pairs, closing: true})
}
