package keyfile

import (
	"bytes"
	"encoding/pem"
	"strings"
)

// Public explains why data holds no public key in PKIX form. It is for data that a parser has refused.
func Public(data []byte) *Error {
	if e := form(data); e != nil {
		return e
	}
	block, rest := pem.Decode(data)
	switch kind := block.Type; {
	case strings.HasSuffix(kind, "PRIVATE KEY"):
		return &Error{"is a private key, where a public key is wanted",
			"`openssl pkey -in FILE -pubout -out KEY.pem` writes its public key"}
	case kind == "RSA PUBLIC KEY":
		return &Error{
			"is a public key in PKCS #1 form", "`openssl rsa -RSAPublicKey_in -in FILE -pubout -out KEY.pem` converts it",
		}
	case kind == "CERTIFICATE":
		return &Error{"is a certificate", "`openssl x509 -in FILE -noout -pubkey > KEY.pem` copies its public key"}
	case kind != "PUBLIC KEY":
		return &Error{"is PEM of another type than a public key", "name the file with the public key"}
	case len(bytes.TrimSpace(rest)) > 0:
		return &Error{"has something after its PEM block", "put each key into a separate file"}
	}
	return &Error{"is not in PKIX form", "`openssl pkey -pubin -in FILE -pubout -out KEY.pem` converts it"}
}
