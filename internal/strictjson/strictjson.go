// Package strictjson reads the JSON of tokens and keys. encoding/json is too lenient for security: it matches member
// names in any case, and accepts duplicate names, of which the last one counts.
//
// It is pure, like token and jwks, which use it.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"unicode/utf8"
)

// ErrNotObject is the only error of Members. It contains nothing of the input.
var ErrNotObject = errors.New("not a JSON object with unique member names")

// Members splits a JSON object into its members. Names are compared exactly. A duplicate name is an error (RFC 7515,
// section 4; RFC 7517, section 4), and so is anything after the object.
func Members(data []byte) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	if start, err := d.Token(); err != nil || start != json.Delim('{') || !utf8.Valid(data) {
		return nil, ErrNotObject
	}
	all := make(map[string]json.RawMessage)
	for d.More() {
		token, err := d.Token()
		name, isString := token.(string)
		if _, seen := all[name]; err != nil || !isString || seen {
			return nil, ErrNotObject
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, ErrNotObject
		}
		all[name] = value
	}
	if _, err := d.Token(); err != nil {
		return nil, ErrNotObject
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, ErrNotObject
	}
	return all, nil
}

// Text reads a JSON string; false for any other value, including null.
func Text(raw json.RawMessage) (string, bool) {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return "", false
	}
	return s, true
}
