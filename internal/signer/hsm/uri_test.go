package hsm

import (
	"strings"
	"testing"
)

func TestParseURI(t *testing.T) {
	got, err := parseURI("pkcs11:token=my%20token;serial=1;object=ksa-1;id=%01%ff?pin-source=hsm.pin")
	want := uri{token: "my token", serial: "1", object: "ksa-1", id: "\x01\xff", pinSource: "hsm.pin"}
	if err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
}

func TestParseURIRefuses(t *testing.T) {
	for raw, reason := range map[string]string{
		"":                                        "does not begin",
		"token=t;object=o":                        "does not begin",
		"pkcs11:token=t":                          "needs token, and object or id",
		"pkcs11:object=o":                         "needs token, and object or id",
		"pkcs11:token=t;object=o;slot-id=1":       `"slot-id" is not allowed`,
		"pkcs11:token=t;object=":                  "object is empty",
		"pkcs11:token=t;object=a;object=b":        "there twice",
		"pkcs11:token=t;object=%zz":               "not well encoded",
		"pkcs11:token=t;object=o?pin-value=1234":  `"pin-value" is not allowed`,
		"pkcs11:token=t;object=o?module-path=/so": `"module-path" is not allowed`,
	} {
		_, err := parseURI(raw)
		if err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: %v, want it to say %q", raw, err, reason)
		}
		if err != nil && strings.Contains(err.Error(), "1234") {
			t.Errorf("%q: the error tells the PIN", raw)
		}
	}
}
