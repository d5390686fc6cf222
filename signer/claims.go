package signer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strconv"
	"unicode/utf8"

	"github.com/keyturn/keyturn/signer/ledger"
)

// The limits of claims.
const (
	// maxClaims is the longest encoding of claims, in base64url. kube-apiserver accepts no HTTP header of that length.
	maxClaims = 64 << 10
	// maxNames is the largest number of claims. kube-apiserver sends about ten.
	maxNames = 64
	// maxDepth is how deep objects and lists may be nested. kube-apiserver sends three levels.
	maxDepth = 16
)

// The errors of readClaims never quote the claims.
var (
	errClaimsSize = errors.New("claims are empty or too long")
	errClaimsForm = errors.New("claims are not a JSON object in base64url without padding")
	errClaimsName = errors.New("claims are missing or too many, or a name is escaped or used twice")
)

// tokenClaims are the claims of a token that the ledger records.
type tokenClaims struct {
	token ledger.Token
	names [][]byte
	// objects are in the order of objectKinds. A token that is bound to a pod also names the pod's node.
	objects [len(objectKinds)]object
}

// objectKinds are the objects that a token can be bound to, by claim. The first that a token names is the one that it
// is bound to.
var objectKinds = [...]struct{ claim, kind string }{{"pod", "Pod"}, {"secret", "Secret"}, {"node", "Node"}}

type object struct {
	named     bool
	name, uid []byte
}

// readClaims refuses claims that kube-apiserver never sends. The rest is signed byte for byte. It has a scanner of its
// own, since encoding/json and strictjson would take a tenth to a third of the time of an ES256 signature.
//
// A claim that passes but that the ledger cannot record, such as an audience that is a number, is left out, and
// ledger.Token.Partial is set.
func readClaims(encoded string) (ledger.Token, error) {
	if encoded == "" || len(encoded) > maxClaims {
		return ledger.Token{}, errClaimsSize
	}
	raw := make([]byte, base64.RawURLEncoding.DecodedLen(len(encoded))+1) // a zero byte at the end ends every loop
	n, err := base64.RawURLEncoding.Strict().Decode(raw, []byte(encoded))
	if err != nil || base64.RawURLEncoding.EncodedLen(n) != len(encoded) { // the decoder skips line breaks
		return ledger.Token{}, errClaimsForm
	}
	raw[n] = 0
	if !utf8.Valid(raw[:n]) {
		return ledger.Token{}, errClaimsForm
	}
	c := tokenClaims{names: make([][]byte, 0, 16)}
	c.token.Expires = ledger.Never
	return c.read(&scanner{text: raw[:n+1]})
}

func (c *tokenClaims) read(s *scanner) (ledger.Token, error) {
	if s.text[0] != '{' || !s.object(1, c.member) || !s.ended() {
		return ledger.Token{}, errClaimsForm
	}
	if len(c.names) == 0 || len(c.names) > maxNames {
		return ledger.Token{}, errClaimsName
	}
	for i, name := range c.names {
		if bytes.IndexByte(name, '\\') >= 0 || contains(c.names[:i], name) {
			return ledger.Token{}, errClaimsName
		}
	}
	c.bind()
	return c.token, nil
}

func contains(names [][]byte, name []byte) bool {
	for _, other := range names {
		if string(other) == string(name) {
			return true
		}
	}
	return false
}

// bind sets the object that the token is bound to.
func (c *tokenClaims) bind() {
	for i, o := range c.objects {
		if !o.named {
			continue
		}
		c.token.Kind, c.token.Name, c.token.UID = objectKinds[i].kind, o.name, o.uid
		return
	}
}

// member reads one claim.
func (c *tokenClaims) member(s *scanner, name []byte) bool {
	if len(c.names) <= maxNames {
		c.names = append(c.names, name)
	}
	switch string(name) {
	case "sub":
		return c.subject(s)
	case "aud":
		return c.audience(s)
	case "exp":
		return c.expiry(s)
	case "kubernetes.io":
		if s.next() == '{' {
			return s.object(2, c.private)
		}
		c.token.Partial = true
	}
	return s.value(2)
}

