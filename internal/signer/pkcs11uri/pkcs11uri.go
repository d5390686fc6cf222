// Package pkcs11uri parses the URIs (RFC 7512) that name keys of PKCS #11 tokens in a key directory.
//
// A URI has these attributes, and no others:
//
//	pkcs11:token=LABEL;object=LABEL;id=%01%02?pin-source=FILE
//
// token is required, and object or id or both; serial, manufacturer and model may select the token further. pin-source
// names a file of the key directory and not, as in the RFC, any path or URL. pin-value is refused, and so are
// module-name and module-path: the command line of the signing process chooses the code that it loads, not whoever may
// replace keys.
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
	// PINSource is the file of the key directory with the PIN; empty if there is none.
	PINSource string
}

// Parse parses a URI strictly, since an unknown attribute might distinguish two keys. No error quotes a value.
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
