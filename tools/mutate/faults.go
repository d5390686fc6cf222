package main

import (
	"fmt"
	"go/ast"
	"go/constant"
	"go/token"
	"go/types"

	"golang.org/x/tools/go/ast/edge"
	"golang.org/x/tools/go/ast/inspector"
)

// statement plants statements and loops that are left out.
func (f *finder) statement(c inspector.Cursor, s ast.Stmt) {
	if loop, ok := s.(*ast.RangeStmt); ok && len(loop.Body.List) > 0 {
		id := f.mutant(loop, "loop left out")
		f.edits = append(f.edits, edit{
			offset: f.offset(loop.Body.Lbrace) + 1, text: fmt.Sprintf(" if mutant(%d) { break }; ", id),
		})
		return
	}
	switch kind, _ := c.ParentEdge(); kind {
	case edge.BlockStmt_List, edge.CaseClause_Body, edge.CommClause_Body:
		if removable(s) {
			f.wrap(s, fmt.Sprintf("if !mutant(%d) { ", f.mutant(s, "statement left out")), " }")
		}
	}
}

func removable(s ast.Stmt) bool {
	switch s := s.(type) {
	case *ast.ExprStmt:
		call, ok := s.X.(*ast.CallExpr)
		return ok && types.ExprString(call.Fun) != "panic"
	case *ast.AssignStmt:
		return s.Tok != token.DEFINE && types.ExprString(s.Lhs[0]) != "_"
	case *ast.BranchStmt:
		return s.Tok == token.BREAK || s.Tok == token.CONTINUE
	case *ast.ReturnStmt:
		return len(s.Results) == 0
	case *ast.IncDecStmt, *ast.SendStmt, *ast.GoStmt:
		return true
	}
	return false
}

// condition plants conditions that are always or never true. Of the operands of && and || it takes those only that the
// whole expression leaves open.
func (f *finder) condition(c inspector.Cursor, e ast.Expr) {
	if !f.isBool(e) {
		return
	}
	always, never := f.variants(c, e)
	var before string
	if always {
		before = fmt.Sprintf("mutant(%d) || ", f.mutant(e, "condition always true"))
	}
	if never {
		before += fmt.Sprintf("!mutant(%d) && ", f.mutant(e, "condition never true"))
	}
	if before != "" {
		f.wrap(e, "("+before+"(", "))")
	}
}

func (f *finder) isBool(e ast.Expr) bool {
	t := f.pkg.TypesInfo.Types[e]
	return t.IsValue() && (t.Type == types.Typ[types.Bool] || t.Type == types.Typ[types.UntypedBool])
}

func (f *finder) variants(c inspector.Cursor, e ast.Expr) (always, never bool) {
	value := f.pkg.TypesInfo.Types[e].Value
	kind, _ := c.ParentEdge()
	switch kind {
	case edge.BinaryExpr_X, edge.BinaryExpr_Y:
		outer := c.Parent().Node().(*ast.BinaryExpr).Op
		if inner, ok := e.(*ast.BinaryExpr); ok && inner.Op == outer {
			return false, false
		}
		return outer == token.LAND, outer == token.LOR
	case edge.ForStmt_Cond:
		return false, true
	case edge.ReturnStmt_Results, edge.KeyValueExpr_Value:
		return value == nil || !constant.BoolVal(value), value == nil || constant.BoolVal(value)
	case edge.CaseClause_List:
		choice, ok := c.Parent().Parent().Parent().Node().(*ast.SwitchStmt)
		open := ok && choice.Tag == nil && value == nil
		return open, open
	case edge.IfStmt_Cond, edge.AssignStmt_Rhs, edge.ValueSpec_Values, edge.CallExpr_Args:
		return value == nil, value == nil
	}
	return false, false
}

// value plants zero values that are returned, or that fields have.
func (f *finder) value(c inspector.Cursor, e ast.Expr) {
	t, fault := f.wanted(c, e)
	name, ok := f.typeName(t)
	if !ok || f.isZero(e) {
		return
	}
	f.wrap(e, fmt.Sprintf("mutantZero[%s](%d, ", name, f.mutant(e, fault)), ")")
}

// wanted returns the type of a result or of a field, and what is wrong if it is zero.
func (f *finder) wanted(c inspector.Cursor, e ast.Expr) (types.Type, string) {
	switch kind, i := c.ParentEdge(); kind {
	case edge.ReturnStmt_Results:
		results := f.signature(c).Results()
		if results.Len() != len(c.Parent().Node().(*ast.ReturnStmt).Results) {
			return nil, ""
		}
		if t := results.At(i).Type(); t == errorType {
			return t, "error dropped"
		}
		return results.At(i).Type(), "zero returned"
	case edge.KeyValueExpr_Value:
		key, ok := c.Parent().Node().(*ast.KeyValueExpr).Key.(*ast.Ident)
		if field, isVar := f.pkg.TypesInfo.Uses[key].(*types.Var); ok && isVar && field.IsField() {
			return field.Type(), "field left out"
		}
	}
	return nil, ""
}

