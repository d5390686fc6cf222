package signer

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/strictjson"
)

func TestCheckClaims(t *testing.T) {
	many := func(n int) string {
		var names []string
		for i := range n {
			names = append(names, fmt.Sprintf(`"n%d":0`, i))
		}
		return "{" + strings.Join(names, ",") + "}"
	}
	long := func(n int) string { return `{"a":"` + strings.Repeat("x", n-len(`{"a":""}`)) + `"}` }
	for name, test := range map[string]struct {
		claims string
		want   error
	}{
		"names again in values":      {`{"a":{"a":1,"b":{"a":2}},"b":[{"a":1,"a":2}],"c":"a"}`, nil},
		"twice":                      {`{"a":1,"b":{"c":2},"a":3}`, errClaimsName},
		"twice, far from each other": {`{"b":1,"a":2,"c":3,"b":4}`, errClaimsName},
		"twice, with blanks":         {"{\"a\"\t:1,\"a\" \r\n:2}", errClaimsName},
		"a value like a name":        {`{"a":"a","b":["a","b"]}`, nil},
		"an escaped name":            {`{"\u0061":1}`, errClaimsName},
		"an escaped name in a value": {`{"a":{"\u0061":1}}`, nil},
		"64 names":                   {many(maxNames), nil},
		"65 names":                   {many(maxNames + 1), errClaimsName},
		"as long as may be":          {long(maxClaims / 4 * 3), nil},
		"too long":                   {long(maxClaims/4*3 + 1), errClaimsSize},
		"blank before":               {` {"a":1}`, errClaimsForm},
		"a list":                     {`[{"a":1}]`, errClaimsForm},
	} {
		if err := checkClaims(base64.RawURLEncoding.EncodeToString([]byte(test.claims))); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	if err := checkClaims("e30*"); !errors.Is(err, errClaimsForm) {
		t.Errorf("no base64: %v", err)
	}
}

// FuzzCheckClaims compares checkClaims with package strictjson, which takes longer. What one takes the other must take,
// but for names with escapes and objects without or with very many names.
func FuzzCheckClaims(f *testing.F) {
	for _, seed := range []string{
		claims, boundClaims, `{}`, `{"a":1,"a":2}`, `{"a":{"a":1},"b":["a",{"a":2}]}`, `{"a\"b" : "c\\" , "d":"a"}`, `{"\u0061":1,"a":2}`,
		`{"a":"b:c","b":"\"a\":1"}`, `["a"]`, `"a"`, `{"a":1}{}`, " {\"a\"\n:\t1}", "{\"a\":\"\xff\"}", `{"a":null,"b":[[],{}]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		err := checkClaims(base64.RawURLEncoding.EncodeToString(raw))
		members, strict := strictjson.Members(raw)
		if err == nil && (strict != nil || len(members) == 0) {
			t.Errorf("%q is taken, but is no object whose members have names of their own", raw)
		}
		if err != nil && strict == nil && err != errClaimsName && raw[0] == '{' && len(raw) < maxClaims/2 { //nolint:errorlint // it is returned as it is
			t.Errorf("%q is refused: %v", raw, err)
		}
	})
}
