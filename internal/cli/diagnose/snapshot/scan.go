package snapshot

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

var (
	privateKey = regexp.MustCompile(`-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----`)
	// webToken is three parts of base64url; the first two are JSON objects.
	webToken = regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}`)
	bearer   = regexp.MustCompile(`(?i)\bbearer\s+[A-Za-z0-9._~+/-]{16,}`)
	coded    = regexp.MustCompile(`[A-Za-z0-9+/_-]{40,}={0,2}`)
)

// Scan returns an error that names what secret a content has: a private key or a token, as it is or in base64 or hex.
// It is the last layer, and does not rely on Redact.
func Scan(content []byte) error {
	if what := secretIn(content); what != "" {
		return fmt.Errorf("it has %s", what)
	}
	for _, text := range coded.FindAll(content, -1) {
		for _, decoded := range decode(string(text)) {
			if what := secretIn(decoded); what != "" {
				return fmt.Errorf("it has %s, encoded", what)
			}
			if isKey(decoded) {
				return errors.New("it has a private key in DER, encoded")
			}
		}
	}
	return nil
}

func secretIn(content []byte) string {
	switch {
	case privateKey.Match(content):
		return "a private key in PEM"
	case webToken.Match(content):
		return "a token"
	case bearer.Match(content):
		return "a bearer token"
	}
	return ""
}

// decode returns what a text may be the base64 or the hex of. Another text may stand before it, so it may begin at each
// of four characters.
func decode(text string) (all [][]byte) {
	text = strings.TrimRight(text, "=")
	if raw, err := hex.DecodeString(text); err == nil {
		all = append(all, raw)
	}
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(text)
	for from := range 4 {
		part := standard[from:]
		part = part[:len(part)-len(part)%4]
		if raw, err := base64.StdEncoding.DecodeString(part); err == nil {
			all = append(all, raw)
		}
		if raw, err := base64.RawStdEncoding.DecodeString(standard[from:]); err == nil {
			all = append(all, raw)
		}
	}
	return all
}

// isKey reports whether a private key in DER is in a content.
func isKey(content []byte) bool {
	for at := 0; ; at++ {
		next := bytes.IndexByte(content[at:], 0x30) // a sequence
		if next < 0 {
			return false
		}
		at += next
		der := sequence(content[at:])
		if der == nil {
			continue
		}
		if _, err := x509.ParsePKCS8PrivateKey(der); err == nil {
			return true
		}
		if _, err := x509.ParsePKCS1PrivateKey(der); err == nil {
			return true
		}
		if _, err := x509.ParseECPrivateKey(der); err == nil {
			return true
		}
	}
}

// sequence returns the ASN.1 sequence that a content begins with; nil if it has no whole one of the size of a key.
func sequence(content []byte) []byte {
	if len(content) < 2 {
		return nil
	}
	length, size := int(content[1]), 2
	switch content[1] {
	case 0x81:
		size = 3
	case 0x82:
		size = 4
	}
	if len(content) < size {
		return nil
	}
	if size > 2 {
		length = 0
		for _, b := range content[2:size] {
			length = length<<8 | int(b)
		}
	}
	if size+length > len(content) || size+length < 32 {
		return nil
	}
	return content[:size+length]
}
