package signer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/keyturn/keyturn/internal/strictjson"
	"github.com/keyturn/keyturn/signer/ledger"
)

func TestReadClaims(t *testing.T) {
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
		"nothing":                    {"", errClaimsSize},
		"blank before":               {` {"a":1}`, errClaimsForm},
		"blanks after":               {"{\"a\":1} \n", nil},
		"a list":                     {`[{"a":1}]`, errClaimsForm},
		"16 deep": {
			`{"a":` + strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1) + `}`, nil,
		},
		"17 deep": {
			`{"a":` + strings.Repeat("[", maxDepth) + strings.Repeat("]", maxDepth) + `}`, errClaimsForm,
		},
		"17 objects deep": {strings.Repeat(`{"a":`, maxDepth+1) + "1" + strings.Repeat("}", maxDepth+1), errClaimsForm},
	} {
		if _, err := readClaims(base64.RawURLEncoding.EncodeToString([]byte(test.claims))); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
	for digit, want := range map[string]error{
		"0": nil, "9": nil, "a": nil, "f": nil, "A": nil, "F": nil, "/": errClaimsForm, ":": errClaimsForm,
		"@": errClaimsForm, "G": errClaimsForm, "`": errClaimsForm, "g": errClaimsForm,
	} {
		escaped := base64.RawURLEncoding.EncodeToString([]byte(`{"a":"\u000` + digit + `"}`))
		if _, err := readClaims(escaped); !errors.Is(err, want) {
			t.Errorf("an escape that ends in %s: %v, want %v", digit, err, want)
		}
	}
	if _, err := readClaims("e30*"); !errors.Is(err, errClaimsForm) {
		t.Errorf("no base64: %v", err)
	}
}

func TestReadClaimsForTheLedger(t *testing.T) {
	for name, test := range map[string]struct {
		claims string
		want   ledger.Token
	}{
		"of a pod": {boundClaims, ledger.Token{
			Namespace: []byte("default"), ServiceAccount: []byte("web"), Kind: "Pod", Expires: 1831536000,
			Name: []byte("web-5d78c9869d-2xk7q"), UID: []byte("4d10a0b0-6c3f-4d10-a0b0-a0f6f3f3b2a0"),
			Audiences: [][]byte{[]byte("https://kubernetes.default.svc.cluster.local")},
		}},
		"of a node": {`{"kubernetes.io":{"node":{"name":"n","uid":"u"}},"exp":1.5}`, ledger.Token{
			Kind: "Node", Name: []byte("n"), UID: []byte("u"), Expires: 2,
		}},
		"of no account": {`{"sub":"system:node:a"}`, ledger.Token{Expires: ledger.Never}},
		"two audiences": {
			`{"aud":["b","a","b"],"exp":1}`, ledger.Token{Audiences: [][]byte{[]byte("a"), []byte("b")}, Expires: 1},
		},
		"a number as one": {
			`{"aud":["a",1],"exp":1}`, ledger.Token{Audiences: [][]byte{[]byte("a")}, Partial: true, Expires: 1},
		},
		"an object as audience": {`{"aud":{},"exp":1}`, ledger.Token{Partial: true, Expires: 1}},
		"an object as text":     {`{"kubernetes.io":{"pod":"a"},"exp":1}`, ledger.Token{Partial: true, Expires: 1}},
		"objects as a list":     {`{"kubernetes.io":[],"exp":1}`, ledger.Token{Partial: true, Expires: 1}},
		"an object in two parts": {
			`{"kubernetes.io":{"pod":{"name":"a"},"pod":{"uid":"b"}},"exp":1}`,
			ledger.Token{Kind: "Pod", Name: []byte("a"), Partial: true, Expires: 1},
		},
		"an object with two names": {
			`{"kubernetes.io":{"pod":{"name":"a","name":"b"}},"exp":1}`,
			ledger.Token{Kind: "Pod", Name: []byte("a"), Partial: true, Expires: 1},
		},
		"a number as a name": {
			`{"kubernetes.io":{"pod":{"name":1}},"exp":1}`, ledger.Token{Kind: "Pod", Partial: true, Expires: 1},
		},
		"an object that is escaped": {
			`{"kubernetes.io":{"\u0070od":{"name":"a"}},"exp":1}`, ledger.Token{Partial: true, Expires: 1},
		},
		"a name that is escaped": {
			`{"kubernetes.io":{"pod":{"\u006eame":"a"}},"exp":1}`, ledger.Token{Kind: "Pod", Partial: true, Expires: 1},
		},
		"partial before the rest": {
			`{"aud":[1],"kubernetes.io":{"pod":{"name":"a","more":1},"more":{}},"exp":1}`,
			ledger.Token{Kind: "Pod", Name: []byte("a"), Partial: true, Expires: 1},
		},
		"an expiry of zero":             {`{"exp":0}`, ledger.Token{}},
		"an expiry that no float holds": {`{"exp":9007199254740993}`, ledger.Token{Expires: 1<<53 + 1}},
		"an expiry in other forms":      {`{"exp":15e-1}`, ledger.Token{Expires: 2}},
		"an expiry with a plus":         {`{"exp":1E+2}`, ledger.Token{Expires: 100}},
		"an expiry beyond all":          {`{"exp":1e30}`, ledger.Token{Expires: ledger.Never}},
		"no number as expiry":           {`{"exp":true}`, ledger.Token{Expires: ledger.Never}},
	} {
		got, err := readClaims(base64.RawURLEncoding.EncodeToString([]byte(test.claims)))
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", test.want) {
			t.Errorf("%s: read as %+v, %v", name, got, err)
		}
	}
}

