// Package hsm opens private keys that are in PKCS #11 tokens: hardware security modules, smart cards, SoftHSM.
//
// A key is named by a URI (RFC 7512) with these attributes, and no others:
//
//	pkcs11:token=LABEL;object=LABEL;id=%01%02?pin-source=FILE
//
// token is needed, and object or id or both; serial, manufacturer and model may narrow the token down. pin-source names a file of the key
// directory, and not, as the RFC has it, any path or URL. pin-value is refused, as are module-name and module-path: which code is loaded
// into the process that signs is for its command line to say, not for whoever may replace keys.
//
// Module is where to start. It needs a build with cgo; without it everything fails with ErrNotBuilt, and the rest of the
// program is a static binary. A private key never leaves its token: Module.Generate makes it there, marked sensitive and not extractable, and
// Module.Destroy destroys it there.
package hsm

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// ErrNotBuilt says that this program cannot use PKCS #11 at all.
var ErrNotBuilt = errors.New("built without PKCS#11\nhint: build keyturn-signer with CGO_ENABLED=1, or keep the key in a file")

// ErrExists says that there is a key already where one was to be generated.
var ErrExists = errors.New("there is a key of this name in the PKCS #11 token already")

// uri is what a PKCS #11 URI says, decoded.
type uri struct {
	token, serial, manufacturer, model string
	object, id                         string
	pinSource                          string
}

// parseURI reads a URI strictly: an attribute that is not known might be one that tells two keys apart.
func parseURI(raw string) (uri, error) {
	var u uri
	rest, ok := strings.CutPrefix(raw, "pkcs11:")
	if !ok {
		return u, errors.New(`PKCS #11 URI: it does not begin with "pkcs11:"`)
	}
	path, query, _ := strings.Cut(rest, "?")
	known := map[string]*string{
		"token": &u.token, "serial": &u.serial, "manufacturer": &u.manufacturer, "model": &u.model, "object": &u.object, "id": &u.id,
	}
	if err := fill(known, path, ";"); err != nil {
		return u, err
	}
	if query != "" {
		if err := fill(map[string]*string{"pin-source": &u.pinSource}, query, "&"); err != nil {
			return u, err
		}
	}
	if u.token == "" || u.object == "" && u.id == "" {
		return u, errors.New("PKCS #11 URI: it needs token, and object or id")
	}
	return u, nil
}

func fill(known map[string]*string, attributes, separator string) error {
	for attribute := range strings.SplitSeq(attributes, separator) {
		name, value, _ := strings.Cut(attribute, "=")
		target, ok := known[name]
		if !ok {
			return fmt.Errorf("PKCS #11 URI: attribute %q is not allowed here", name)
		}
		plain, err := url.PathUnescape(value)
		if err != nil || plain == "" || *target != "" {
			return fmt.Errorf("PKCS #11 URI: attribute %s is empty, not well encoded, or there twice", name)
		}
		*target = plain
	}
	return nil
}
