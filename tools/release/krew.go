package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"text/template"
)

// krewTemplate is the manifest of the plugin without what a release has of its own.
const krewTemplate = "deploy/krew/keyturn.yaml"

// krewPlatform is a platform of the manifest.
type krewPlatform struct{ OS, Arch, Archive, SHA256 string }

// krew writes the manifest by which `kubectl krew install` gets the plugin, and has krew's own program check it.
func (r *release) krew(ctx context.Context) error {
	raw, err := os.ReadFile(krewTemplate)
	if err != nil {
		return err
	}
	manifest, err := template.New(krewTemplate).Option("missingkey=error").Parse(string(raw))
	if err != nil {
		return err
	}
	var platforms []krewPlatform
	for _, p := range r.platforms {
		name := r.archiveName("kubectl-keyturn", p)
		sum, err := sumOf(filepath.Join(r.out, name))
		if err != nil {
			return err
		}
		platforms = append(platforms, krewPlatform{p.os, p.arch, name, fmt.Sprintf("%x", sum)})
	}
	var out bytes.Buffer
	if err := manifest.Execute(&out, map[string]any{"Version": r.version, "Platforms": platforms}); err != nil {
		return err
	}
	const name = "keyturn.yaml"
	if err := r.write(name, out.Bytes()); err != nil {
		return err
	}
	return r.command(ctx, nil, r.validate, "-skip-install", "-manifest", filepath.Join(r.out, name))
}
