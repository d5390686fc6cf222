package keydir

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keyturn/keyturn/internal/strictjson"
)

// manifest is keys.json.
type manifest struct {
	SigningVersion             int             `json:"signingVersion"`
	RefreshHintSeconds         int64           `json:"refreshHintSeconds"`
	RotationRefreshHintSeconds int64           `json:"rotationRefreshHintSeconds,omitempty"`
	LeadInSeconds              int64           `json:"leadInSeconds,omitempty"`
	MaxTokenExpirationSeconds  int64           `json:"maxTokenExpirationSeconds"`
	Keys                       []manifestEntry `json:"keys"`
}

type manifestEntry struct {
	Version                  int    `json:"version"`
	Public                   string `json:"public"`
	Private                  string `json:"private,omitempty"`
	PKCS11                   string `json:"pkcs11,omitempty"`
	VerifyOnly               bool   `json:"verifyOnly,omitempty"`
	ExcludeFromOIDCDiscovery bool   `json:"excludeFromOIDCDiscovery,omitempty"`
}

// parseManifest reads keys.json. It refuses unknown members.
func parseManifest(data []byte) (manifest, error) {
	var m manifest
	var keys []json.RawMessage
	err := decode(data, map[string]any{
		"signingVersion":             &m.SigningVersion,
		"refreshHintSeconds":         &m.RefreshHintSeconds,
		"rotationRefreshHintSeconds": &m.RotationRefreshHintSeconds,
		"leadInSeconds":              &m.LeadInSeconds,
		"maxTokenExpirationSeconds":  &m.MaxTokenExpirationSeconds,
		"keys":                       &keys,
	})
	if err != nil {
		return m, err
	}
	for i, raw := range keys {
		var e manifestEntry
		err := decode(raw, map[string]any{
			"version":                  &e.Version,
			"public":                   &e.Public,
			"private":                  &e.Private,
			"pkcs11":                   &e.PKCS11,
			"verifyOnly":               &e.VerifyOnly,
			"excludeFromOIDCDiscovery": &e.ExcludeFromOIDCDiscovery,
		})
		if err != nil {
			return m, fmt.Errorf("keys[%d]: %w", i, err)
		}
		m.Keys = append(m.Keys, e)
	}
	return m, nil
}

// decode reads the members of an object. Its errors do not include those of encoding/json, which may quote a value.
func decode(data []byte, into map[string]any) error {
	members, err := strictjson.Members(data)
	if err != nil {
		return err
	}
	for name, raw := range members {
		target, known := into[name]
		if !known {
			return fmt.Errorf("member %q is not known", name)
		}
		if string(raw) == "null" || json.Unmarshal(raw, target) != nil {
			return fmt.Errorf("member %q has a value of the wrong kind", name)
		}
	}
	return nil
}

// set returns the set of the manifest, without the content of other files.
func (m manifest) set() Set {
	return Set{
		SigningVersion:      m.SigningVersion,
		RefreshHint:         seconds(m.RefreshHintSeconds),
		RotationRefreshHint: m.rotationHint(),
		LeadIn:              seconds(m.LeadInSeconds),
		MaxTokenExpiration:  seconds(m.MaxTokenExpirationSeconds),
	}
}

func (m manifest) rotationHint() time.Duration {
	if m.RotationRefreshHintSeconds != 0 {
		return seconds(m.RotationRefreshHintSeconds)
	}
	return min(seconds(m.RefreshHintSeconds), DefaultRotationRefreshHint)
}

// seconds converts without overflow. What is too long stays too long.
func seconds(n int64) time.Duration {
	limit := int64(2 * maxExpiration / time.Second)
	return time.Duration(max(-1, min(n, limit))) * time.Second
}

var errName = errors.New("not the name of a file of the directory")

// checkName refuses names that lead out of the directory, and hidden ones, which are reserved for replacing it.
func checkName(name string) error {
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\\\x00\n") {
		return fmt.Errorf("%q is %w", name, errName)
	}
	return nil
}
