package signer

import (
	"encoding/base64"
	"testing"

	"github.com/keyturn/keyturn/internal/strictjson"
)

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
