package probe

import (
	"encoding/json"
	"errors"
	"fmt"
)

// credentials is a credentials file of Google's libraries of the type external_account (AIP-4117), limited to what the
// probe writes and reads.
type credentials struct {
	Type             string           `json:"type"`
	UniverseDomain   string           `json:"universe_domain,omitempty"`
	Audience         string           `json:"audience"`
	SubjectTokenType string           `json:"subject_token_type"`
	TokenURL         string           `json:"token_url"`
	Source           credentialSource `json:"credential_source"`
}

// credentialSource is the source of the token. Google's libraries also know other sources than a file, and other
// formats.
type credentialSource struct {
	File          string           `json:"file"`
	EnvironmentID string           `json:"environment_id,omitempty"`
	Format        credentialFormat `json:"format,omitzero"`
}

type credentialFormat struct {
	Type string `json:"type"`
}

// parseCredentials reads a credentials file. Google's library does not check it, and would also run commands that it
// names.
func parseCredentials(content []byte) (credentials, error) {
	var c credentials
	if err := json.Unmarshal(content, &c); err != nil {
		return credentials{}, err
	}
	switch {
	case c.Type != "external_account":
		return credentials{}, fmt.Errorf("type %q is not external_account", c.Type)
	case c.Source.File == "" || c.Source.EnvironmentID != "":
		return credentials{}, errors.New("credential_source is not a file")
	case c.Source.Format.Type != "" && c.Source.Format.Type != "text":
		return credentials{}, fmt.Errorf("format %q of credential_source is not text", c.Source.Format.Type)
	}
	return c, nil
}
