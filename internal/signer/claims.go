package signer

import (
	"encoding/base64"
	"errors"

	"github.com/keyturn/keyturn/internal/strictjson"
)

// maxClaims bounds the claims of a token, as base64url. kube-apiserver takes no HTTP header as long as this.
const maxClaims = 64 << 10

// MaxRequest bounds the messages that a server need take.
const MaxRequest = maxClaims + 1<<10

// The errors of checkClaims hold nothing of the claims.
var (
	errClaimsSize = errors.New("claims are empty or too long")
	errClaimsForm = errors.New("claims are not a JSON object in base64url without padding")
)

// checkClaims refuses what kube-apiserver never sends. What passes is signed byte for byte.
func checkClaims(claims string) error {
	if claims == "" || len(claims) > maxClaims {
		return errClaimsSize
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(claims)
	if err != nil || base64.RawURLEncoding.EncodedLen(len(raw)) != len(claims) { // the decoder skips line breaks
		return errClaimsForm
	}
	if members, err := strictjson.Members(raw); err != nil || len(members) == 0 {
		return errClaimsForm
	}
	return nil
}
