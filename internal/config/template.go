package config

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed template.yaml
var template string

// Template returns a commented configuration file that is valid without changes. An empty version means DefaultVersion.
// An invalid name or version is an error.
func Template(name, version string) ([]byte, error) {
	if version == "" {
		version = DefaultVersion
	}
	if !namePattern.MatchString(name) {
		return nil, fmt.Errorf("cluster name %q %s", name, nameRule)
	}
	if _, err := kubernetesVersion(version); err != nil {
		return nil, fmt.Errorf("version %w", err)
	}
	return []byte(strings.NewReplacer("${NAME}", name, "${VERSION}", version).Replace(template)), nil
}
