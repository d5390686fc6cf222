// Package pkcs11uri reads the URIs (RFC 7512) by which a key directory names keys in PKCS #11 tokens.
//
// A URI has these attributes, and no others:
//
//	pkcs11:token=LABEL;object=LABEL;id=%01%02?pin-source=FILE
//
// token is needed, and object or id or both; serial, manufacturer and model may narrow the token down. pin-source names
// a file of the key directory, and not, as the RFC has it, any path or URL. pin-value is refused, as are module-name
// and module-path: the command line of the process that signs chooses the code it loads, not whoever may replace keys.
package pkcs11uri

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// URI is a parsed URI. It is comparable.
type URI struct {
	// Token, Serial, Manufacturer and Model name the token. All but Token may be empty.
	Token, Serial, Manufacturer, Model string
	// Object is the label of the key, and ID its identifier, in bytes. One of them may be empty.
	Object, ID string
	// PINSource is the file of the key directory that holds the PIN; empty without one.
	PINSource string
}

// Parse reads a URI strictly: an attribute that is not known might be one that tells two keys apart. No error quotes a
// value.
func Parse(raw string) (URI, error) {
	u, err := parse(raw)
	if err != nil {
		return URI{}, fmt.Errorf("PKCS #11 URI: %w", err)
	}
	return u, nil
}

func parse(raw string) (u URI, err error) {
	rest, ok := strings.CutPrefix(raw, "pkcs11:")
	if !ok {
		return u, errors.New(`it does not begin with "pkcs11:"`)
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	err = fill(map[string]*string{
		"token": &u.Token, "serial": &u.Serial, "manufacturer": &u.Manufacturer, "model": &u.Model, "object": &u.Object,
		"id": &u.ID,
	}, path, ";")
	if err == nil && hasQuery {
		err = fill(map[string]*string{"pin-source": &u.PINSource}, query, "&")
	}
	if err == nil && (u.Token == "" || u.Object == "" && u.ID == "") {
		err = errors.New("it needs token, and object or id")
	}
	return u, err
}

func fill(known map[string]*string, attributes, separator string) error {
	for attribute := range strings.SplitSeq(attributes, separator) {
		name, value, _ := strings.Cut(attribute, "=")
		target, ok := known[name]
		if !ok {
			return fmt.Errorf("attribute %q is not allowed here", name)
		}
		plain, err := url.PathUnescape(value)
		if err != nil || plain == "" || *target != "" {
			return fmt.Errorf("attribute %s is empty, not well encoded, or there twice", name)
		}
		*target = plain
	}
	return nil
}
