package v1alpha1

import "embed"

// Manifests holds, in the directory "manifests", what an admin cluster needs before a controller can run on it: the
// namespace, the CustomResourceDefinition, the admission policies and the controller's roles. Every file is a stream of
// YAML documents. Server-side apply of the files in order of their names installs or updates everything. The policies
// take effect a moment after they are applied.
//
//go:embed manifests/*.yaml
var Manifests embed.FS
