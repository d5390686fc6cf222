// Package keyfile explains why a file holds no usable key: what the file is instead, and which command converts it.
//
// Parsers of keys call Private or Public only after they have failed, so a good file costs nothing. The answer never
// quotes the file. Package keyfile is pure: it imports only the standard library.
package keyfile

import (
	"bytes"
	"encoding/pem"
	"strings"
)

// Error is what is wrong with a file.
type Error struct {
	// What the file is, in words that follow its name: "is encrypted".
	What string
	// Fix is what to do about it, in which FILE is the file, and KEY.pem the one to use instead. It may be empty.
	Fix string
}

// Error implements error.
func (e *Error) Error() string {
	if e.Fix == "" {
		return e.What
	}
	return e.What + ": " + e.Fix
}

// The fixes of several problems.
const (
	pickKey   = "`openssl pkey -in FILE -out KEY.pem` copies the private key alone"
	useKey    = "name the file with the private key"
	noPEM     = "is not PEM"
	decrypt   = "`openssl pkey -in FILE -out KEY.pem` asks for the password and decrypts it"
	fromDER   = "`openssl pkey -inform DER -in FILE -out KEY.pem` converts it"
	unescape  = `write them as line breaks: ` + "`sed 's/\\\\n/\\n/g' FILE > KEY.pem`"
	splitLine = "split it: `sed 's/-\\{5\\}BEGIN [A-Z ]*-\\{5\\}/&\\n/g; s/-\\{5\\}END/\\n&/g' FILE > KEY.pem`"
)

var begin, end = []byte("-----BEGIN "), []byte("-----END ")

// form explains why data has no PEM block; nil if it has one.
func form(data []byte) *Error {
	if e := encoding(data); e != nil {
		return e
	}
	if block, _ := pem.Decode(data); block != nil {
		return nil
	}
	at := bytes.Index(data, begin)
	if at < 0 {
		return foreign(data)
	}
	line := data[bytes.LastIndexByte(data[:at], '\n')+1 : at]
	body := data[at:]
	if stop := bytes.Index(body, end); stop >= 0 {
		body = body[:stop]
	}
	switch {
	case bytes.Contains(body, []byte(`\n`)):
		return &Error{`has the two characters \n where lines should end`, unescape}
	case !bytes.ContainsAny(body, "\r\n"):
		return &Error{"has its PEM block on one line", splitLine}
	case !bytes.Contains(body, []byte("\n")):
		return &Error{"ends its lines as old Macintoshes did", "`tr '\\r' '\\n' < FILE > KEY.pem` converts it"}
	case len(line) > 0 && len(bytes.TrimSpace(line)) == 0:
		return &Error{"is indented", "take the blanks away: `sed 's/^[[:blank:]]*//' FILE > KEY.pem`"}
	case len(line) > 0:
		return &Error{"has something before its PEM block, on the same line", "remove what comes before the dashes"}
	case !bytes.Contains(data[at:], end):
		return &Error{"ends before its PEM block does", "copy the whole file again"}
	}
	return &Error{"has a broken PEM block", "copy the file again"}
}

// encoding recognizes what text editors and shells do to a file.
func encoding(data []byte) *Error {
	switch {
	case len(bytes.TrimSpace(data)) == 0:
		return &Error{What: "is empty"}
	case bytes.HasPrefix(data, []byte("\xef\xbb\xbf")):
		return &Error{"begins with a byte order mark", "take it away: `tail -c +4 FILE > KEY.pem`"}
	case bytes.HasPrefix(data, []byte("\xff\xfe")), bytes.HasPrefix(data, []byte("\xfe\xff")):
		return &Error{"is text in UTF-16", "`iconv -f UTF-16 -t UTF-8 FILE > KEY.pem` converts it"}
	}
	return nil
}

// foreign explains data without any trace of PEM.
func foreign(data []byte) *Error {
	text := string(bytes.TrimSpace(data))
	switch {
	case strings.HasPrefix(text, "LS0tLS1CRUdJTi"): // -----BEGIN
		return &Error{"is PEM in base64", "`base64 -d FILE > KEY.pem` decodes it"}
	case strings.HasPrefix(text, "{"):
		return &Error{"is JSON, such as a JWK or the key file of a service account", "write its key as PEM"}
	case strings.HasPrefix(text, "ssh-"), strings.HasPrefix(text, "ecdsa-sha2-"):
		return &Error{"is the public key of SSH", useKey}
	case strings.HasPrefix(text, "PuTTY-User-Key-File-"):
		return &Error{"is a key of PuTTY", "`puttygen FILE -O private-openssh -o KEY.pem` converts it, and then " + fromSSH}
	}
	if kind := kindOfDER(data); kind != "" {
		return &Error{"is " + kind + " in DER", fixOfDER[kind]}
	}
	return &Error{noPEM, "a key begins with a line of five dashes and the words BEGIN PRIVATE KEY"}
}