const subjectPrefix = "system:serviceaccount:"

func (c *tokenClaims) subject(s *scanner) bool {
	if s.next() != '"' {
		return s.value(2)
	}
	text, ok := s.string()
	if account, isOne := bytes.CutPrefix(text, []byte(subjectPrefix)); ok && isOne {
		namespace, name, _ := bytes.Cut(account, []byte(":"))
		c.token.Namespace, c.token.ServiceAccount = namespace, name
	}
	return ok
}

// audience reads a string or a list of strings.
func (c *tokenClaims) audience(s *scanner) bool {
	switch s.next() {
	case '"':
		text, ok := s.string()
		c.token.Audiences = append(c.token.Audiences, text)
		return ok
	case '[':
		return s.list(2, c.audiences) && c.sortAudiences()
	}
	c.token.Partial = true
	return s.value(2)
}

func (c *tokenClaims) audiences(s *scanner) bool {
	if s.next() != '"' {
		c.token.Partial = true
		return s.value(3)
	}
	text, ok := s.string()
	c.token.Audiences = append(c.token.Audiences, text)
	return ok
}

func (c *tokenClaims) sortAudiences() bool {
	if len(c.token.Audiences) > 1 {
		slices.SortFunc(c.token.Audiences, bytes.Compare)
		c.token.Audiences = slices.CompactFunc(c.token.Audiences, bytes.Equal)
	}
	return true
}

// expiry reads a number of seconds, rounded up. Without a number, the token never expires.
func (c *tokenClaims) expiry(s *scanner) bool {
	if first := s.next(); first != '-' && (first < '0' || first > '9') {
		return s.value(2)
	}
	text, ok := s.number()
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		c.token.Expires = n
	} else if f, err := strconv.ParseFloat(string(text), 64); err == nil && f < math.MaxInt64/2 {
		c.token.Expires = int64(math.Ceil(max(f, 0)))
	}
	return ok
}

// private reads a member of the claim kubernetes.io.
func (c *tokenClaims) private(s *scanner, name []byte) bool {
	for i := range c.objects {
		if string(name) != objectKinds[i].claim {
			continue
		}
		o := &c.objects[i]
		if o.named || s.next() != '{' {
			c.token.Partial = true
			return s.value(3)
		}
		o.named = true
		return s.object(3, func(s *scanner, name []byte) bool { return c.objectMember(o, s, name) })
	}
	c.token.Partial = c.token.Partial || bytes.IndexByte(name, '\\') >= 0
	return s.value(3)
}

func (c *tokenClaims) objectMember(o *object, s *scanner, name []byte) bool {
	var field *[]byte
	switch string(name) {
	case "name":
		field = &o.name
	case "uid":
		field = &o.uid
	default:
		c.token.Partial = c.token.Partial || bytes.IndexByte(name, '\\') >= 0
		return s.value(4)
	}
	if s.next() != '"' || *field != nil {
		c.token.Partial = true
		return s.value(4)
	}
	text, ok := s.string()
	*field = text
	return ok
}

// scanner reads JSON once. The text ends in a zero byte.
type scanner struct {
	text []byte
	at   int
}

// next returns the next byte that is not white space, without consuming it.
func (s *scanner) next() byte {
	for {
		switch c := s.text[s.at]; c {
		case ' ', '\t', '\r', '\n':
			s.at++
		default:
			return c
		}
	}
}

// skip consumes the next byte if it is c.
func (s *scanner) skip(c byte) bool {
	if s.next() != c {
		return false
	}
	s.at++
	return true
}

// ended reports whether the text has been read to its end.
func (s *scanner) ended() bool { return s.next() == 0 && s.at == len(s.text)-1 }

