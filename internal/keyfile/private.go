package keyfile

import (
	"bytes"
	"encoding/pem"
	"strings"
)

// fromSSH converts a private key of OpenSSH in place, which is why it is copied first.
const fromSSH = "`cp FILE KEY.pem; ssh-keygen -p -N '' -m PKCS8 -f KEY.pem` converts it"

// Private explains why data holds no private key, or one that cannot be used. It is for data that a parser has refused:
// its answer about a good key is meaningless.
func Private(data []byte) *Error {
	if e := form(data); e != nil {
		return e
	}
	block, rest := pem.Decode(data)
	if block.Type == "EC PARAMETERS" {
		next, after := pem.Decode(rest)
		if next == nil {
			return &Error{"holds the parameters of a key, and no key", useKey}
		}
		block, rest = next, after
	}
	if e := notPrivate(block, rest); e != nil {
		return e
	}
	if e := follows(rest); e != nil {
		return e
	}
	return kindOfKey(block)
}

// notPrivate explains a block that is not an unencrypted private key.
func notPrivate(block *pem.Block, rest []byte) *Error {
	switch kind := block.Type; {
	case kind == "ENCRYPTED PRIVATE KEY", strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
		return &Error{"is encrypted", decrypt}
	case kind == "OPENSSH PRIVATE KEY":
		return &Error{"is a private key in the format of OpenSSH", fromSSH}
	case strings.HasSuffix(kind, "PRIVATE KEY"):
		return nil
	case bytes.Contains(rest, []byte("PRIVATE KEY-----")):
		return &Error{"holds something else before its private key", pickKey}
	case strings.HasSuffix(kind, "PUBLIC KEY"):
		return &Error{"is a public key, where a private key is wanted", useKey}
	case strings.Contains(kind, "CERTIFICATE"):
		return &Error{"is a certificate, where a private key is wanted", useKey}
	}
	return &Error{"is PEM of another type than a private key", useKey}
}

// follows explains what comes after the key.
func follows(rest []byte) *Error {
	switch another, _ := pem.Decode(rest); {
	case len(bytes.TrimSpace(rest)) == 0:
		return nil
	case another == nil:
		return &Error{"has something after its PEM block", pickKey}
	case strings.HasSuffix(another.Type, "PRIVATE KEY"):
		return &Error{"holds several private keys", "put each into a separate file"}
	}
	return &Error{"holds something else after its private key", pickKey}
}
