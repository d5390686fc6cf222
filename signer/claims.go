package signer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"unicode/utf8"
)

// The bounds of what is signed.
const (
	// maxClaims bounds the claims of a token, as base64url. kube-apiserver takes no HTTP header as long as this.
	maxClaims = 64 << 10
	// maxNames bounds the number of claims. kube-apiserver sends some ten.
	maxNames = 64
)

// The errors of checkClaims hold nothing of the claims.
var (
	errClaimsSize = errors.New("claims are empty or too long")
	errClaimsForm = errors.New("claims are not a JSON object in base64url without padding")
	errClaimsName = errors.New("claims are none, too many, or not each of a plain name of its own")
)

// checkClaims refuses what kube-apiserver never sends. What passes is signed byte for byte. Package strictjson would
// do, but it takes a third of the time of an ES256 signature.
func checkClaims(claims string) error {
	if claims == "" || len(claims) > maxClaims {
		return errClaimsSize
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(claims)
	if err != nil || base64.RawURLEncoding.EncodedLen(len(raw)) != len(claims) { // the decoder skips line breaks
		return errClaimsForm
	}
	if raw[0] != '{' || !utf8.Valid(raw) || !json.Valid(raw) {
		return errClaimsForm
	}
	return checkNames(raw)
}

// checkNames checks the names of a JSON object that is known to be valid: the strings directly in it that a colon
// follows.
func checkNames(object []byte) error {
	names := make([][]byte, 0, 16)
	for i, depth := 0, 0; i < len(object); i++ {
		switch object[i] {
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		case '"':
			end := i + 1 + stringEnd(object[i+1:])
			if depth == 1 && bytes.HasPrefix(bytes.TrimLeft(object[end+1:], " \t\r\n"), []byte(":")) {
				names = append(names, object[i+1:end])
			}
			i = end
		}
		if len(names) > maxNames {
			return errClaimsName
		}
	}
	slices.SortFunc(names, bytes.Compare)
	plain := !slices.ContainsFunc(names, func(name []byte) bool { return bytes.IndexByte(name, '\\') >= 0 })
	if distinct := len(slices.CompactFunc(names, bytes.Equal)) == len(names); len(names) == 0 || !plain || !distinct {
		return errClaimsName
	}
	return nil
}

// stringEnd returns where the quotation mark is that ends a string.
func stringEnd(rest []byte) int {
	for i := 0; ; i++ {
		switch rest[i] {
		case '"':
			return i
		case '\\':
			i++
		}
	}
}