// FuzzReadClaims compares readClaims with packages strictjson and encoding/json, which take longer. What one takes the
// other must take, but for names with escapes, objects without or with very many names, and deep ones; and what the
// ledger is given must be what is there.
func FuzzReadClaims(f *testing.F) {
	for _, seed := range []string{
		claims, boundClaims, `{}`, `{"a":1,"a":2}`, `{"a":{"a":1},"b":["a",{"a":2}]}`, `{"a\"b" : "c\\" , "d":"a"}`,
		`{"\u0061":1,"a":2}`,
		`{"a":"b:c","b":"\"a\":1"}`, `["a"]`, `"a"`, `{"a":1}{}`, " {\"a\"\n:\t1}", "{\"a\":\"\xff\"}",
		`{"a":null,"b":[[],{}]}`,
		`{"aud":"a","exp":1.5e9,"sub":"system:serviceaccount:a:b:c"}`, `{"aud":["b","\u0061\ud800","b"],"exp":-1,"sub":7}`,
		`{"exp":"1","aud":{},"kubernetes.io":[]}`, `{"kubernetes.io":{"secret":{"name":"a","uid":"b"},"node":{"uid":null}}}`,
		`{"kubernetes.io":{"pod":{"name":"a","name":"b"},"p\u006fd":1,"pod":{}}}`, `{"exp":01}`, `{"exp":1e}`,
		`{"a":"\u00g0"}`, `{"a":-}`,
		`{"aud":["a",1],"a":tru,"b":nul}`, "{\"a\":\"\x00\"}", "{\"a\":1}\x00", `{"exp":1e400}`,
		`{"exp":9223372036854775808}`,
		`{"a":"\u12`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := readClaims(base64.RawURLEncoding.EncodeToString(raw))
		members, strict := strictjson.Members(raw)
		if err == nil && (strict != nil || len(members) == 0) {
			t.Fatalf("%q is taken, but is no object with unique member names", raw)
		}
		named := err != errClaimsName //nolint:errorlint // it is returned as it is
		if err != nil && strict == nil && named && raw[0] == '{' && len(raw) < maxClaims/2 && !deep(raw) {
			t.Errorf("%q is refused: %v", raw, err)
		}
		if err == nil {
			wantToken(t, members, got)
		}
	})
}

