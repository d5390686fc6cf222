#!/usr/bin/env bash
# Checks that docs/dependencies.md says what each direct dependency is for, and names no other module.
set -euo pipefail
cd "$(dirname "$0")/.."

direct=$(go list -m -f '{{if not (or .Indirect .Main)}}{{.Path}}{{end}}' all)
status=0
for module in $direct; do
	grep -qF "\`$module\`" docs/dependencies.md || {
		echo "docs/dependencies.md does not say what $module is for" >&2
		status=1
	}
done
for module in $(grep -oE '`[a-z0-9.]+\.[a-z]+/[^`]+`' docs/dependencies.md | tr -d '`'); do
	grep -qxF "$module" <<<"$direct" || {
		echo "docs/dependencies.md names $module, which is no direct dependency" >&2
		status=1
	}
done
exit $status
