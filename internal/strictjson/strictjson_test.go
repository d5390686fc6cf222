package strictjson_test

import (
	"testing"

	"github.com/keyturn/keyturn/internal/strictjson"
)

func TestMembers(t *testing.T) {
	for input, want := range map[string]int{
		`{}`:                    0,
		` {"a": 1, "A": [2]} `:  2,
		`{"a": {"b": 1}}`:       1,
		``:                      -1,
		`null`:                  -1,
		`[]`:                    -1,
		`"a"`:                   -1,
		`{`:                     -1,
		`{"a": 1`:               -1,
		`{"a": }`:               -1,
		`{"a": 1, "a": 1}`:      -1,
		`{"a": 1, "\u0061": 1}`: -1,
		`{} {}`:                 -1,
		`{}x`:                   -1,
		"{\"a\": \"\xff\"}":     -1,
	} {
		got, err := strictjson.Members([]byte(input))
		switch {
		case want < 0 && err == nil:
			t.Errorf("Members(%s) = %v, want an error", input, got)
		case want >= 0 && (err != nil || len(got) != want):
			t.Errorf("Members(%s) = %v, %v; want %d members", input, got, err, want)
		}
	}
}

func TestText(t *testing.T) {
	for input, want := range map[string]string{`"a"`: "a", `"\u0061"`: "a", `""`: ""} {
		if got, ok := strictjson.Text([]byte(input)); !ok || got != want {
			t.Errorf("Text(%s) = %q, %t; want %q", input, got, ok, want)
		}
	}
	for _, input := range []string{``, `null`, `1`, `["a"]`, `"a`} {
		if got, ok := strictjson.Text([]byte(input)); ok {
			t.Errorf("Text(%s) = %q, want none", input, got)
		}
	}
}
