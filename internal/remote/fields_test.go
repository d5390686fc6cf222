package remote_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/keyturn/keyturn/internal/controlplane"
	"github.com/keyturn/keyturn/internal/nodes"
	"github.com/keyturn/keyturn/signer/ledger"
)

// TestEveryFieldCrosses finds fields of the ports that JSON would leave out without a word.
func TestEveryFieldCrosses(t *testing.T) {
	for _, value := range []any{
		controlplane.State{}, controlplane.Target{}, nodes.Machine{}, nodes.TokenFile{}, nodes.Token{}, ledger.Report{},
	} {
		wantCrossing(t, reflect.TypeOf(value).String(), reflect.TypeOf(value))
	}
}

func wantCrossing(t *testing.T, name string, of reflect.Type) {
	t.Helper()
	switch of.Kind() {
	case reflect.Slice, reflect.Pointer:
		wantCrossing(t, name, of.Elem())
	case reflect.Struct:
		if of == reflect.TypeFor[time.Time]() {
			return
		}
		for f := range of.Fields() {
			if !f.IsExported() || f.Tag.Get("json") == "-" {
				t.Errorf("%s.%s stays on its side", name, f.Name)
			}
			wantCrossing(t, name+"."+f.Name, f.Type)
		}
	case reflect.Bool, reflect.Int, reflect.String:
	default:
		t.Errorf("%s is a %s, which nobody has thought about here", name, of)
	}
}
