package pkcs11uri

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for raw, want := range map[string]URI{
		"pkcs11:token=my%20token;serial=1;object=ksa-1;id=%01%ff?pin-source=hsm.pin": {
			Token: "my token", Serial: "1", Object: "ksa-1", ID: "\x01\xff", PINSource: "hsm.pin",
		},
		"pkcs11:model=m;manufacturer=f;id=1;token=t": {Token: "t", Manufacturer: "f", Model: "m", ID: "1"},
		"pkcs11:token=t;object=o":                    {Token: "t", Object: "o"},
		"pkcs11:token=t;object=o?pin-source=a%2fb":   {Token: "t", Object: "o", PINSource: "a/b"},
	} {
		if got, err := Parse(raw); err != nil || got != want {
			t.Errorf("%s: %+v, %v; want %+v", raw, got, err, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for raw, reason := range map[string]string{
		"":                                  "does not begin",
		"token=t;object=o":                  "does not begin",
		"pkcs11:":                           `attribute "" is not allowed`,
		"pkcs11:token=t":                    "needs token, and object or id",
		"pkcs11:object=o":                   "needs token, and object or id",
		"pkcs11:token=t;object=o;slot-id=1": `"slot-id" is not allowed`,
		"pkcs11:token=t;object=o;slot-id=1?pin-source=p": `"slot-id" is not allowed`,
		"pkcs11:token=t;object=":                         "object is empty",
		"pkcs11:token=t;object=a;object=b":               "there twice",
		"pkcs11:token=t;object=%zz":                      "not well encoded",
		"pkcs11:token=t;object=o?":                       `attribute "" is not allowed`,
		"pkcs11:token=t;object=o?pin-value=1234":         `"pin-value" is not allowed`,
		"pkcs11:token=t;object=o?module-path=/so":        `"module-path" is not allowed`,
		"pkcs11:token=t;object=o;pin-source=p":           `"pin-source" is not allowed`,
		"pkcs11:token=t;object=o?pin-source=%zz1234":     "not well encoded",
		"pkcs11:token=t;object=o?pin-source=p&object=":   `"object" is not allowed`,
	} {
		got, err := Parse(raw)
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: %v, want it to say %q", raw, err, reason)
		}
		if got != (URI{}) {
			t.Errorf("%q: an error and %+v", raw, got)
		}
		if err != nil && strings.Contains(err.Error(), "1234") {
			t.Errorf("%q: the error shows the PIN", raw)
		}
	}
}
