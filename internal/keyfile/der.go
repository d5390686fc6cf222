package keyfile

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"slices"
)

// What DER can be, and what to do about it.
const (
	privateKey  = "a private key"
	publicKey   = "a public key"
	certificate = "a certificate"
)

var fixOfDER = map[string]string{privateKey: fromDER, publicKey: useKey, certificate: useKey}

// kindOfDER describes what DER holds; empty if it is nothing known.
func kindOfDER(data []byte) string {
	if _, err := x509.ParseCertificate(data); err == nil {
		return certificate
	}
	if _, err := x509.ParsePKIXPublicKey(data); err == nil {
		return publicKey
	}
	if _, err := x509.ParsePKCS1PublicKey(data); err == nil {
		return publicKey
	}
	var key struct {
		Version int
		Rest    asn1.RawValue `asn1:"optional"`
	}
	// PKCS #8, PKCS #1 and SEC 1 are sequences that begin with a small number.
	if _, err := asn1.Unmarshal(data, &key); err == nil && key.Version <= 2 && len(data) > 32 {
		return privateKey
	}
	return ""
}

var (
	oidRSA   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
	oidPSS   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 10}
	oidEC    = asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	namedECs = []asn1.ObjectIdentifier{{1, 2, 840, 10045, 3, 1, 7}, {1, 3, 132, 0, 34}} // P-256, P-384
)

// broken is a key of a supported kind that cannot be parsed.
var broken = &Error{"holds a private key that is broken", "copy the file again"}

// kindOfKey explains an unencrypted private key that cannot sign tokens.
func kindOfKey(block *pem.Block) *Error {
	switch block.Type {
	case "PRIVATE KEY":
		var key struct {
			Version   int
			Algorithm pkix.AlgorithmIdentifier
			Key       []byte
			Rest      asn1.RawValue `asn1:"optional"`
		}
		if _, err := asn1.Unmarshal(block.Bytes, &key); err != nil {
			return broken
		}
		return kindOfAlgorithm(key.Algorithm)
	case "EC PRIVATE KEY":
		var key struct {
			Version int
			Key     []byte
			Curve   asn1.RawValue  `asn1:"optional,explicit,tag:0"`
			Public  asn1.BitString `asn1:"optional,explicit,tag:1"`
		}
		if _, err := asn1.Unmarshal(block.Bytes, &key); err != nil {
			return broken
		}
		return kindOfCurve(key.Curve.Bytes)
	case "RSA PRIVATE KEY":
		return broken
	}
	return unusable
}

// unusable is a key of an unsupported kind.
var unusable = &Error{
	"holds a private key that is neither RSA nor ECDSA", "make one with `openssl genrsa -out KEY.pem 2048`",
}

func kindOfAlgorithm(a pkix.AlgorithmIdentifier) *Error {
	switch {
	case a.Algorithm.Equal(oidRSA):
		return broken
	case a.Algorithm.Equal(oidPSS):
		return &Error{"holds an RSA-PSS key, which signs no RS256", unusable.Fix}
	case a.Algorithm.Equal(oidEC):
		return kindOfCurve(a.Parameters.FullBytes)
	}
	return unusable
}

// kindOfCurve explains an elliptic curve, as the parameters of a key.
func kindOfCurve(parameters []byte) *Error {
	var spelled asn1.RawValue
	var curve asn1.ObjectIdentifier
	if _, err := asn1.Unmarshal(parameters, &spelled); err == nil && spelled.Tag == asn1.TagSequence {
		return &Error{"spells out its elliptic curve instead of naming it",
			"`openssl ec -in FILE -param_enc named_curve -out KEY.pem` converts it"}
	}
	if _, err := asn1.Unmarshal(parameters, &curve); err != nil {
		return broken
	}
	if slices.ContainsFunc(namedECs, curve.Equal) {
		return broken
	}
	return &Error{"holds a key of an elliptic curve that is neither P-256 nor P-384",
		"make one with `openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem`"}
}