// deep reports whether so many objects and lists begin that they may be too deep in each other.
func deep(raw []byte) bool {
	return bytes.Count(raw, []byte("{"))+bytes.Count(raw, []byte("[")) > maxDepth
}

// wantToken wants a token to be what encoding/json makes of the claims.
func wantToken(t *testing.T, members map[string]json.RawMessage, got ledger.Token) {
	t.Helper()
	want := ledger.Token{Expires: ledger.Never}
	if subject, ok := strictjson.Text(members["sub"]); ok {
		if account, ok := strings.CutPrefix(subject, "system:serviceaccount:"); ok {
			namespace, name, _ := strings.Cut(account, ":")
			want.Namespace, want.ServiceAccount = []byte(namespace), []byte(name)
		}
	}
	var exp float64
	if text := string(members["exp"]); text != "" && text != "null" && json.Unmarshal(members["exp"], &exp) == nil {
		want.Expires = got.Expires
		if diff := math.Abs(float64(got.Expires) - max(exp, min(float64(got.Expires), 0))); exp < 1<<61 &&
			diff >= 1+exp/1e15 {
			t.Errorf("expiry %s is read as %d", text, got.Expires)
		}
	}
	var whole, usual bool
	want.Audiences, whole = audiencesOf(members["aud"])
	usual = bound(members["kubernetes.io"], &want)
	if !got.Partial && !(whole && usual) {
		t.Errorf("%q is read as %+v, as if that were all", members, got)
	}
	if want.Partial = got.Partial; got.Partial {
		want.Audiences, want.Kind, want.Name, want.UID = got.Audiences, got.Kind, got.Name, got.UID
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("%q is read as %+v, want %+v", members, got, want)
	}
}

// audiencesOf reports false for what is neither a text nor a list of texts.
func audiencesOf(raw json.RawMessage) (all [][]byte, whole bool) {
	var list []json.RawMessage
	if one, ok := strictjson.Text(raw); ok {
		return [][]byte{[]byte(one)}, true
	}
	if raw != nil && (raw[0] != '[' || json.Unmarshal(raw, &list) != nil) {
		return nil, false
	}
	for _, element := range list {
		text, ok := strictjson.Text(element)
		if !ok {
			return nil, false
		}
		all = append(all, []byte(text))
	}
	slices.SortFunc(all, bytes.Compare)
	return slices.CompactFunc(all, bytes.Equal), true
}

// bound reads the bound object; false if it has not the usual form.
func bound(raw json.RawMessage, into *ledger.Token) bool {
	var objects, fields map[string]json.RawMessage
	if raw == nil {
		return true
	}
	if !once(raw, "pod", "secret", "node") || json.Unmarshal(raw, &objects) != nil {
		return false
	}
	for _, kind := range []string{"Pod", "Secret", "Node"} {
		raw, ok := objects[strings.ToLower(kind)]
		if !ok {
			continue
		}
		if into.Kind = kind; !once(raw, "name", "uid") || json.Unmarshal(raw, &fields) != nil {
			return false
		}
		for name, field := range map[string]*[]byte{"name": &into.Name, "uid": &into.UID} {
			text, ok := strictjson.Text(fields[name])
			if _, exists := fields[name]; exists && !ok {
				return false
			}
			*field = []byte(text)
		}
		break
	}
	return true
}

// once reports whether an object has each of these names once at most.
func once(object json.RawMessage, names ...string) bool {
	d := json.NewDecoder(bytes.NewReader(object))
	if start, err := d.Token(); err != nil || start != json.Delim('{') {
		return false
	}
	seen := map[string]int{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return false
		}
		seen[fmt.Sprint(name)]++
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return false
		}
	}
	return !slices.ContainsFunc(names, func(name string) bool { return seen[name] > 1 })
}