// object reads an object at a depth, and calls member to read each value.
func (s *scanner) object(depth int, member func(s *scanner, name []byte) bool) bool {
	if !s.skip('{') || depth > maxDepth {
		return false
	}
	if s.skip('}') {
		return true
	}
	for {
		if s.next() != '"' {
			return false
		}
		name, _, ok := s.quoted()
		if !ok || !s.skip(':') || !member(s, name) {
			return false
		}
		if !s.skip(',') {
			return s.skip('}')
		}
	}
}

// list reads a list as object reads an object.
func (s *scanner) list(depth int, element func(*scanner) bool) bool {
	if !s.skip('[') || depth > maxDepth {
		return false
	}
	if s.skip(']') {
		return true
	}
	for {
		if !element(s) {
			return false
		}
		if !s.skip(',') {
			return s.skip(']')
		}
	}
}

// value reads any value.
func (s *scanner) value(depth int) bool {
	switch c := s.next(); c {
	case '"':
		_, _, ok := s.quoted()
		return ok
	case '{':
		return s.object(depth, func(s *scanner, _ []byte) bool { return s.value(depth + 1) })
	case '[':
		return s.list(depth, func(s *scanner) bool { return s.value(depth + 1) })
	case 't':
		return s.word("true")
	case 'f':
		return s.word("false")
	case 'n':
		return s.word("null")
	}
	_, ok := s.number()
	return ok
}

func (s *scanner) word(w string) bool {
	if !bytes.HasPrefix(s.text[s.at:], []byte(w)) {
		return false
	}
	s.at += len(w)
	return true
}

// special are the bytes that end a string or begin an escape, and those that no string may contain.
var special = func() (is [256]bool) {
	for c := range 0x20 {
		is[c] = true
	}
	is['"'], is['\\'] = true, true
	return is
}()

// quoted reads a string, and returns the text between its quotation marks as it is.
func (s *scanner) quoted() (text []byte, escaped, ok bool) {
	begin := s.at + 1
	for i := begin; ; i++ {
		c := s.text[i]
		if !special[c] {
			continue
		}
		switch c {
		case '"':
			s.at = i + 1
			return s.text[begin:i], escaped, true
		case '\\':
			n := escapeLength(s.text[i+1:])
			if n == 0 {
				return nil, false, false
			}
			i += n
			escaped = true
		default:
			return nil, false, false
		}
	}
}

// escapeLength returns the number of bytes of an escape after its backslash, or 0 if it is invalid.
func escapeLength(rest []byte) int {
	switch rest[0] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 1
	case 'u':
		for i := 1; i <= 4; i++ { // the zero byte at the end is no digit
			if c := rest[i]; (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
				return 0
			}
		}
		return 5
	}
	return 0
}

// string reads a string.
func (s *scanner) string() ([]byte, bool) {
	begin := s.at
	text, escaped, ok := s.quoted()
	if !ok || !escaped {
		return text, ok
	}
	var unescaped string
	if json.Unmarshal(s.text[begin:s.at], &unescaped) != nil {
		return nil, false
	}
	return []byte(unescaped), true
}

// number reads a number.
func (s *scanner) number() ([]byte, bool) {
	begin := s.at
	if s.text[s.at] == '-' {
		s.at++
	}
	if s.text[s.at] == '0' {
		s.at++
	} else if !s.digits() {
		return nil, false
	}
	if s.text[s.at] == '.' {
		if s.at++; !s.digits() {
			return nil, false
		}
	}
	if s.text[s.at]|0x20 == 'e' {
		if s.at++; s.text[s.at] == '+' || s.text[s.at] == '-' {
			s.at++
		}
		if !s.digits() {
			return nil, false
		}
	}
	return s.text[begin:s.at], true
}

// digits reads digits, and reports whether there was one.
func (s *scanner) digits() bool {
	begin := s.at
	for s.text[s.at] >= '0' && s.text[s.at] <= '9' {
		s.at++
	}
	return s.at > begin
}