var errorType = types.Universe.Lookup("error").Type()

func (f *finder) signature(c inspector.Cursor) *types.Signature {
	for outer := range c.Enclosing((*ast.FuncDecl)(nil), (*ast.FuncLit)(nil)) {
		if declared, ok := outer.Node().(*ast.FuncDecl); ok {
			return f.pkg.TypesInfo.Defs[declared.Name].Type().(*types.Signature)
		}
		return f.pkg.TypesInfo.TypeOf(outer.Node().(*ast.FuncLit)).(*types.Signature)
	}
	return nil
}

// isZero reports whether an expression is zero as it is, or is not worth a mutant.
func (f *finder) isZero(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.CompositeLit:
		return len(e.Elts) == 0
	case *ast.FuncLit:
		return true
	}
	t := f.pkg.TypesInfo.Types[e]
	if t.IsNil() || f.isBool(e) {
		return true
	}
	if t.Value == nil {
		return false
	}
	zero := map[constant.Kind]constant.Value{
		constant.String: constant.MakeString(""), constant.Int: constant.MakeInt64(0), constant.Float: constant.MakeInt64(0),
	}[t.Value.Kind()]
	return zero == nil || constant.Compare(t.Value, token.EQL, zero)
}

// typeName returns a type as this file can write it, if it can.
func (f *finder) typeName(t types.Type) (string, bool) {
	if t == nil {
		return "", false
	}
	ok := true
	name := types.TypeString(t, func(p *types.Package) string {
		if p == f.pkg.Types {
			return ""
		}
		imported, has := f.importName(p)
		ok = ok && has
		return imported
	})
	return name, ok
}

func (f *finder) importName(p *types.Package) (string, bool) {
	for _, i := range f.syntax.Imports {
		if i.Path.Value == `"`+p.Path()+`"` {
			if i.Name != nil {
				return i.Name.Name, true
			}
			return p.Name(), true
		}
	}
	return "", false
}

// call plants calls that are skipped as if they had not failed.
func (f *finder) call(c inspector.Cursor, e ast.Expr) {
	call, ok := e.(*ast.CallExpr)
	if !ok || f.pkg.TypesInfo.TypeOf(e) != errorType || f.makesError(call) {
		return
	}
	switch kind, _ := c.ParentEdge(); kind {
	case edge.AssignStmt_Rhs, edge.ReturnStmt_Results:
		id := f.mutant(e, "call skipped")
		f.wrap(e, fmt.Sprintf("mutantSkip(%d, func() error { return ", id), " })")
	}
}

// makesError reports whether a function only describes an error: it takes nothing but text, errors and operands.
func (f *finder) makesError(call *ast.CallExpr) bool {
	s, ok := f.pkg.TypesInfo.TypeOf(call.Fun).(*types.Signature)
	if !ok {
		return true // a conversion
	}
	for p := range s.Params().Variables() {
		t := p.Type()
		if list, ok := t.(*types.Slice); ok && s.Variadic() {
			t = list.Elem()
		}
		_, anything := t.Underlying().(*types.Interface)
		if b, ok := t.Underlying().(*types.Basic); !(ok && b.Info()&types.IsString != 0) && !anything {
			return false
		}
	}
	return s.Recv() == nil
}

// operators are those that have a mutant, with the function that stands in for them and the fault.
var operators = map[token.Token][2]string{
	token.LSS: {"mutantLess", "boundary"},
	token.LEQ: {"mutantLessEqual", "boundary"},
	token.GTR: {"mutantGreater", "boundary"},
	token.GEQ: {"mutantGreaterEqual", "boundary"},
	token.ADD: {"mutantAdd", "operator"},
	token.SUB: {"mutantSubtract", "operator"},
	token.MUL: {"mutantMultiply", "operator"},
	token.QUO: {"mutantDivide", "operator"},
	token.REM: {"mutantRemainder", "operator"},
	token.AND: {"mutantAnd", "operator"},
	token.OR:  {"mutantOr", "operator"},
}

// operator plants boundaries that are off by one, and other operators.
func (f *finder) operator(e ast.Expr) {
	b, ok := e.(*ast.BinaryExpr)
	if !ok || f.pkg.TypesInfo.Types[e].Value != nil {
		return
	}
	by, ok := operators[b.Op]
	operand, basic := f.pkg.TypesInfo.TypeOf(b.X).Underlying().(*types.Basic)
	if !ok || !basic || (by[1] == "operator" && operand.Info()&types.IsNumeric == 0) {
		return
	}
	id := f.mutant(e, by[1])
	f.wrap(e, fmt.Sprintf("%s(%d, ", by[0], id), ")")
	f.edits = append(f.edits, edit{offset: f.offset(b.OpPos), length: len(b.Op.String()), text: ","})
}
